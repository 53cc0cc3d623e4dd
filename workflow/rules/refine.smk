# TF-GAN: train the refiner on one set of real training cases, then refine its coarse samples.


rule train_refiner:
    input:
        encoder=config["refiner"]["encoder"] or [],
        bank=lambda wildcards: [
            f"{R}/bank/sub-{s}_rois.json" for s in donors(wildcards)
        ],
        real=lambda wildcards: [path for s in donors(wildcards) for path in case(s)],
        sidecars=learned,
    output:
        model=f"{SETS}/refiner/refiner.pt",
        critic=f"{SETS}/refiner/critic.pt",
        history=f"{SETS}/refiner/training.csv",
    log:
        f"{R}/logs/train_refiner/fold-{{fold}}_k-{{k}}.log",
    benchmark:
        f"{R}/benchmarks/train_refiner/fold-{{fold}}_k-{{k}}.tsv"
    conda:
        ENV
    threads: config["compute"]["threads"]
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(720),
    params:
        code=code("train_refiner"),
        section=section("refiner"),
        label=S,
        modalities=MODALITIES,
        seed=config["seed"],
        donors=donors,
        samples=listed("train_refiner/fold-{fold}_k-{k}"),
        results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
        bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        out=lambda wildcards, output: str(Path(output.model).parent),
    shell:
        "python -m tumorfab.train_refiner --results {params.results} --donor {params.donors}"
        " --bank {params.bank} --samples @{params.samples} --label {params.label}"
        " --modality {params.modalities} --seed {params.seed} --threads {threads}"
        " --params {params.section:q} --out {params.out} > {log} 2>&1"


# Loading torch costs more than refining a sample: one process for a shard of the hosts.
for refine_rule, fold, k, hosts in sets("refine", config["compute"]["shards"]):

    rule:
        name:
            refine_rule
        input:
            model=f"{R}/fold-{fold}_k-{k}/refiner/refiner.pt",
            sidecars=drawn("coarse", fold, k, hosts),
        output:
            with_volumes(drawn("tf", fold, k, hosts)),
        log:
            f"{R}/logs/refine/{refine_rule}.log",
        benchmark:
            f"{R}/benchmarks/refine/{refine_rule}.tsv"
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=growing(6000),
            runtime=growing(120),
        params:
            code=code("refine"),
            modalities=MODALITIES,
            samples=listed(f"refine/{refine_rule}"),
        shell:
            "python -m tumorfab.refine --refiner {input.model} --samples @{params.samples}"
            " --modality {params.modalities} --threads {threads} > {log} 2>&1"
