# Quality gate: every sample of a kind (coarse or tf) is scored, in shards since the critic needs
# torch; then one job decides on all of them, since a score is low or not among the others.


for kind, (appraise_rule, fold, k, hosts) in [
    (kind, each)
    for kind in ("coarse", "tf")
    for each in sets(f"appraise_{kind}", config["compute"]["shards"])
]:

    rule:
        name:
            appraise_rule
        input:
            critic=f"{R}/fold-{fold}_k-{k}/refiner/critic.pt",
            bank=[
                f"{R}/bank/sub-{donor}_rois.{end}"
                for donor in FOLDS[fold].train[:k]
                for end in ("npz", "json")
            ],
            sidecars=drawn(kind, fold, k, hosts),
        output:
            appraised(kind, fold, k, plan.shard(hosts[0], config["compute"]["shards"])),
        log:
            f"{R}/logs/appraise/{appraise_rule}.log",
        benchmark:
            f"{R}/benchmarks/appraise/{appraise_rule}.tsv"
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=growing(6000),
            runtime=growing(120),
        params:
            code=code("appraise"),
            modalities=MODALITIES,
            donors=FOLDS[fold].train[:k],
            samples=listed(f"appraise/{appraise_rule}"),
            bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        shell:
            "python -m tumorfab.appraise --critic {input.critic} --bank {params.bank}"
            " --donor {params.donors} --samples @{params.samples} --modality {params.modalities}"
            " --threads {threads} --out {output} > {log} 2>&1"


rule gate:
    input:
        scores=lambda wildcards: [
            appraised(wildcards.kind, wildcards.fold, wildcards.k, number)
            for number in plan.batches(
                HOSTS[int(wildcards.fold)], config["compute"]["shards"]
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
