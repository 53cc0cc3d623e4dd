# The whole study. What is made where: docs/layout.md. Settings: config.yaml.
from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/qc.smk"
include: "workflow/rules/place.smk"
include: "workflow/rules/refine.smk"
include: "workflow/rules/gate.smk"
include: "workflow/rules/baselines.smk"
include: f"workflow/rules/{SEGMENTATION}.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/release.smk"


rule all:
    default_target: True
    input:
        f"{R}/report/index.html",
        f"{R}/qc/index.html",
    localrule: True


onsuccess:
    table = Path(f"{R}/report/table.txt")
    if table.exists():  # it does not where less was asked for, as by --until
        print(table.read_text(encoding="utf-8"))
