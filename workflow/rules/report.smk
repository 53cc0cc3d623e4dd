# The study's tables and its one page.
ARMS = set(config["study"]["arms"])
MOST = max(config["study"]["n"]) * max(config["study"]["k"])
# The page shows eight samples, spread over all.
SHOWN = (
    sorted({i * (MOST - 1) // 7 for i in range(8)}) if ARMS & {"coarse", "tf"} else []
)
COARSE, REFINED = (
    [sidecar(kind, 0, max(config["study"]["k"]), *plan.sample(HOSTS, i)) for i in SHOWN]
    for kind in ("coarse", "tf")
)


rule report:
    input:
        rules.ingest.output,
        REFINED if "tf" in ARMS else [],
        scores=[f"{R}/segment/{run}/scores.csv" for run in RUNS],
        histories=[f"{R}/segment/{run}/training.csv" for run in RUNS],
        samples=COARSE,
        refiners=[
            f"{R}/fold-0_k-{k}/refiner/training.csv"
            for k in config["study"]["k"]
            if "tf" in ARMS
        ],
        subjects=rules.ingest.output.subjects,
        skipped=rules.ingest.output.skipped,
    output:
        f"{R}/report/dice.csv",
        f"{R}/report/table.txt",
        page=f"{R}/report/index.html",
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.tsv"
    conda:
        ENV
    params:
        code=code("report", "templates/report.html.j2", "templates/style.css.j2"),
        config=json.dumps(config, sort_keys=True),
        runs=lambda wildcards, input: [str(Path(path).parent) for path in input.scores],
        samples=lambda wildcards, input: (
            ["--samples", *input.samples] if input.samples else ""
        ),
        refiners=lambda wildcards, input: (
            ["--refiners", *input.refiners] if input.refiners else ""
        ),
        out=lambda wildcards, output: str(Path(output.page).parent),
    shell:
        "python -m tumorfab.report --scores {input.scores} --subjects {input.subjects}"
        " --skipped {input.skipped} --config {params.config:q} {params.samples} --runs {params.runs}"
        " {params.refiners} --out {params.out} > {log} 2>&1"
