# The embedded phantom cohort, and the check of whatever cohort is used.
if config["healthy"]["source"] == "demo":

    rule demo_healthy:
        output:
            [
                f"{R}/demo/healthy/sub-{{name}}/anat/sub-{{name}}_{m}.nii.gz"
                for m in MODALITIES
            ],
        log:
            f"{R}/logs/demo_healthy/{{name}}.log",
        benchmark:
            f"{R}/benchmarks/demo_healthy/{{name}}.tsv"
        conda:
            ENV
        params:
            code=code("demo"),
            modalities=MODALITIES,
            seed=config["seed"],
            spacing=config["demo"]["spacing"],
            out=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "python -m tumorfab.demo --cohort healthy --subject {wildcards.name} --seed {params.seed}"
            " --spacing {params.spacing} --modalities {params.modalities} --out {params.out}"
            " > {log} 2>&1"

    rule demo_annotated:
        output:
            [
                f"{R}/demo/annotated/{{name}}/{{name}}-{suffix}.nii.gz"
                for suffix in (*[plan.DEMO_SUFFIX[m] for m in MODALITIES], "seg")
            ],
        log:
            f"{R}/logs/demo_annotated/{{name}}.log",
        benchmark:
            f"{R}/benchmarks/demo_annotated/{{name}}.tsv"
        conda:
            ENV
        params:
            code=code("demo"),
            modalities=MODALITIES,
            seed=config["seed"],
            spacing=config["demo"]["spacing"],
            out=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "python -m tumorfab.demo --cohort annotated --subject {wildcards.name}"
            " --seed {params.seed} --spacing {params.spacing} --modalities {params.modalities}"
            " --out {params.out} > {log} 2>&1"


# A cohort of files is checked when the workflow is planned (plan.subjects) and this rule's outputs
# exist by then; the demo's files must be made first.
rule ingest:
    input:
        lambda wildcards: sorted(
            row[column]
            for row in subjects.values()
            for column in (*MODALITIES, "seg")
            if row[column]
        ),
    output:
        subjects=f"{R}/cohort/subjects.tsv",
        skipped=f"{R}/cohort/skipped.tsv",
    log:
        f"{R}/logs/ingest.log",
    benchmark:
        f"{R}/benchmarks/ingest.tsv"
    conda:
        ENV
    threads: 2
    params:
        code=code("ingest"),
        config=json.dumps(plan.ingest_params(config), sort_keys=True),
    shell:
        "python -m tumorfab.ingest --params {params.config:q} --subjects {output.subjects}"
        " --skipped {output.skipped} --threads {threads} > {log} 2>&1"
