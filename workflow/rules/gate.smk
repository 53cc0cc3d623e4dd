# Quality gate: every sample of a kind (coarse or tf) is scored, in shards since the critic needs
# torch; then one job decides on all of them, since a score is low or not among the others.


for fold, shard, shard_hosts in plan.host_shards(
    HOST_SETS, config["compute"]["shards"]
):
    ending, folds = of_fold(fold)
    shard_sidecars = [
        f"{SETS}/sub-{host}/anat/sub-{host}_space-{S}_desc-{{kind}}{number:03d}.json"
        for host in shard_hosts
        for number in range(DRAWS)
    ]

    rule:
        name:
            f"appraise_{shard}{ending}"
        input:
            critic=f"{SETS}/refiner/critic.pt",
            bank=lambda wildcards: [
                f"{R}/bank/sub-{donor}_rois.{end}"
                for donor in donors(wildcards)
                for end in ("npz", "json")
            ],
            sidecars=shard_sidecars,
            volumes=[volume for path in shard_sidecars for volume in volumes(path)],
        output:
            f"{SETS}/gate/{{kind}}_shard-{shard}.tsv",
        log:
            f"{R}/logs/appraise/fold-{{fold}}_k-{{k}}_{{kind}}_shard-{shard}.log",
        benchmark:
            f"{R}/benchmarks/appraise/fold-{{fold}}_k-{{k}}_{{kind}}_shard-{shard}.tsv"
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
            code=code("appraise"),
            modalities=MODALITIES,
            donors=donors,
            bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        shell:
            "python -m tumorfab.appraise --critic {input.critic} --bank {params.bank}"
            " --donor {params.donors} --samples {input.sidecars} --modality {params.modalities}"
            " --threads {threads} --out {output} > {log} 2>&1"


rule gate:
    input:
        scores=lambda wildcards: [
            f"{SETS}/gate/{{kind}}_shard-{shard}.tsv".format(**wildcards)
            for _, shard, _ in plan.host_shards(
                [HOSTS[int(wildcards.fold)]], config["compute"]["shards"]
            )
        ],
        real=lambda wildcards: [path for s in donors(wildcards) for path in case(s)],
        bank=lambda wildcards: [
            f"{R}/bank/sub-{s}_rois.json" for s in donors(wildcards)
        ],
    output:
        f"{SETS}/gate/{{kind}}.tsv",
    log:
        f"{R}/logs/gate/fold-{{fold}}_k-{{k}}_{{kind}}.log",
    benchmark:
        f"{R}/benchmarks/gate/fold-{{fold}}_k-{{k}}_{{kind}}.tsv"
    wildcard_constraints:
        kind="coarse|tf",
    conda:
        ENV
    params:
        code=code("gate"),
        section=section("gate"),
        label=S,
        modalities=MODALITIES,
        donors=donors,
        results=lambda wildcards, input: str(Path(input.real[0]).parents[2]),
        bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
    shell:
        "python -m tumorfab.gate --scores {input.scores} --donor {params.donors}"
        " --results {params.results} --bank {params.bank} --label {params.label}"
        " --modality {params.modalities} --params {params.section:q} --out {output}"
        " > {log} 2>&1"
