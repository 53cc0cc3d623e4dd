"""Build a coarse sample of a release again, from host and ROI bank, and compare the bytes."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab import bank, manifest, privacy, stage
from tumorfab.draw import Draw
from tumorfab.files import sha256
from tumorfab.host import Host, load_host, load_patient
from tumorfab.place import apply
from tumorfab.release import KEY
from tumorfab.stage import InputError
from tumorfab.volume import load, save


def rebuilt(record: dict[str, Any], anat: Path, folder: Path, label: str,
            modalities: list[str]) -> Host:  # fmt: skip
    """The host with the tumours that a sidecar holds, as the study made it; subjects are called as
    the study calls them. Raises `InputError` where what it was made from has changed."""
    for name, digest in record["inputs_sha256"].items():
        path = (folder if name.endswith(".npz") else anat) / name
        if not path.exists():
            raise InputError(f"{path}: no such file; --results names the folder of the study")
        if sha256(path) != digest:
            raise InputError(f"{path}: is not what the sample was made from")
    draw = Draw.read(record["draw"])
    way, subject = record["host_tumour"], record["host"]
    where = subject, anat, label, modalities
    host = load_host(*where) if way == "none" else load_patient(*where, way)
    donors = sorted({name.rpartition("-")[0] for t in draw.tumours for name in (t.roi, t.partner)})
    if not donors:
        return host
    return apply(host, bank.load(folder, donors), draw, record["params"])


def subjects(results: Path) -> dict[str, str]:
    """The study's subject by the name that the release gives it."""
    key = results / KEY
    if not key.exists():
        raise InputError(f"{key}: no such file; --results names the folder of the study")
    lines = key.read_text(encoding="utf-8").splitlines()[1:]
    return {name: subject for subject, name in (line.split("\t") for line in lines)}


def differences(row: dict[str, Any], release: Path, host: Host) -> list[str]:
    """What of a rebuilt sample is other than the release's, one line per volume."""
    found = []
    made: dict[str, NDArray] = {**host.images, "dseg": host.labels}
    with tempfile.TemporaryDirectory() as scratch:
        for what, data in made.items():
            name, target = row[what], Path(scratch) / f"{what}.nii.gz"
            save(target, data, host.grid.affine)
            if target.read_bytes() == (release / name).read_bytes():
                continue
            same = np.array_equal(load(target).data, load(release / name).data)
            found.append(
                f"{name}: equal voxels, deflated by another version of isal" if same
                else f"{name}: other voxels"
            )  # fmt: skip
    return found


def main(argv: list[str] | None = None) -> None:
    """Command line: prints what was compared, and ends with status 1 where bytes differ."""
    parser = argparse.ArgumentParser(prog="tumorfab reproduce", description=__doc__)
    parser.add_argument("release", type=Path, help="folder of the release")
    parser.add_argument("--sample", required=True, help="a sample of the manifest")
    parser.add_argument("--results", type=Path, help="the study; by default the release lies in it")
    args = parser.parse_args(argv)
    results = args.results or args.release.resolve().parent
    rows, _ = manifest.read(args.release)
    row = next((row for row in rows if row["sample"] == args.sample), None)
    if row is None:
        raise InputError(f"--sample: {args.sample} is not in {args.release / manifest.CSV}")
    if row["kind"] != "coarse":
        raise InputError(
            f"--sample: {args.sample} is refined by a network; only coarse samples are rebuilt"
        )
    record = privacy.renamed(stage.read_json(args.release / row["sidecar"]), subjects(results))
    anat = results / f"sub-{record['host']}" / "anat"
    label = row["dseg"].split("_space-")[1].split("_")[0]
    host = rebuilt(record, anat, results / "bank", label, manifest.modalities(row))
    if found := differences(row, args.release, host):
        for line in found:
            print(line)
        raise InputError(f"{args.sample}: {len(found)} volume(s) differ, listed above")
    print(f"{args.sample}: rebuilt with the same bytes ({len(host.images) + 1} volumes)")


if __name__ == "__main__":
    stage.run(main)
