# nnU-Net v2 in the place of the package's own network: one training per arm, k, n, fold and seed.


# One rule per fold, since its outputs are the predictions of the fold's test cases.
for fold, parts in enumerate(FOLDS):

    rule:
        name:
            "nnunet" if len(FOLDS) == 1 else f"nnunet_{fold}"
        input:
            real=lambda wildcards: [
                path
                for s in donors(wildcards) + fold_of(wildcards).validation
                for path in case(s)
            ],
            test=[path for s in parts.test for path in case(s)[:-1]],
            sidecars=synthetic,
            gate=verdicts_of,
        output:
            [f"{RUN}/sub-{s}_space-{S}_desc-pred_dseg.nii.gz" for s in parts.test],
            history=f"{RUN}/training.csv",
        log:
            f"{R}/logs/nnunet/{RUN_NAME}.log",
        benchmark:
            f"{R}/benchmarks/nnunet/{RUN_NAME}.tsv"
        wildcard_constraints:
            fold=str(fold),
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=growing(16000),
            runtime=growing(2880),
        params:
            code=code("nnunet"),
            section=section("nnunet"),
            share=config["segment"]["synthetic_share"],
            label=S,
            modalities=MODALITIES,
            train=donors,
            validation=["--validation", *parts.validation] if parts.validation else "",
            test=parts.test,
            samples=listed(f"nnunet/{RUN_NAME}"),
            gate=lambda wildcards, input: f"--gate {input.gate}" if input.gate else "",
            results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
            out=lambda wildcards, output: str(Path(output.history).parent),
        shell:
            "python -m tumorfab.nnunet --results {params.results} --train {params.train}"
            " --samples @{params.samples} {params.gate} {params.validation} --test {params.test} --label {params.label}"
            " --modality {params.modalities} --threads {threads} --share {params.share}"
            " --params {params.section:q} --out {params.out} > {log} 2>&1"
