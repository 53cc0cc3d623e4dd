# Read the config and the subjects; name the folders. No stage's logic lives in the rules.
import json
import shlex
import sys
from pathlib import Path

from tumorfab import plan, samples, wishes
from tumorfab.config import validated
from tumorfab.plan import code
from tumorfab.stage import InputError

try:
    config = validated(config)
    subjects = plan.subjects(config, workflow.is_main_process).set_index("subject")
except InputError as error:
    sys.exit(f"error: {error}")

R = config["results"]
S = config["space"]["label"]
MODALITIES = config["modalities"]
TISSUES = ["CSF", "GM", "WM"]
HEALTHY = subjects.index[subjects.role == "host"].tolist()
ANNOTATED = subjects.index[subjects.cohort == "annotated"].tolist()
FOLDS = plan.folds(subjects.reset_index())
TRAIN = [s for s in ANNOTATED if any(s in fold.train for fold in FOLDS)]
# Patients who train in every set of cases of the fold: none may host samples of a set that it is
# not in.
PATIENTS = [
    (
        fold.train[: min(config["study"]["k"])]
        if config["place"]["patients"] != "none"
        else []
    )
    for fold in FOLDS
]
HOSTS = [HEALTHY + patients for patients in PATIENTS]  # by fold
SHARED = config["annotated"]["space"] == "shared"
DRAWS = plan.draws_per_host(config, len(HOSTS[0]))
try:
    wishes.check(config["place"]["table"], sum(HOSTS, []), DRAWS)
except InputError as error:
    sys.exit(f"error: {error}")
# Folds whose patients are hosts have hosts of their own, hence rules of their own.
OWN_HOSTS = len(FOLDS) > 1 and PATIENTS != [[]] * len(FOLDS)
HOST_SETS = HOSTS if OWN_HOSTS else HOSTS[:1]
RUNS = plan.runs(config)
SEGMENTATION = "nnunet" if config["segment"]["network"] == "nnunet" else "segment"
RUN = f"{R}/segment/arm-{{arm}}_k-{{k}}_n-{{n}}_fold-{{fold}}_seed-{{seed}}"
RUN_NAME = "arm-{arm}_k-{k}_n-{n}_fold-{fold}_seed-{seed}"
# Arms whose samples are made of two training cases each: one hosts, another gives.
PAIRED = {
    "copypaste": "python -m tumorfab.baselines.copypaste",
    "carvemix": "python -m tumorfab.baselines.carvemix",
    "carvemix_published": "python -m tumorfab.baselines.carvemix --published",
}
SETS = (
    f"{R}/fold-{{fold}}_k-{{k}}"  # everything made from one set of real training cases
)
ENV = "../../envs/tumorfab.yaml"


onstart:  # not earlier: a dry run needs no lock, and whether it is one shows only now
    try:
        plan.hold(R)
    except InputError as error:
        sys.exit(f"error: {error}")
    # The rate limiter leaves behind, for every job, a timer thread that wakes the scheduler each
    # second for the rest of the run (snakemake issue 3804): after 100 jobs it took a third of a
    # core. Cores and resources are what limits the jobs here.
    workflow.scheduler.job_rate_limiter = None


def section(name):
    """One section of the config as JSON whose bytes do not depend on the order of its keys."""
    return json.dumps(config[name], sort_keys=True)


def standardised(subject, *names):
    """Files of a subject in the analysis space."""
    stem = f"{R}/sub-{subject}/anat/sub-{subject}_space-{S}"
    return [f"{stem}_{name}.nii.gz" for name in names]


def images(subject):
    """Its images and everything that a stage needs beside them."""
    return standardised(
        subject,
        *[f"desc-preproc_{m}" for m in MODALITIES],
        "desc-brain_mask",
        "label-ventricles_mask",
        *[f"label-{t}_probseg" for t in TISSUES],
    )


def about(subject):
    """Its sidecar: midsagittal plane and where MNI152 is."""
    return f"{R}/sub-{subject}/anat/sub-{subject}_space-{S}_desc-preproc.json"


def case(subject):
    """An annotated case: its images and its label map."""
    return standardised(subject, *[f"desc-preproc_{m}" for m in MODALITIES], "dseg")


def fold_of(wildcards):
    """The training, validation and test cases of a job's fold."""
    return FOLDS[int(wildcards.fold)]


def donors(wildcards):
    """The real training cases of a fold and k: all that its samples and networks are made from."""
    return fold_of(wildcards).train[: int(wildcards.k)]


def of_fold(fold):
    """What the name of a rule of one host set ends with, and the folds that it serves."""
    return (f"_fold_{fold}", str(fold)) if OWN_HOSTS else ("", "[0-9]+")


def picture(subject):
    """The quality picture of a subject."""
    return f"{R}/sub-{subject}/figures/sub-{subject}_desc-qc.png"


def sidecars(arm, fold, k, n):
    """Sidecars of the synthetic samples of a run: n for each of its k real cases, whatever the arm."""
    own = FOLDS[int(fold)].train[: int(k)]
    hosts = own if arm in PAIRED else HOSTS[int(fold)]
    return [
        f"{R}/fold-{fold}_k-{k}/sub-{host}/anat/{samples.stem(host, S, arm, number)}.json"
        for host, number in plan.samples(hosts, int(n) * int(k))
    ]


def volumes(sidecar):
    """The volumes that belong to a sidecar."""
    stem = sidecar.removesuffix(".json")
    return [f"{stem}_{name}.nii.gz" for name in (*MODALITIES, "dseg")]


def with_volumes(paths):
    """Sidecars and their volumes."""
    return [*paths, *[volume for path in paths for volume in volumes(path)]]


def synthetic(wildcards):
    """Sidecars of the synthetic samples that an arm trains on."""
    arm, fold, k, n = wildcards.arm, wildcards.fold, wildcards.k, wildcards.n
    return sidecars(arm, fold, k, n) if arm in samples.KINDS else []


wildcard_constraints:
    subject="[A-Za-z0-9]+",
    k="[0-9]+",
    n="[0-9]+",
    fold="|".join(map(str, range(len(FOLDS)))),
    seed="[0-9]+",
    arm="[a-z0-9_]+",
