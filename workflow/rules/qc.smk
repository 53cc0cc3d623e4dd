# Quality of preprocessing: a picture per subject, then one table and page of all.
SUBJECTS = HEALTHY + ANNOTATED


# Loading matplotlib costs more than a picture: one process for a shard of the subjects.
for mosaic_rule, part in batches("mosaic", SUBJECTS, config["compute"]["shards"]):

    rule:
        name:
            mosaic_rule
        input:
            native=[
                f"{R}/sub-{s}/anat/sub-{s}_{name}.nii.gz"
                for s in part
                for name in (f"desc-N4_{MODALITIES[0]}", "desc-brain_mask")
            ],
            analysis=[path for s in part for path in images(s)],
            tumours=[case(s)[-1] for s in part if s in ANNOTATED],
            template=f"{R}/template/template_space-{S}_desc-brain_mask.nii.gz",
        output:
            [picture(s) for s in part],
        log:
            f"{R}/logs/mosaic/{mosaic_rule}.log",
        benchmark:
            f"{R}/benchmarks/mosaic/{mosaic_rule}.tsv"
        conda:
            ENV
        resources:
            mem_mb=growing(2000),
            runtime=growing(60),
        params:
            code=code("mosaic"),
            subjects=listed(f"mosaic/{mosaic_rule}", part),
            label=S,
            results=lambda wildcards, input: str(Path(input.template).parents[1]),
            modalities=MODALITIES,
        shell:
            "python -m tumorfab.mosaic --subject @{params.subjects} --results {params.results}"
            " --label {params.label} --modality {params.modalities} > {log} 2>&1"


rule qc:
    input:
        subjects=rules.ingest.output.subjects,
        evidence=lambda wildcards: [
            f"{R}/sub-{s}/anat/sub-{s}{space}_desc-preproc.json"
            for s in SUBJECTS
            for space in ("", f"_space-{S}")
        ],
        pictures=lambda wildcards: [picture(s) for s in SUBJECTS],
    output:
        page=f"{R}/qc/index.html",
        table=report(
            f"{R}/qc/metrics.tsv",
            caption="../report/quality.rst",
            category="Quality",
        ),
        viewer=f"{R}/qc/viewer.html",
    log:
        f"{R}/logs/qc.log",
    benchmark:
        f"{R}/benchmarks/qc.tsv"
    conda:
        ENV
    params:
        code=code(
            "qc",
            "templates/qc.html.j2",
            "templates/style.css.j2",
            "templates/viewer.html.j2",
            "templates/samples.js",
            "templates/viewer.js",
            "vendor/niivue.js",
        ),
        label=S,
        results=lambda wildcards, input: str(Path(input.subjects).parents[1]),
        out=lambda wildcards, output: str(Path(output.page).parent),
    shell:
        "python -m tumorfab.qc --subjects {input.subjects} --results {params.results}"
        " --label {params.label} --out {params.out} > {log} 2>&1"
