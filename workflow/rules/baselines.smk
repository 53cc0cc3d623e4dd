# What TF-Aug and TF-GAN are compared with. Every arm has the same number of samples.


# Two training cases make a sample. All samples of one host in one process.
for arm, command in PAIRED.items():

    rule:
        name:
            arm
        input:
            lambda wildcards: [
                path
                for s in donors(wildcards)
                for path in [*case(s), *standardised(s, "desc-brain_mask")]
            ],
        output:
            [
                path
                for number in range(max(config["study"]["n"]))
                for path in with_volumes(
                    [
                        f"{SETS}/sub-{{subject}}/anat/{samples.stem('{subject}', S, arm, number)}.json"
                    ]
                )
            ],
        log:
            f"{R}/logs/{arm}/fold-{{fold}}_k-{{k}}_{{subject}}.log",
        benchmark:
            f"{R}/benchmarks/{arm}/fold-{{fold}}_k-{{k}}_{{subject}}.tsv"
        conda:
            ENV
        resources:
            mem_mb=growing(3000),
            runtime=growing(30),
        params:
            code=code(command.split()[2].removeprefix("tumorfab.")),
            command=command,
            label=S,
            modalities=MODALITIES,
            seed=config["seed"],
            draws=max(config["study"]["n"]),
            cases=lambda wildcards: shlex.join(licensed("--case", donors(wildcards))),
            results=lambda wildcards, input: str(Path(input[0]).parents[2]),
            out=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "{params.command} --host {wildcards.subject} {params.cases} --results {params.results}"
            " --draws {params.draws} --label {params.label} --modality {params.modalities}"
            " --seed {params.seed} --out {params.out} > {log} 2>&1"


# Training and all samples in one job: loading the network library costs more than a sample.
for pix2pix_rule, fold, k, hosts in sets("pix2pix", 1):

    rule:
        name:
            pix2pix_rule
        input:
            cases=[
                path
                for s in FOLDS[fold].train[:k]
                for path in [case(s)[-1], *images(s)]
            ],
            hosts=[path for host in hosts for path in [about(host), *images(host)]],
        output:
            with_volumes(drawn("pix2pix", fold, k, hosts)),
            model=f"{R}/fold-{fold}_k-{k}/pix2pix/pix2pix.pt",
            history=f"{R}/fold-{fold}_k-{k}/pix2pix/training.csv",
        log:
            f"{R}/logs/pix2pix/{pix2pix_rule}.log",
        benchmark:
            f"{R}/benchmarks/pix2pix/{pix2pix_rule}.tsv"
        conda:
            ENV
        threads: config["compute"]["threads"]
        resources:
            gpu=1,
            mem_mb=growing(8000),
            runtime=growing(720),
        params:
            code=code("baselines.pix2pix"),
            section=section("pix2pix"),
            label=S,
            modalities=MODALITIES,
            seed=config["seed"],
            draws=DRAWS,
            subjects=listed(
                f"pix2pix/{pix2pix_rule}",
                licensed("--case", FOLDS[fold].train[:k]) + licensed("--host", hosts),
            ),
            patient=f"--patient {config['place']['patients']}" if PATIENTS[fold] else "",
            results=lambda wildcards, input: str(Path(input.cases[0]).parents[2]),
            out=lambda wildcards, output: str(Path(output.model).parents[1]),
        shell:
            "python -m tumorfab.baselines.pix2pix @{params.subjects} {params.patient}"
            " --results {params.results} --draws {params.draws} --label {params.label}"
            " --modality {params.modalities} --seed {params.seed} --threads {threads}"
            " --params {params.section:q} --out {params.out} > {log} 2>&1"
