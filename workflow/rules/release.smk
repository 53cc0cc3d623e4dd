# The samples as a dataset for others: only when asked for, by `snakemake release`.
LARGEST = max(config["study"]["k"])


rule release:
    input:
        rules.report.output,
        subjects=rules.ingest.output.subjects,
        sidecars=lambda wildcards: [
            path
            for kind in plan.kinds(config)
            for path in drawn(kind, 0, LARGEST, HOSTS[0])
        ],
        brains=[
            path for host in HOSTS[0] for path in standardised(host, "desc-brain_mask")
        ],
        about=[about(host) for host in HOSTS[0]],
        template=f"{R}/template/template_space-{S}_T1w.nii.gz",
        qc=[rules.qc.output.page, rules.qc.output.table],
        lock=Path(workflow.basedir) / "requirements.lock",
        # Refined samples: where the study has the arm that trusts the gate; else the table is
        # there for the report alone. Coarse ones: a table made by other hands, or not at all.
        gate=[
            path
            for kind in plan.kinds(config)
            for path in [f"{R}/fold-0_k-{LARGEST}/gate/{kind}.tsv"]
            if ("tf_gated" in ARMS if kind == "tf" else Path(path).exists())
        ],
        review=[p for p in [f"{R}/qc/review.csv"] if Path(p).exists()],
    output:
        manifest=f"{R}/release/manifest.csv",
        sums=f"{R}/release/SHA256SUMS",
        archives=f"{R}/archives/SHA256SUMS",
        key=f"{R}/release_key.tsv",
    log:
        f"{R}/logs/release.log",
    benchmark:
        f"{R}/benchmarks/release.tsv"
    conda:
        ENV
    threads: config["compute"]["threads"]
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        code=code("release", "templates/card.md.j2"),
        config=json.dumps(config, sort_keys=True),
        results=lambda wildcards, input: str(Path(input.subjects).parents[1]),
        samples=lambda wildcards, output: str(
            Path(output.key).parent / f"fold-0_k-{LARGEST}"
        ),
        patients=["--patient", *PATIENTS[0]] if PATIENTS[0] else "",
        draws=DRAWS,
        gate=lambda wildcards, input: ["--gate", *input.gate] if input.gate else "",
        review=lambda wildcards, input: (
            ["--review", *input.review] if input.review else ""
        ),
        out=lambda wildcards, output: str(Path(output.sums).parent),
        archives=lambda wildcards, output: str(Path(output.archives).parent),
    shell:
        "python -m tumorfab.release --results {params.results} --samples {params.samples}"
        " --config {params.config:q} {params.patients} --draws {params.draws} {params.gate}"
        " {params.review} --lock {input.lock:q} --threads {threads} --out {params.out}"
        " --archives {params.archives} > {log} 2>&1"
