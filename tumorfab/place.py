"""TF-Aug: coarse tumours in healthy brains, made from real ones.

`draw.sample` draws everything that is random and returns it as plain numbers; `apply` computes the
volumes from them and is deterministic. The drawn numbers are the sample's sidecar: re-applying a
sidecar gives the same bytes.

How one tumour comes into a brain is in `tumour`.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorfab import __version__, bank, samples, stage, wishes
from tumorfab.bank import Bank
from tumorfab.draw import Draw, MisfitError, check, sample
from tumorfab.files import sha256
from tumorfab.host import Host, load_host, load_patient
from tumorfab.stage import InputError
from tumorfab.tumour import grow
from tumorfab.volume import box, lattice, save


@dataclass(frozen=True, eq=False)
class Sample:
    """A coarse sample: what was drawn, the host with it in it, the checks that it passed, and what
    was thrown away before it (reason to number of draws)."""

    draw: Draw
    made: Host
    checks: dict[str, bool]
    rejected: dict[str, int]


def make(
    rng: np.random.Generator,
    host: Host,
    rois: Bank,
    params: dict[str, Any],
    used: Host | None = None,
) -> Sample:
    """Draw and compute until a sample passes every check; `params` is the config's `place` section
    with this sample's wishes in it, `used` as in `Host.copy`. Raises `MisfitError` with the reasons
    when `tries` draws fail."""
    rejected: Counter[str] = Counter()
    used = host.copy() if used is None else used
    for _ in range(params["tries"]):
        try:
            draw = sample(rng, host, rois, params)
            made = apply(host, rois, draw, params, used)
        except MisfitError as reason:
            rejected[str(reason)] += 1
            continue
        passed = checks(host, made, draw)
        failed = [name for name, ok in passed.items() if not ok]
        if not failed:
            return Sample(draw, made, passed, dict(sorted(rejected.items())))
        rejected[f"failed: {failed[0]}"] += 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    raise MisfitError(f"no place found in {params['tries']} draws ({reasons})")


def apply(
    host: Host, rois: Bank, draw: Draw, params: dict[str, Any], used: Host | None = None
) -> Host:
    """The host with the drawn tumours in it. Deterministic; the host itself is not changed (`used`
    as in `Host.copy`). Raises `MisfitError` where a tumour has no room."""
    made = host.copy(used)
    for tumour in draw.tumours:
        made = grow(made, rois, tumour, params, draw.tumour_free)
    return made


def checks(host: Host, made: Host, draw: Draw) -> dict[str, bool]:
    """What must hold for every sample, by name. `host` is what it was made from."""
    changed = made.changed
    # Where nothing has changed the labels are the host's; tumours that it had are not judged.
    where = box(changed) if changed.any() else tuple(slice(0, 1) for _ in changed.shape)
    own = np.where(host.labels[where] > 0, 0, made.labels[where])
    tumour = own > 0
    found = {
        "label holds a core, or nothing where no tumour was wanted": (
            bool((tumour & (own != 2)).any()) != draw.tumour_free
        ),
        "label lies in the brain": not (tumour > made.brain[where]).any(),
        "no tumour in a ventricle": not (tumour & made.ventricles[where]).any(),
        "nothing folds": made.jacobian > 0,
        "untouched voxels are the host's": not any(
            ((ours != theirs) > changed).any()
            for ours, theirs in [
                (made.labels, host.labels),
                *((made.images[m], image) for m, image in host.images.items()),
            ]
        ),
        "intensities can be stored": all(
            np.isfinite(x[where].max()) and lattice(x[where]) <= host.lattices[m]
            for m, x in made.images.items()
        ),
        "nothing outside the brain is touched": not (changed > made.brain).any(),
    }
    return {name: bool(ok) for name, ok in found.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tumorfab place", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--host", required=True, help="healthy subject, or a training case (--patient)"
    )
    parser.add_argument(
        "--patient", choices=["kept", "healed"], help="it is a training case: what of its tumour"
    )
    parser.add_argument(
        "--anat", type=Path, required=True, help="its folder of standardised volumes"
    )
    parser.add_argument("--bank", type=Path, required=True, help="folder of the ROI bank")
    parser.add_argument(
        "--donor", nargs="+", required=True, help="training cases to draw ROIs from"
    )
    parser.add_argument("--draws", type=int, required=True, help="number of samples to make")
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--licence", default="unknown", help="licence of the host")
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `place`, JSON"
    )
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: all samples of one host in one process."""
    args = _parser().parse_args(argv)
    where = args.host, args.anat, args.label, args.modality
    host = load_patient(*where, args.patient) if args.patient else load_host(*where)
    if args.patient and args.host not in args.donor:
        raise InputError(f"--host: {args.host} is a patient but no training case of this run")
    rois = bank.load(args.bank, args.donor)
    # Nothing of a single sample: what the config asks of all of them.
    params = {"donor": "", "site_mni_mm": [], **args.params}
    check(rois, params)
    table = params.pop("table")
    asked = wishes.read(table) if table else {}
    known = {
        "host": args.host,
        "host_tumour": ("kept" if host.labels.any() else "healed") if args.patient else "none",
        "seed": args.seed,
        "reference": {m: [r.centre, r.scale] for m, r in host.references.items()},
        "inputs_sha256": _inputs(args),
        "tumorfab": __version__,
    }
    licences = {d: stage.read_json(args.bank / f"sub-{d}_rois.json")["licence"] for d in args.donor}
    copy = host.copy()
    for number in stage.progress(range(args.draws), f"coarse samples in sub-{args.host}"):
        sidecar = args.out / f"sub-{args.host}_space-{args.label}_desc-coarse{number:03d}.json"
        wish = asked.get((args.host, number), {})
        found, settings, refused = _settled(args, number, host, rois, params, wish, copy)
        used_rois = {r for t in found.draw.tumours for r in (t.roi, t.partner)}
        own = {args.host} if args.patient else set()
        donors = sorted({rois.about[r]["donor"] for r in used_rois} | own)
        for modality, image in found.made.images.items():
            save(samples.image(sidecar, modality), image, host.grid.affine)
        save(samples.dseg(sidecar), found.made.labels, host.grid.affine)
        record = {
            "donors": donors,
            "number": number,
            "draw": asdict(found.draw),
            "params": settings,
            "wish": wish,
            "refused": refused,
            "rejected_draws": found.rejected,
            "checks": found.checks,
            "smallest_jacobian": found.made.jacobian,
            "largest_displacement_mm": found.made.moved_mm,
            "licence": {"host": args.licence, "donors": {d: licences[d] for d in donors}},
            "volumes_sha256": samples.checksums(sidecar, args.modality),
        }
        stage.write_json(sidecar, {**known, **record})


def _settled(
    args: argparse.Namespace,
    number: int,
    host: Host,
    rois: Bank,
    params: dict[str, Any],
    wish: dict[str, Any],
    copy: Host,
) -> tuple[Sample, dict[str, Any], list[str]]:
    """The sample, the settings that it was made with, and why others were refused: what was asked
    for; else whatever fits; else the host without a tumour, so that the batch goes on."""
    refused: list[str] = []
    for settings in ([params | wish] if wish else []) + [params]:
        rng = stage.rng(args.seed, "place", args.host, number, len(refused))
        try:
            return make(rng, host, rois, settings, copy), settings, refused
        except MisfitError as reason:
            refused.append(str(reason))
            print(f"sub-{args.host}, sample {number}: {reason}", file=sys.stderr, flush=True)
    empty = Draw([], True)
    return Sample(empty, host, checks(host, host, empty), {}), params, refused


def _inputs(args: argparse.Namespace) -> dict[str, str]:
    """SHA-256 of the files that the samples are made from."""
    image = str(bank.case_files(args.anat, args.host, args.label)["image"])
    files = [Path(image.format(m)) for m in args.modality]
    donors = [args.bank / f"sub-{donor}_rois.npz" for donor in args.donor]
    return {path.name: sha256(path) for path in [*files, *donors]}


if __name__ == "__main__":
    stage.run(main)
