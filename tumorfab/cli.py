"""The `tumorfab` command: the stages by name, for people. `tumorfab place --help` and so on."""

import importlib
import sys

from tumorfab import __version__, stage

STAGES = {
    "demo": "make one subject of the embedded phantom cohort",
    "fetch": "fetch the public data sets that a study names",
    "ingest": "find and check the scans of both cohorts",
    "preprocess": "bias field, brain extraction, registration of one subject",
    "template": "align the MNI template to the analysis space",
    "standardise": "bring one subject to the analysis space; tissue maps",
    "resample": "carry a volume between native scan and analysis space",
    "mosaic": "pictures of some subjects to judge their preprocessing by",
    "qc": "quality of preprocessing: table, outliers and HTML page",
    "view": "look at synthetic samples in a browser, accept or reject them",
    "bank": "collect the tumours of the training cases",
    "place": "TF-Aug: coarse tumours in one healthy brain",
    "train_refiner": "TF-GAN: train the refiner",
    "refine": "TF-GAN: refine coarse samples",
    "appraise": "scores of samples for the quality gate",
    "gate": "quality gate: accept or reject samples, with reasons",
    "baselines.copypaste": "baseline: tumours of one training case in another",
    "baselines.carvemix": "baseline: CarveMix of two training cases",
    "baselines.pix2pix": "baseline: Pix2Pix paints tumours into healthy brains",
    "segment": "train and apply one downstream segmentation network",
    "nnunet": "the same by nnU-Net v2, through its own commands",
    "score": "Dice of one run",
    "report": "tables and HTML page of the study",
    "release": "the samples as a dataset for others",
    "verify": "check a release",
    "reproduce": "build a sample of a release again and compare bytes",
}


def main() -> None:
    """Run the stage that the first argument names."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(__version__)
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: tumorfab STAGE [OPTION ...]\n\nstages (tumorfab STAGE --help):")
        for name, what in STAGES.items():
            print(f"  {name:19} {what}")
        print("\nThe whole study is run by: snakemake --cores all")
        return
    name = arguments[0].replace("-", "_")
    if name not in STAGES:
        sys.exit(f"error: no stage {arguments[0]!r}; the stages are {', '.join(STAGES)}")
    module = importlib.import_module(f"tumorfab.{name}")
    stage.run(module.main, arguments[1:])


if __name__ == "__main__":
    main()
