# nnU-Net v2 in the place of the package's own network, where the config asks for it.
if config["segment"]["network"] == "nnunet":

    ruleorder: nnunet > segment

    rule nnunet:
        input:
            real=lambda wildcards: [
                path
                for s in TRAIN[: int(wildcards.k)] + VALIDATION
                for path in case(s)
            ],
            test=[path for s in TEST for path in case(s)[:-1]],
            sidecars=synthetic,
            volumes=lambda wildcards: [
                v for path in synthetic(wildcards) for v in volumes(path)
            ],
        output:
            [f"{RUN}/sub-{s}_space-{S}_desc-pred_dseg.nii.gz" for s in TEST],
            history=f"{RUN}/training.csv",
        log:
            f"{R}/logs/nnunet/{RUN_NAME}.log",
        benchmark:
            f"{R}/benchmarks/nnunet/{RUN_NAME}.tsv"
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=16000,
            runtime=2880,
        params:
            code=code("nnunet"),
            section=section("nnunet"),
            share=config["segment"]["synthetic_share"],
            label=S,
            modalities=MODALITIES,
            train=lambda wildcards: TRAIN[: int(wildcards.k)],
            validation=["--validation", *VALIDATION] if VALIDATION else "",
            test=TEST,
            samples=lambda wildcards, input: (
                ["--samples", *input.sidecars] if input.sidecars else ""
            ),
            results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
            out=lambda wildcards, output: str(Path(output.history).parent),
        shell:
            "python -m tumorfab.nnunet --results {params.results} --train {params.train}"
            " {params.samples} {params.validation} --test {params.test} --label {params.label}"
            " --modality {params.modalities} --threads {threads} --share {params.share}"
            " --params {params.section:q} --out {params.out} > {log} 2>&1"
