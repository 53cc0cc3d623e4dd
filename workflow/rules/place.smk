# TF-Aug: the ROI bank of the training cases, and coarse tumours in every host.


rule bank:
    input:
        images=[path for subject in TRAIN for path in images(subject)],
        labels=[case(subject)[-1] for subject in TRAIN],
        about=[about(subject) for subject in TRAIN],
    output:
        rois=[f"{R}/bank/sub-{subject}_rois.npz" for subject in TRAIN],
        about=[f"{R}/bank/sub-{subject}_rois.json" for subject in TRAIN],
    log:
        f"{R}/logs/bank.log",
    benchmark:
        f"{R}/benchmarks/bank.tsv"
    conda:
        ENV
    params:
        code=code("bank"),
        label=S,
        modalities=MODALITIES,
        cases=[f"--case {s} {shlex.quote(subjects[s]['licence'])}" for s in TRAIN],
        results=lambda wildcards, input: str(Path(input.images[0]).parents[2]),
        out=lambda wildcards, output: str(Path(output.rois[0]).parent),
    shell:
        "python -m tumorfab.bank {params.cases} --results {params.results} --label {params.label}"
        " --modality {params.modalities} --out {params.out} > {log} 2>&1"


# All samples of some hosts in one process: a host is read once, the program is loaded once for all of
# them, and each sample is its own files.
# Likewise lessons for the refiner: coarse tumours in the training cases themselves, so that it cannot
# tell them from the real ones by the scanner, but by what a tumour lacks.
for kind, place_rule, fold, k, hosts in placements():

    rule:
        name:
            place_rule
        input:
            hosts=[path for host in hosts for path in images(host)],
            about=[about(host) for host in hosts],
            tumours=[case(host)[-1] for host in hosts if host in ANNOTATED],
            table=PLACED[kind]["table"],
            bank=[
                f"{R}/bank/sub-{donor}_rois.{end}"
                for donor in FOLDS[fold].train[:k]
                for end in ("npz", "json")
            ],
        output:
            with_volumes(placed(kind, fold, k, hosts)),
        log:
            f"{R}/logs/{kind}/{place_rule}.log",
        benchmark:
            f"{R}/benchmarks/{kind}/{place_rule}.tsv"
        conda:
            ENV
        resources:
            mem_mb=growing(3000),
            runtime=growing(5 + len(hosts) * (1 + PLACED[kind]["draws"] // 10)),
        params:
            code=[code("place"), code("batch")],
            section=PLACED[kind]["section"],
            label=S,
            modalities=MODALITIES,
            seed=config["seed"],
            draws=PLACED[kind]["draws"],
            donors=FOLDS[fold].train[:k],
            hosts=place_arguments(kind, fold, k, hosts),
            each=listed(f"{kind}/{place_rule}", place_arguments(kind, fold, k, hosts)),
            bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        shell:
            "python -m tumorfab.batch place --each {params.each} --bank {params.bank}"
            " --donor {params.donors} --draws {params.draws} --label {params.label}"
            " --modality {params.modalities} --seed {params.seed} --params {params.section:q}"
            " > {log} 2>&1"
