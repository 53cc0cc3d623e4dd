"""TF-Aug: coarse tumours. A real ROI, moved, turned, scaled and mirrored, in a healthy brain.

`sample` draws everything that is random and returns it as plain numbers; `apply` computes the
volumes from them and is deterministic. The drawn numbers are the sample's sidecar: re-applying a
sidecar gives the same bytes.

The tumour's intensities are carried over relative to white and grey matter (`contrast.py`), so that
neither the donor's nor the host's scanner shows, and cross the boundary through real tissue of the
donor, so that there is no seam.
"""

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorfab import __version__, bank, samples, stage
from tumorfab.bank import CLASSES, Roi
from tumorfab.contrast import Reference, reference
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Image, Labels, lattice, load_grid, load_on, save

# A real tumour lies in tissue; a small overlap is left to the deformation it would have caused.
MOST_OUTSIDE_BRAIN = 0.02
MOST_IN_CSF = 0.2


@dataclass(frozen=True, eq=False)
class Host:
    """A healthy brain on the analysis grid; all arrays (I, J, K)."""

    subject: str
    images: dict[str, Image]
    references: dict[str, Reference]
    brain: NDArray[np.bool_]
    csf: Image
    grid: Grid


@dataclass(frozen=True)
class Draw:
    """Everything random about one coarse sample, in plain JSON-ready values."""

    roi: str
    rotation_deg: list[float]
    scale: list[float]
    mirror: bool
    site: list[int]  # voxel of the host's grid that receives the ROI's centre of mass
    shift: dict[str, dict[str, float]]  # modality -> class -> shift in tissue-relative units
    rejected: dict[str, int]  # reason -> number of draws thrown away before this one


def sample(rng: np.random.Generator, host: Host, rois: list[Roi], params: dict[str, Any]) -> Draw:
    """Draw ROI, shape, site and intensities until the tumour fits the host.

    `params` is the config's `place` section. Raises `InputError` with the reasons when `tries`
    draws all fail.
    """
    tissue = np.argwhere(host.brain & (host.csf < 0.5))
    rejected: Counter[str] = Counter()
    for _ in range(params["tries"]):
        roi = rois[rng.integers(len(rois))]
        low, high = params["scale"]
        turn = params["rotation_deg"]
        draw = Draw(
            roi=roi.name,
            rotation_deg=[float(a) for a in rng.uniform(-turn, turn, 3)],
            scale=[float(s) for s in np.exp(rng.uniform(np.log(low), np.log(high), 3))],
            mirror=bool(rng.integers(2)),
            site=[int(v) for v in tissue[rng.integers(len(tissue))]],
            shift={
                m: {
                    name: float(rng.normal(0, params["intensity_jitter"]))
                    for name in CLASSES.values()
                }
                for m in host.images
            },
            rejected={},
        )
        reason = _misfit(host, roi, draw)
        if reason is None:
            return Draw(**{**asdict(draw), "rejected": dict(sorted(rejected.items()))})
        rejected[reason] += 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    raise InputError(
        f"sub-{host.subject}: no place found in {params['tries']} draws ({reasons}); "
        "raise place.tries or lower place.scale"
    )


def apply(host: Host, roi: Roi, draw: Draw, edge_mm: float) -> tuple[dict[str, Image], Labels]:
    """The host's images with the drawn tumour in them, and the label map (0, 1 NCR, 2 ED, 3 ET).

    Deterministic. Voxels farther than `edge_mm` / 2 outside the tumour are the host's, bit for bit.
    """
    matrix, offset, box = _geometry(host.grid, roi, draw)
    shape = tuple(s.stop - s.start for s in box)
    start = np.array([s.start for s in box])

    def warp(array: NDArray, order: int, mode: str) -> NDArray:
        return ndimage.affine_transform(
            array.astype(np.float32), matrix, offset + matrix @ start, shape, order=order, mode=mode
        )

    share = np.stack([warp(roi.labels == value, 1, "constant") for value in CLASSES])
    inside = (share.sum(0) > 0.5) & host.brain[box]
    classes = np.array(list(CLASSES), np.uint8)
    label_box = np.where(inside, classes[share.argmax(0)], 0).astype(np.uint8)
    alpha = _soft_edge(inside, host.grid.spacing, edge_mm) * host.brain[box]

    images = {}
    for modality, image in host.images.items():
        shifts = np.array([draw.shift[modality][name] for name in CLASSES.values()])
        # Cubic, since linear interpolation would make the lesion smoother than its surroundings.
        tumour = warp(roi.images[modality], 3, "nearest") + np.tensordot(shifts, share, 1)
        # Within what the host's file can hold without moving its other voxels (volume.lattice).
        limit = 32767 * lattice(image)
        tumour = np.clip(host.references[modality].absolute(tumour), -limit, limit)
        result = image.copy()
        result[box] = np.where(alpha > 0, image[box] + alpha * (tumour - image[box]), image[box])
        images[modality] = result
    labels = np.zeros(host.grid.shape, np.uint8)
    labels[box] = label_box
    return images, labels


def checks(host: Host, images: dict[str, Image], labels: Labels, edge_mm: float) -> dict[str, bool]:
    """What must hold for every sample, by name."""
    near = ndimage.distance_transform_edt(labels == 0, sampling=host.grid.spacing) <= edge_mm + 1e-3
    return {
        "label is not empty": bool(labels.any()),
        "label lies in the brain": not bool(labels[~host.brain].any()),
        "voxels away from the tumour are the host's": all(
            np.array_equal(images[m][~near], host.images[m][~near]) for m in images
        ),
        "intensities are finite": all(bool(np.isfinite(x).all()) for x in images.values()),
    }


def _geometry(grid: Grid, roi: Roi, draw: Draw) -> tuple[NDArray, NDArray, tuple[slice, ...]]:
    """Matrix and offset from host voxels to ROI voxels, and the host box that the ROI reaches."""
    mirror = np.eye(3)
    if draw.mirror:
        left_right = int(np.abs(grid.affine[0, :3]).argmax())
        mirror[left_right, left_right] = -1
    rotation = Rotation.from_euler("xyz", draw.rotation_deg, degrees=True).as_matrix()
    forward_mm = rotation @ np.diag(draw.scale) @ mirror  # ROI mm offsets -> host mm offsets
    forward = np.diag(1 / grid.spacing) @ forward_mm @ np.diag(roi.spacing)
    matrix = np.linalg.inv(forward)
    centre = np.array(ndimage.center_of_mass(roi.labels > 0))
    offset = centre - matrix @ draw.site
    corners = np.array(list(product(*[(0, n - 1) for n in roi.labels.shape]))) - centre
    reach = corners @ forward.T + draw.site
    low = np.clip(np.floor(reach.min(0)).astype(int), 0, grid.shape)
    high = np.clip(np.ceil(reach.max(0)).astype(int) + 1, 0, grid.shape)
    return matrix, offset, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _misfit(host: Host, roi: Roi, draw: Draw) -> str | None:
    """Why the drawn tumour does not fit the host; None if it does. Looks at its voxels only."""
    matrix, offset, _ = _geometry(host.grid, roi, draw)
    points = np.argwhere(roi.labels > 0) - offset
    at = np.rint(points @ np.linalg.inv(matrix).T).astype(int)
    within = ((at >= 0) & (at < host.grid.shape)).all(1)
    i, j, k = at[within].T
    brain = host.brain[i, j, k]
    if brain.sum() < (1 - MOST_OUTSIDE_BRAIN) * len(at):
        return "outside the brain"
    if (host.csf[i, j, k] > 0.5).sum() > MOST_IN_CSF * len(at):
        return "in CSF"
    return None


def _soft_edge(inside: NDArray[np.bool_], spacing: NDArray, edge_mm: float) -> Image:
    """1 inside, 0 outside, linear over `edge_mm` across the boundary, 0.5 on it."""
    if edge_mm == 0 or not inside.any():
        return inside.astype(np.float32)
    half = float(spacing.mean()) / 2  # distances run between voxel centres, the boundary between
    outward = ndimage.distance_transform_edt(~inside, sampling=spacing)
    inward = ndimage.distance_transform_edt(inside, sampling=spacing)
    signed = np.where(inside, half - inward, outward - half)
    return np.clip(0.5 - signed / edge_mm, 0, 1).astype(np.float32)


def load_host(subject: str, anat: Path, label: str, modalities: list[str]) -> Host:
    """Read a standardised healthy subject. Raises `InputError` for a missing or unfit file."""
    files = bank.case_files(anat, subject, label)
    grid = load_grid(files["brain"])
    wm, gm, csf = (load_on(files[t], grid) for t in ("WM", "GM", "CSF"))
    images = {m: load_on(str(files["image"]).format(m), grid) for m in modalities}
    references = {m: reference(image, wm, gm) for m, image in images.items()}
    brain = load_on(files["brain"], grid, labels=True) > 0
    return Host(subject, images, references, brain, csf, grid)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: all draws of one host in one process."""
    parser = argparse.ArgumentParser(prog="tumorfab place", description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True, help="healthy subject")
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
    args = parser.parse_args(argv)

    host = load_host(args.host, args.anat, args.label, args.modality)
    rois = bank.load(args.bank, args.donor)
    donor_files = {donor: args.bank / f"sub-{donor}_rois.npz" for donor in args.donor}
    licences = {d: stage.read_json(args.bank / f"sub-{d}_rois.json")["licence"] for d in args.donor}
    inputs = {f"bank/{path.name}": _checksum(path) for path in donor_files.values()}
    host_image = str(bank.case_files(args.anat, args.host, args.label)["image"])
    inputs |= {
        Path(host_image.format(m)).name: _checksum(Path(host_image.format(m)))
        for m in args.modality
    }

    for number in stage.progress(range(args.draws), f"coarse samples in sub-{args.host}"):
        rng = stage.rng(args.seed, "place", args.host, number)
        draw = sample(rng, host, rois, args.params)
        roi = next(r for r in rois if r.name == draw.roi)
        images, labels = apply(host, roi, draw, args.params["edge_mm"])
        passed = checks(host, images, labels, args.params["edge_mm"])
        sidecar = args.out / f"sub-{args.host}_space-{args.label}_desc-coarse{number:03d}.json"
        failed = [name for name, ok in passed.items() if not ok]
        if failed:
            raise InputError(
                f"{sidecar.stem}: failed the check '{failed[0]}'; "
                f"report this with its draw {asdict(draw)}"
            )
        for modality, image in images.items():
            save(samples.image(sidecar, modality), image, host.grid.affine)
        save(samples.dseg(sidecar), labels, host.grid.affine)
        stage.write_json(
            sidecar,
            {
                "host": args.host,
                "donor": roi.donor,
                "draw": asdict(draw),
                "edge_mm": args.params["edge_mm"],
                "seed": args.seed,
                "number": number,
                "reference": {m: [r.centre, r.scale] for m, r in host.references.items()},
                "checks": passed,
                "licence": {"host": args.licence, "donor": licences[roi.donor]},
                "inputs_sha256": inputs,
                "tumorfab": __version__,
            },
        )


if __name__ == "__main__":
    stage.run(main)
