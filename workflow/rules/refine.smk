# TF-GAN: train the refiner on one set of real training cases, then refine its coarse samples.


rule train_refiner:
    input:
        encoder=config["refiner"]["encoder"] or [],
        bank=lambda wildcards: [
            f"{R}/bank/sub-{s}_rois.json" for s in donors(wildcards)
        ],
        real=lambda wildcards: [path for s in donors(wildcards) for path in case(s)],
        sidecars=lambda wildcards: sidecars(
            "coarse", wildcards.fold, wildcards.k, max(config["study"]["n"])
        ),
        volumes=lambda wildcards: [
            volume
            for path in sidecars(
                "coarse", wildcards.fold, wildcards.k, max(config["study"]["n"])
            )
            for volume in volumes(path)
        ],
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
        mem_mb=8000,
        runtime=720,
    params:
        code=code("train_refiner"),
        section=section("refiner"),
        label=S,
        modalities=MODALITIES,
        seed=config["seed"],
        donors=donors,
        results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
        bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        out=lambda wildcards, output: str(Path(output.model).parent),
    shell:
        "python -m tumorfab.train_refiner --results {params.results} --donor {params.donors}"
        " --bank {params.bank} --samples {input.sidecars} --label {params.label}"
        " --modality {params.modalities} --seed {params.seed} --threads {threads}"
        " --params {params.section:q} --out {params.out} > {log} 2>&1"


# One rule per shard: loading torch costs more than refining a sample, and each volume is still a
# file of its own that Snakemake knows.
for fold, shard, shard_hosts in plan.host_shards(
    HOST_SETS, config["compute"]["shards"]
):
    ending, folds = of_fold(fold)

    rule:
        name:
            f"refine_{shard}{ending}"
        input:
            model=rules.train_refiner.output.model,
            sidecars=[
                f"{SETS}/sub-{host}/anat/sub-{host}_space-{S}_desc-coarse{number:03d}.json"
                for host in shard_hosts
                for number in range(DRAWS)
            ],
            volumes=[
                volume
                for host in shard_hosts
                for number in range(DRAWS)
                for volume in volumes(
                    f"{SETS}/sub-{host}/anat/sub-{host}_space-{S}_desc-coarse{number:03d}.json"
                )
            ],
        output:
            [
                path
                for host in shard_hosts
                for number in range(DRAWS)
                for path in with_volumes(
                    [
                        f"{SETS}/sub-{host}/anat/sub-{host}_space-{S}_desc-tf{number:03d}.json"
                    ]
                )
            ],
        log:
            f"{R}/logs/refine/fold-{{fold}}_k-{{k}}_shard-{shard}.log",
        benchmark:
            f"{R}/benchmarks/refine/fold-{{fold}}_k-{{k}}_shard-{shard}.tsv"
        wildcard_constraints:
            fold=folds,
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=6000,
            runtime=120,
        params:
            code=code("refine"),
            modalities=MODALITIES,
        shell:
            "python -m tumorfab.refine --refiner {input.model} --samples {input.sidecars}"
            " --modality {params.modalities} --threads {threads} > {log} 2>&1"
