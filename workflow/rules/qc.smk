# Quality of preprocessing: a picture per subject, then one table and page of all.
SUBJECTS = HEALTHY + ANNOTATED


# One rule per shard: loading matplotlib costs more than a picture.
for shard in sorted({plan.shard(s, config["compute"]["shards"]) for s in SUBJECTS}):
    shard_subjects = [
        s for s in SUBJECTS if plan.shard(s, config["compute"]["shards"]) == shard
    ]

    rule:
        name:
            f"mosaic_{shard}"
        input:
            native=[
                f"{R}/sub-{s}/anat/sub-{s}_{name}.nii.gz"
                for s in shard_subjects
                for name in (f"desc-N4_{MODALITIES[0]}", "desc-brain_mask")
            ],
            analysis=[path for s in shard_subjects for path in images(s)],
            tumours=[case(s)[-1] for s in shard_subjects if s in ANNOTATED],
            template=f"{R}/template/template_space-{S}_desc-brain_mask.nii.gz",
        output:
            [picture(s) for s in shard_subjects],
        log:
            f"{R}/logs/mosaic/shard-{shard}.log",
        benchmark:
            f"{R}/benchmarks/mosaic/shard-{shard}.tsv"
        conda:
            ENV
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            code=code("mosaic"),
            subjects=shard_subjects,
            label=S,
            results=lambda wildcards, input: str(Path(input.template).parents[1]),
            modalities=MODALITIES,
        shell:
            "python -m tumorfab.mosaic --subject {params.subjects} --results {params.results}"
            " --label {params.label} --modality {params.modalities} > {log} 2>&1"


rule qc:
    input:
        subjects=rules.ingest.output.subjects,
        evidence=[
            f"{R}/sub-{s}/anat/sub-{s}{space}_desc-preproc.json"
            for s in SUBJECTS
            for space in ("", f"_space-{S}")
        ],
        pictures=[picture(s) for s in SUBJECTS],
    output:
        page=f"{R}/qc/index.html",
        table=f"{R}/qc/metrics.tsv",
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
