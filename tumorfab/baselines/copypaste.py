"""Copy and paste of tumours between patients, after TumorCP (Yang et al., MICCAI 2021).

One tumour of a training case is turned, scaled, mirrored, warped, changed in contrast and blurred,
each with probability 1/2, and its voxels replace those of another training case's brain, which
keeps its own tumours. Nothing is blended. Ranges are those of the authors' code, except where a
comment says otherwise.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorfab import fields, stage
from tumorfab.baselines import pairs
from tumorfab.baselines.pairs import Brain, Case, Mixed
from tumorfab.roi import SMALLEST_MM3
from tumorfab.volume import Box, Grid, Image, Labels

EACH = 0.5  # the probability of each change
ROTATION_DEG = 180.0
SCALE = (0.85, 1.25)
GAMMA = (0.7, 1.5)
# Ours: a displacement of up to this (sd in mm) per axis, without detail finer than 16 mm, is about
# what their elastic deformation comes to. Their blur is far stronger, up to 5 voxels.
WARP_MM, WARP_KNOTS_MM = 2.0, 16.0
BLUR_VOXELS = (0.5, 1.0)
# Ours: of so many random places the one is taken where most of the tumour lies in the brain and
# not on another tumour.
TRIES = 20
ROOM_VOXELS = 3  # around a tumour, for the warp and the interpolation


@dataclass(frozen=True)
class Paste:
    """How a tumour is changed and where it goes. `tumour` counts the donor's tumours from the
    largest; `site` is the host's voxel that receives its centre; `blur` is a standard deviation in
    voxels, 0 for none; a `gamma` of 1 changes nothing."""

    tumour: int
    site: list[int]
    rotation_deg: list[float]
    scale: float
    mirror: list[bool]
    warp_mm: float
    warp_seed: int
    gamma: float
    blur: float


def tumours(labels: Labels, grid: Grid) -> list[Labels]:
    """The 26-connected tumours of a label map, largest first; specks below 300 mm^3 are left out,
    unless nothing else is there."""
    components, count = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:] * grid.voxel_volume
    order = np.argsort(-sizes, kind="stable")
    kept = [i for i in order if sizes[i] >= SMALLEST_MM3] or order[:1]
    return [np.where(components == i + 1, labels, 0).astype(np.uint8) for i in kept]


def sample(rng: np.random.Generator, host: Brain, donor: Case) -> Paste:
    """Draw a tumour of the donor, what is changed in it, and a place in the host."""

    def maybe(low: float, high: float, otherwise: float) -> float:
        value, used = rng.uniform(low, high), rng.random() < EACH
        return float(value) if used else otherwise

    found = tumours(donor.labels, donor.grid)
    chosen = int(rng.integers(len(found)))
    turn = [maybe(-ROTATION_DEG, ROTATION_DEG, 0.0) for _ in range(3)]
    scale = maybe(*SCALE, 1.0)
    mirror = [bool(rng.random() < EACH) for _ in range(3)]
    voxels = np.argwhere(found[chosen] > 0)
    offset = (voxels - voxels.mean(0)) * donor.grid.spacing
    reached = offset @ forward(turn, scale, mirror).T / host.grid.spacing
    return Paste(
        tumour=chosen,
        site=_site(rng, host, reached),
        rotation_deg=turn,
        scale=scale,
        mirror=mirror,
        warp_mm=maybe(0.0, WARP_MM, 0.0),
        warp_seed=int(rng.integers(2**31)),
        gamma=maybe(*GAMMA, 1.0),
        blur=maybe(*BLUR_VOXELS, 0.0),
    )


def _site(rng: np.random.Generator, host: Brain, reached: NDArray[np.float64]) -> list[int]:
    """The best of some random voxels of the host's free brain for a tumour whose voxels lie at the
    offsets `reached` (N, 3)."""
    free = host.brain & (host.labels == 0)
    candidates = np.argwhere(free)
    best, most = candidates[0], -1.0
    for site in candidates[rng.integers(len(candidates), size=TRIES)]:
        at = np.rint(site + reached).astype(int)
        at = at[((at >= 0) & (at < host.grid.shape)).all(1)]
        if (share := free[tuple(at.T)].sum() / len(reached)) > most:
            best, most = site, share
    return [int(v) for v in best]


def forward(turn: list[float], scale: float, mirror: list[bool]) -> NDArray[np.float64]:
    """Matrix (3, 3) from offsets in the donor to offsets in the host, both in mm along I, J, K."""
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    return np.asarray(scale * rotation @ np.diag(np.where(mirror, -1.0, 1.0)))


def cast(host: Brain, donor: Case, draw: Paste) -> tuple[Box, Labels, NDArray[np.float32]]:
    """The changed tumour in the host's grid: the box that holds it, its labels there, and the
    position in the donor (3, ..., voxels) that each voxel of the box shows."""
    own = tumours(donor.labels, donor.grid)[draw.tumour]
    matrix = forward(draw.rotation_deg, draw.scale, draw.mirror)
    voxels = np.argwhere(own > 0)
    centre = voxels.mean(0)
    reached = (voxels - centre) * donor.grid.spacing @ matrix.T / host.grid.spacing
    room = ROOM_VOXELS + 3 * draw.warp_mm / host.grid.spacing
    low = np.clip(np.floor(draw.site + reached.min(0) - room).astype(int), 0, host.grid.shape)
    high = np.clip(np.ceil(draw.site + reached.max(0) + room).astype(int) + 1, 0, host.grid.shape)
    where = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    size = tuple(s.stop - s.start for s in where)
    warp = fields.warp(
        stage.rng(draw.warp_seed, "warp"), size, host.grid.spacing, WARP_KNOTS_MM, draw.warp_mm
    )
    start = (low - np.array(draw.site))[:, None, None, None]
    offset = (np.indices(size) + start) * host.grid.spacing[:, None, None, None] + warp
    back = np.tensordot(np.linalg.inv(matrix), offset, 1) / donor.grid.spacing[:, None, None, None]
    at = (back + centre[:, None, None, None]).astype(np.float32)
    # Class by class, and the largest share wins, so that thin classes survive.
    shares = [
        ndimage.map_coordinates((own == v).astype(np.float32), at, order=1) for v in (1, 2, 3)
    ]
    labels = np.argmax([1 - np.sum(shares, axis=0), *shares], axis=0).astype(np.uint8)
    return where, labels, at


def apply(host: Case, donor: Case, draw: Paste) -> Mixed:
    """The host's images and labels with the changed tumour; deterministic. What lies outside the
    host's brain is cut."""
    where, labels, at = cast(host, donor, draw)
    pasted = (labels > 0) & host.brain[where]
    here = np.zeros(host.grid.shape, bool)
    here[where] = pasted
    whole = np.zeros_like(host.labels)
    whole[where] = labels
    images = {}
    for modality, image in donor.images.items():
        values = fields.interpolated(image, at.reshape(3, -1), 3).reshape(labels.shape)
        images[modality] = np.zeros_like(host.images[modality])
        if pasted.any():
            images[modality][where] = changed(values, pasted, draw.gamma, draw.blur)
    return pairs.replaced(host, here, images, whole)


def changed(image: Image, tumour: NDArray[np.bool_], gamma: float, blur: float) -> Image:
    """An image with another contrast and sharpness in `tumour`: x to low + range ((x - low) /
    range)^gamma, then brought back to the mean and deviation that x had there; and a Gaussian that
    sees the tumour alone."""
    out = image.astype(np.float32, copy=True)
    values = out[tumour].astype(np.float64)
    extent = np.ptp(values)
    if gamma != 1.0 and extent > 0:
        bent = ((values - values.min()) / extent) ** gamma
        out[tumour] = (bent - bent.mean()) / max(bent.std(), 1e-9) * values.std() + values.mean()
    if blur > 0:
        weight = ndimage.gaussian_filter(tumour.astype(np.float32), blur)
        sums = ndimage.gaussian_filter(np.where(tumour, out, 0), blur)
        out[tumour] = sums[tumour] / weight[tumour]
    return out


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: all samples of one host in one process."""
    parser = pairs.parser("baselines.copypaste", __doc__.splitlines()[0])
    parser.add_argument("--host", required=True, help="the training case that receives tumours")
    parser.add_argument("--out", type=Path, required=True)
    pairs.run("copypaste", "copypaste", sample, apply, parser.parse_args(argv))


if __name__ == "__main__":
    stage.run(main)
