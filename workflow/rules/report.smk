# The scores of every run, the study's tables and its one page.
ARMS = set(config["study"]["arms"])
REFINING = bool(ARMS & {"tf", "tf_gated"})
FOLDERS = expand(SETS, fold=range(len(FOLDS)), k=config["study"]["k"])
MOST = max(config["study"]["n"]) * max(config["study"]["k"])
# The page shows eight samples, spread over all.
SHOWN = (
    sorted({i * (MOST - 1) // 7 for i in range(8)})
    if REFINING or "coarse" in ARMS
    else []
)
COARSE, REFINED = (
    [
        sidecar(kind, 0, max(config["study"]["k"]), *plan.sample(HOSTS[0], i))
        for i in SHOWN
    ]
    for kind in ("coarse", "tf")
)


rule score:
    input:
        predicted=lambda wildcards: [
            f"{RUN}/sub-{s}_space-{S}_desc-pred_dseg.nii.gz".format(**wildcards)
            for s in fold_of(wildcards).test
        ],
        annotated=lambda wildcards: [case(s)[-1] for s in fold_of(wildcards).test],
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
            for s, p, a in zip(
                fold_of(wildcards).test, input.predicted, input.annotated
            )
        ],
    shell:
        "python -m tumorfab.score {params.cases} --arm {wildcards.arm} --k {wildcards.k}"
        " --n {wildcards.n} --fold {wildcards.fold} --seed {wildcards.seed} --out {output}"
        " > {log} 2>&1"


rule report:
    input:
        rules.ingest.output,
        REFINED if REFINING else [],
        scores=[f"{R}/segment/{run}/scores.csv" for run in RUNS],
        histories=[f"{R}/segment/{run}/training.csv" for run in RUNS],
        samples=COARSE,
        refiners=[f"{folder}/refiner/training.csv" for folder in FOLDERS if REFINING],
        gates=[f"{folder}/gate/tf.tsv" for folder in FOLDERS if REFINING],
        subjects=rules.ingest.output.subjects,
        skipped=rules.ingest.output.skipped,
    output:
        report(f"{R}/report/dice.csv", caption="../report/dice.rst", category="Dice"),
        report(
            f"{R}/report/summary.csv",
            caption="../report/summary.rst",
            category="Dice",
        ),
        f"{R}/report/table.txt",
        page=report(
            f"{R}/report/index.html",
            caption="../report/page.rst",
            category="Report",
        ),
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.tsv"
    conda:
        ENV
    params:
        code=code("report", "templates/report.html.j2", "templates/style.css.j2"),
        config=json.dumps(
            {key: part for key, part in config.items() if key != "release"},
            sort_keys=True,
        ),
        runs=lambda wildcards, input: [str(Path(path).parent) for path in input.scores],
        samples=lambda wildcards, input: (
            ["--samples", *input.samples] if input.samples else ""
        ),
        refiners=lambda wildcards, input: (
            ["--refiners", *input.refiners] if input.refiners else ""
        ),
        gates=lambda wildcards, input: (
            ["--gates", *input.gates] if input.gates else ""
        ),
        sets=(["--sets", *FOLDERS, "--draws", DRAWS] if COARSE else ""),
        realism=(
            f"--realism {R}/realism.json" if Path(f"{R}/realism.json").exists() else ""
        ),
        out=lambda wildcards, output: str(Path(output.page).parent),
    shell:
        "python -m tumorfab.report --scores {input.scores} --subjects {input.subjects}"
        " --skipped {input.skipped} --config {params.config:q} {params.samples} --runs {params.runs}"
        " {params.refiners} {params.sets} {params.gates} {params.realism} --out {params.out} > {log} 2>&1"
