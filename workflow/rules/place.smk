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
        cases=[f"--case {s} {shlex.quote(subjects.licence[s])}" for s in TRAIN],
        results=lambda wildcards, input: str(Path(input.images[0]).parents[2]),
        out=lambda wildcards, output: str(Path(output.rois[0]).parent),
    shell:
        "python -m tumorfab.bank {params.cases} --results {params.results} --label {params.label}"
        " --modality {params.modalities} --out {params.out} > {log} 2>&1"


# All samples of one host in one process: the host is read once, each sample is its own file.
rule place:
    input:
        host=images("{subject}"),
        about=about("{subject}"),
        tumour=lambda wildcards: (
            case(wildcards.subject)[-1] if wildcards.subject in ANNOTATED else []
        ),
        table=config["place"]["table"] or [],
        bank=lambda wildcards: [
            f"{R}/bank/sub-{donor}_rois.{kind}"
            for donor in donors(wildcards)
            for kind in ("npz", "json")
        ],
    output:
        [
            path
            for number in range(DRAWS)
            for path in with_volumes(
                [
                    f"{SETS}/sub-{{subject}}/anat/sub-{{subject}}_space-{S}_desc-coarse{number:03d}.json"
                ]
            )
        ],
    log:
        f"{R}/logs/place/fold-{{fold}}_k-{{k}}_{{subject}}.log",
    benchmark:
        f"{R}/benchmarks/place/fold-{{fold}}_k-{{k}}_{{subject}}.tsv"
    conda:
        ENV
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        code=code("place"),
        section=section("place"),
        label=S,
        modalities=MODALITIES,
        seed=config["seed"],
        draws=DRAWS,
        donors=donors,
        patient=lambda wildcards: (
            f"--patient {config['place']['patients']}"
            if wildcards.subject in ANNOTATED
            else ""
        ),
        licence=lambda wildcards: subjects.licence[wildcards.subject],
        anat=lambda wildcards, input: str(Path(input.host[0]).parent),
        bank=lambda wildcards, input: str(Path(input.bank[0]).parent),
        out=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python -m tumorfab.place --host {wildcards.subject} {params.patient} --anat {params.anat}"
        " --bank {params.bank} --donor {params.donors} --draws {params.draws}"
        " --label {params.label} --modality {params.modalities} --seed {params.seed}"
        " --licence {params.licence:q} --params {params.section:q} --out {params.out} > {log} 2>&1"
