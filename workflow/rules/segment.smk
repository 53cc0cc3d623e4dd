# Downstream: one training and one table of scores per arm, k, n, fold and seed.
RUN = f"{R}/segment/arm-{{arm}}_k-{{k}}_n-{{n}}_fold-{{fold}}_seed-{{seed}}"
RUN_NAME = "arm-{arm}_k-{k}_n-{n}_fold-{fold}_seed-{seed}"


rule segment:
    input:
        real=lambda wildcards: [
            path for s in TRAIN[: int(wildcards.k)] + VALIDATION for path in case(s)
        ],
        test=[path for s in TEST for path in case(s)[:-1]],
        sidecars=synthetic,
    output:
        [f"{RUN}/sub-{s}_space-{S}_desc-pred_dseg.nii.gz" for s in TEST],
        model=f"{RUN}/model.pt",
        history=f"{RUN}/training.csv",
    log:
        f"{R}/logs/segment/{RUN_NAME}.log",
    benchmark:
        f"{R}/benchmarks/segment/{RUN_NAME}.tsv"
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
        train=lambda wildcards: TRAIN[: int(wildcards.k)],
        validation=["--validation", *VALIDATION] if VALIDATION else "",
        test=TEST,
        samples=listed(f"segment/{RUN_NAME}"),
        results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
        out=lambda wildcards, output: str(Path(output.model).parent),
    shell:
        "python -m tumorfab.segment --results {params.results} --train {params.train}"
        " --samples @{params.samples} {params.validation} --test {params.test} --label {params.label}"
        " --modality {params.modalities} --seed {params.seed} --repeat {wildcards.seed}"
        " --threads {threads} --params {params.section:q} --out {params.out} > {log} 2>&1"


rule score:
    input:
        predicted=[f"{RUN}/sub-{s}_space-{S}_desc-pred_dseg.nii.gz" for s in TEST],
        annotated=[case(s)[-1] for s in TEST],
    output:
        f"{RUN}/scores.csv",
    log:
        f"{R}/logs/score/{RUN_NAME}.log",
    benchmark:
        f"{R}/benchmarks/score/{RUN_NAME}.tsv"
    conda:
        ENV
    params:
        code=code("score"),
        cases=lambda wildcards, input: [
            f"--case {s} {p} {a}"
            for s, p, a in zip(TEST, input.predicted, input.annotated)
        ],
    shell:
        "python -m tumorfab.score {params.cases} --arm {wildcards.arm} --k {wildcards.k}"
        " --n {wildcards.n} --fold {wildcards.fold} --seed {wildcards.seed} --out {output}"
        " > {log} 2>&1"
