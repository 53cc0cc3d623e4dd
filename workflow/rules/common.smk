# Read the config and the subjects; name the folders. No stage's logic lives in the rules.
import json
import shlex
import sys
from functools import cache
from pathlib import Path

from tumorfab import plan, samples, wishes
from tumorfab.config import validated
from tumorfab.plan import code
from tumorfab.stage import InputError, write_text

try:
    config = validated(config)
    table = plan.subjects(config, workflow.is_main_process)
except InputError as error:
    sys.exit(f"error: {error}")

subjects = table.set_index("subject").to_dict("index")
R = config["results"]
S = config["space"]["label"]
MODALITIES = config["modalities"]
TISSUES = ["CSF", "GM", "WM"]
HEALTHY = table.subject[table.role == "host"].tolist()
ANNOTATED = table.subject[table.cohort == "annotated"].tolist()
FOLDS = plan.folds(table)
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


# Each job of a running workflow reads these files again. Of the rules that name the files of many
# subjects it needs none but those that Snakemake lets it run.
ALLOWED = plan.allowed_rules(sys.argv)


# A job of a few seconds: on a cluster not worth a place in its queue.
localrules:
    ingest,
    score,
    qc,
    report,


def growing(amount):
    """A resource of which a job that is tried again gets more."""
    return lambda wildcards, attempt: amount * attempt


def batches(kind, members, count):
    """Name and subjects of the rules over which a stage's subjects are spread."""
    for number, part in plan.batches(members, count).items():
        if not ALLOWED or f"{kind}_{number}" in ALLOWED:
            yield f"{kind}_{number}", part


def sets(kind, count, training=False):
    """The same for what is made of hosts, or of training cases, for every fold and k: name, fold, k
    and hosts of each rule.

    Nothing in the names of their outputs is a wildcard: Snakemake finds a file's rule by what
    precedes the first one, and asked all of them about every file.
    """
    made = [(fold, k) for fold in range(len(FOLDS)) for k in config["study"]["k"]]
    for i, (fold, k) in enumerate(made):
        members = FOLDS[fold].train[:k] if training else HOSTS[fold]
        for number, hosts in plan.batches(members, count).items():
            name = f"{kind}_{i * count + number}"
            if not ALLOWED or name in ALLOWED:
                yield name, fold, k, hosts


def listed(name, lines=None):
    """For `params`: a file with `lines`, by default the input `sidecars`. Written when the job is
    to run, since Linux limits an argument, and so a shell command, to 128 KiB."""
    path = Path(f"{R}/lists/{name}.txt")

    def write(wildcards, input):
        target = Path(str(path).format(**wildcards))
        text = "".join(
            f"{line}\n" for line in (input.sidecars if lines is None else lines)
        )
        if not workflow.dryrun and not (target.exists() and target.read_text() == text):
            write_text(target, text)
        return str(target)

    return write


onstart:  # not earlier: a dry run needs no lock, and whether it is one shows only now
    try:
        plan.hold(R)
    except InputError as error:
        sys.exit(f"error: {error}")
    # The rate limiter leaves behind, for every job, a timer thread that wakes the scheduler each
    # second for the rest of the run (snakemake issue 3804): after 100 jobs it took a third of a
    # core. Cores and resources are what limits the jobs here.
    workflow.scheduler.job_rate_limiter = None


def section(name, **changes):
    """One section of the config as JSON whose bytes do not depend on the order of its keys."""
    return json.dumps({**config[name], **changes}, sort_keys=True)


def scans(subject):
    """A subject's scans as they came."""
    return [subjects[subject][m] for m in MODALITIES]


def native(subject):
    """What the preprocessing of a healthy scan leaves."""
    stem = f"{R}/sub-{subject}/anat/sub-{subject}"
    space = "to-MNI152NLin2009aSym_mode-image_xfm.txt"
    return [
        *[f"{stem}_desc-N4_{m}.nii.gz" for m in MODALITIES],
        *[f"{stem}_from-{m}_{space}" for m in MODALITIES],
        f"{stem}_desc-brain_mask.nii.gz",
        f"{stem}_desc-preproc.json",
    ]


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


def picture(subject):
    """The quality picture of a subject."""
    return f"{R}/sub-{subject}/figures/sub-{subject}_desc-qc.png"


def sidecar(arm, fold, k, host, number):
    """Sidecar of a synthetic sample of an arm. It holds the checksums of the sample's volumes, so
    that who depends on it depends on them."""
    return f"{R}/fold-{fold}_k-{k}/sub-{host}/anat/{samples.stem(host, S, arm, number)}.json"


def hosts_of(arm, fold, k):
    """Who hosts the samples of an arm: healthy brains, or the training cases that are paired."""
    return FOLDS[int(fold)].train[: int(k)] if arm in PAIRED else HOSTS[int(fold)]


@cache
def sidecars(arm, fold, k, n):
    """Sidecars of the synthetic samples of a run: n for each of its k real cases, whatever the arm."""
    return [
        sidecar(arm, fold, k, host, number)
        for host, number in plan.samples(hosts_of(arm, fold, k), int(n) * int(k))
    ]


def drawn(kind, fold, k, hosts):
    """Sidecars of all samples of some hosts."""
    return [
        sidecar(kind, fold, k, host, number)
        for host in hosts
        for number in range(DRAWS)
    ]


# How coarse tumours are placed: as the config asks, and as lessons for the refiner. These have their
# donors' contrast and are wherever a training case has room. Its own tumour is kept: a healed brain is
# resampled where the tumour was, and that would be learned, too.
PLACED = {
    "place": dict(
        draws=DRAWS,
        patients=config["place"]["patients"],
        table=config["place"]["table"] or [],
        section=section("place"),
        folder="",
    ),
    "lessons": dict(
        draws=config["refiner"]["lessons"],
        patients="kept",
        table=[],
        section=section(
            "place",
            table="",
            tumour_free=0,
            region="any",
            side="any",
            site_mni_mm=[],
            contrast=[1, 1],
        ),
        folder="refiner/",
    ),
}


def placements():
    """Kind of what is placed, and name, fold, k and hosts, of each rule that places coarse tumours."""
    for kind, how in PLACED.items():
        if how["draws"]:
            for made in sets(kind, config["compute"]["batches"], kind == "lessons"):
                yield kind, *made


def placed(kind, fold, k, hosts):
    """Sidecars of the coarse samples of a rule that places them."""
    if kind == "lessons":
        return lessons(fold, k, hosts)
    return drawn("coarse", fold, k, hosts)


def lessons(fold, k, hosts):
    """Sidecars of the coarse samples in training cases that the refiner learns from."""
    return [
        f"{R}/fold-{fold}_k-{k}/refiner/sub-{host}/anat/{samples.stem(host, S, 'coarse', number)}.json"
        for host in hosts
        for number in range(config["refiner"]["lessons"])
    ]


def learned(wildcards):
    """Sidecars of all samples that the refiner of a job learns from."""
    fold, k = wildcards.fold, wildcards.k
    return lessons(fold, k, donors(wildcards)) or sidecars(
        "coarse", fold, k, max(config["study"]["n"])
    )


def licensed(option, chosen):
    """Arguments that name subjects and their licences."""
    return [part for s in chosen for part in (option, s, subjects[s]["licence"])]


def appraised(kind, fold, k, number):
    """The table of scores of a shard of the samples of a kind."""
    return f"{R}/fold-{fold}_k-{k}/gate/{kind}_shard-{number}.tsv"


def place_arguments(kind, fold, k, hosts):
    """What differs from host to host."""
    folder = f"{R}/fold-{fold}_k-{k}/{PLACED[kind]['folder']}"
    return [
        f"--host {host} --anat {shlex.quote(f'{R}/sub-{host}/anat')}"
        f" --out {shlex.quote(f'{folder}sub-{host}/anat')}"
        f" --licence {shlex.quote(subjects[host]['licence'])}"
        + (f" --patient {PLACED[kind]['patients']}" if host in ANNOTATED else "")
        for host in hosts
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


def verdicts_of(wildcards):
    """The gate's table for the arm that asks for it."""
    table = f"{SETS}/gate/tf.tsv".format(**wildcards)
    return table if wildcards.arm == "tf_gated" else []


wildcard_constraints:
    subject="[A-Za-z0-9]+",
    k="[0-9]+",
    n="[0-9]+",
    fold="|".join(map(str, range(len(FOLDS)))),
    seed="[0-9]+",
    arm="[a-z0-9_]+",
