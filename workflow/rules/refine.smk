# TF-GAN: train the refiner on one set of real training cases, then refine its coarse samples.


# What the refiner learns from: coarse tumours in the training cases themselves, so that it cannot tell
# them from the real ones by the scanner, but by what a tumour lacks.
for lessons_rule, fold, k, hosts in lesson_sets():

    rule:
        name:
            lessons_rule
        input:
            hosts=[path for host in hosts for path in images(host)],
            about=[about(host) for host in hosts],
            tumours=[case(host)[-1] for host in hosts],
            bank=[
                f"{R}/bank/sub-{donor}_rois.{kind}"
                for donor in FOLDS[fold].train[:k]
                for kind in ("npz", "json")
            ],
        output:
            with_volumes(lessons(fold, k, hosts)),
        log:
            f"{R}/logs/lessons/{lessons_rule}.log",
        benchmark:
            f"{R}/benchmarks/lessons/{lessons_rule}.tsv"
        conda:
            ENV
        resources:
            mem_mb=growing(3000),
            runtime=growing(5 + len(hosts) * (1 + config["refiner"]["lessons"] // 10)),
        params:
            code=[code("place"), code("batch")],
            section=section("place", **LESSON),
            label=S,
            modalities=MODALITIES,
            seed=config["seed"],
            draws=config["refiner"]["lessons"],
            donors=FOLDS[fold].train[:k],
            hosts=lesson_arguments(fold, k, hosts),
            each=listed(f"lessons/{lessons_rule}", lesson_arguments(fold, k, hosts)),
            bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        shell:
            "python -m tumorfab.batch place --each {params.each} --bank {params.bank}"
            " --donor {params.donors} --draws {params.draws} --label {params.label}"
            " --modality {params.modalities} --seed {params.seed} --params {params.section:q}"
            " > {log} 2>&1"


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
