# Downstream: one training per arm, k, n, fold and seed.
# One rule per fold, since its outputs are the predictions of the fold's test cases.
for fold, parts in enumerate(FOLDS):

    rule:
        name:
            "segment" if len(FOLDS) == 1 else f"segment_{fold}"
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
            model=f"{RUN}/model.pt",
            history=f"{RUN}/training.csv",
        log:
            f"{R}/logs/segment/{RUN_NAME}.log",
        benchmark:
            f"{R}/benchmarks/segment/{RUN_NAME}.tsv"
        wildcard_constraints:
            fold=str(fold),
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=growing(8000),
            runtime=growing(720),
        params:
            code=code("segment"),
            section=section("segment"),
            label=S,
            modalities=MODALITIES,
            seed=config["seed"],
            train=donors,
            validation=["--validation", *parts.validation] if parts.validation else "",
            test=parts.test,
            samples=listed(f"segment/{RUN_NAME}"),
            gate=lambda wildcards, input: f"--gate {input.gate}" if input.gate else "",
            shuffled=lambda wildcards: (
                "--shuffled" if wildcards.arm == "shuffled" else ""
            ),
            results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
            out=lambda wildcards, output: str(Path(output.model).parent),
        shell:
            "python -m tumorfab.segment --results {params.results} --train {params.train}"
            " --samples @{params.samples} {params.gate} {params.shuffled} {params.validation} --test {params.test} --label {params.label}"
            " --modality {params.modalities} --seed {params.seed} --repeat {wildcards.seed}"
            " --threads {threads} --params {params.section:q} --out {params.out} > {log} 2>&1"
