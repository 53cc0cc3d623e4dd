"""Everything random about a coarse sample, drawn before anything is computed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab import shape, sites
from tumorfab.bank import Bank
from tumorfab.host import APART_MM, Host
from tumorfab.roi import core_mm3
from tumorfab.shape import Pose
from tumorfab.stage import InputError
from tumorfab.volume import ball_radius

# Enhancing tumour below this (mm^3) is not a class of its own.
LEAST_ENHANCING_MM3 = 100.0
# How much of the core may lie outside the brain, in ventricles (which give way) and in other CSF.
MOST_OUTSIDE, MOST_IN_VENTRICLES, MOST_IN_CSF = 0.02, 0.05, 0.3
# Spread (sd of the logarithm) of the oedema's volume around the cohort's.
OEDEMA_SPREAD = 0.3


class MisfitError(Exception):
    """A draw that the host cannot take; the message is the reason, in few words."""


@dataclass(frozen=True)
class Tumour:
    """One tumour, in plain JSON-ready values. `look_share` is how far its look is the partner's;
    `mass_effect` the peak displacement as a share of the core's radius; `contrast` a factor per
    modality by which it differs more from the brain than the donor did (empty: as the donor)."""

    roi: str
    partner: str
    pose: Pose
    look_share: float
    enhancing: bool
    mass_effect: float
    oedema_mm3: float
    seed: int
    contrast: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """One sample: its tumours, and whether they are left out of image and label, so that only the
    displacement remains (`tumour_free`)."""

    tumours: list[Tumour]
    tumour_free: bool

    @staticmethod
    def read(record: dict[str, Any]) -> "Draw":
        """The draw that a sidecar holds."""
        tumours = [Tumour(**{**t, "pose": Pose(**t["pose"])}) for t in record["tumours"]]
        return Draw(tumours, record["tumour_free"])


def sample(rng: np.random.Generator, host: Host, bank: Bank, params: dict[str, Any]) -> Draw:
    """Draw one sample; `params` is the config's `place` section, with what is wished for this
    sample in it. Raises `MisfitError` where the host has no room for what was drawn."""
    low, high = params["count"]
    free = bool(rng.random() < params["tumour_free"])
    tumours: list[Tumour] = []
    for _ in range(rng.integers(low, high + 1)):
        tumours.append(_tumour(rng, host, bank, params, tumours))
    return Draw(tumours, free)


def _tumour(
    rng: np.random.Generator,
    host: Host,
    bank: Bank,
    params: dict[str, Any],
    others: list[Tumour],
) -> Tumour:
    names = donors(bank, params["preset"], params["donor"])
    name, partner = (names[i] for i in rng.integers(len(names), size=2))
    roi, about = bank.roi(name), bank.about[name]
    low, high = np.log(params["scale"])
    scale = np.exp(rng.uniform(low, high, 3))
    if params["volume_ml"]:
        wanted = rng.uniform(*params["volume_ml"]) * 1000
        scale *= (wanted / (core_mm3(about) * scale.prod())) ** (1 / 3)
    turn = params["rotation_deg"]
    mirror = bool(rng.integers(2))
    rotation = [float(a) for a in rng.uniform(-turn, turn, 3)]
    # A size that was asked for is not changed again by growth.
    grow = 0.0 if params["volume_ml"] else float(rng.uniform(*params["grow_mm"]))
    pose = Pose(
        site=_site(rng, host, bank, params),
        rotation_deg=rotation,
        scale=[float(s) for s in scale],
        mirror=mirror,
        warp_mm=params["warp_mm"],
        warp_seed=int(rng.integers(2**31)),
        grow_mm=grow,
        partner_share=float(rng.uniform(0, params["partner"])) if partner != name else 0.0,
    )
    _refuse(host, shape.voxels(host.grid, roi, pose), pose, bank, others)
    volume = core_mm3(about) * float(scale.prod())
    return Tumour(
        roi=name,
        partner=partner,
        pose=pose,
        look_share=float(rng.uniform(0, params["look"])) if partner != name else 0.0,
        enhancing=params["preset"] != "lgg",
        mass_effect=float(rng.uniform(*params["mass_effect"])),
        oedema_mm3=_oedema(rng, bank, volume, params),
        seed=int(rng.integers(2**31)),
        contrast=_contrast(rng, list(host.images), params),
    )


def donors(bank: Bank, preset: str, donor: str) -> list[str]:
    """Names of the ROIs that a preset and a donor leave; `MisfitError` where there is none."""
    rois = {n: a for n, a in bank.about.items() if donor in ("", a["donor"], n)}
    if not rois:
        raise MisfitError(f"no donor {donor} in the bank")

    def enhances(about: dict[str, Any]) -> bool:
        return bool(about["classes"]["ET"]["volume_mm3"] >= LEAST_ENHANCING_MM3)

    if preset == "hgg":
        rois = {n: a for n, a in rois.items() if enhances(a)}
        if not rois:
            raise MisfitError("no enhancing tumour in the bank, which preset hgg needs")
    if preset == "lgg":  # those without enhancement first; else the rim is given the core's look
        rois = {
            n: a
            for n, a in rois.items()
            if a["classes"]["NCR"]["volume_mm3"] >= LEAST_ENHANCING_MM3
        }
        if not rois:
            raise MisfitError("no tumour with a core that does not enhance, which preset lgg needs")
        rois = {n: a for n, a in rois.items() if not enhances(a)} or rois
    return list(rois)


def _site(rng: np.random.Generator, host: Host, bank: Bank, params: dict[str, Any]) -> list[int]:
    if params["site_mni_mm"]:
        site = sites.voxel(params["site_mni_mm"], host.to_mni, host.grid)
        inside = all(0 <= v < n for v, n in zip(site, host.grid.shape, strict=True))
        if not inside or not host.brain[tuple(site)]:
            raise MisfitError("the site that was asked for lies outside the brain")
        return site
    voxels, weights = host_sites(host, bank, params["region"], params["side"])
    if not len(voxels):
        raise MisfitError("the host has no tissue in the region that was asked for")
    chosen = voxels[np.searchsorted(np.cumsum(weights), rng.random() * weights.sum())]
    return [int(v) for v in chosen]


def host_sites(
    host: Host, bank: Bank, region: str, side: str
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """`sites.candidates` of a host, found once per host and wish."""
    key = (str(bank.folder), tuple(bank.about), region, side)
    if key not in host.sites:
        host.sites[key] = sites.candidates(
            host.tissue, host.grid, host.to_mni, host.plane, list(bank.about.values()), region, side
        )
    return host.sites[key]


def _refuse(
    host: Host, core: NDArray[np.int_], pose: Pose, bank: Bank, others: list[Tumour]
) -> None:
    """Raise `MisfitError` where the core's voxels (N, 3) do not fit the host."""
    within = ((core >= 0) & (core < host.grid.shape)).all(1)
    i, j, k = core[within].T
    if host.brain[i, j, k].sum() < (1 - MOST_OUTSIDE) * len(core):
        raise MisfitError("outside the brain")
    if host.ventricles[i, j, k].sum() > MOST_IN_VENTRICLES * len(core):
        raise MisfitError("in a ventricle")
    if (host.csf[i, j, k] > 0.5).sum() > MOST_IN_CSF * len(core):
        raise MisfitError("in CSF")
    if host.labels[i, j, k].any():
        raise MisfitError("on another tumour")
    for other in others:
        apart = (np.array(other.pose.site) - pose.site) * host.grid.spacing
        theirs = core_mm3(bank.about[other.roi]) * float(np.prod(other.pose.scale))
        ours = len(core) * host.grid.voxel_volume
        if np.linalg.norm(apart) < ball_radius(theirs) + ball_radius(ours) + APART_MM:
            raise MisfitError("too near another tumour")


def _oedema(rng: np.random.Generator, bank: Bank, core: float, params: dict[str, Any]) -> float:
    """Volume of oedema in mm^3 for a core of `core` mm^3: as a tumour of the cohort has, of about
    that size rather than another, grown like the core's surface and varied a little."""
    if params["oedema"] == "none":
        return 0.0
    if params["oedema_ratio"]:
        return float(rng.uniform(*params["oedema_ratio"]) * core)
    cores = np.array([core_mm3(a) for a in bank.about.values()])
    around = np.array([a["classes"]["ED"]["volume_mm3"] for a in bank.about.values()])
    near = np.exp(-0.5 * (np.log(np.maximum(cores, 1) / max(core, 1)) / 0.7) ** 2) + 1e-6
    chosen = rng.choice(len(cores), p=near / near.sum())
    varied = np.exp(rng.normal(0, OEDEMA_SPREAD))
    return float(around[chosen] * (core / max(cores[chosen], 1)) ** (2 / 3) * varied)


def _contrast(
    rng: np.random.Generator, modalities: list[str], params: dict[str, Any]
) -> dict[str, float]:
    """A factor per modality, evenly on a logarithmic scale; none where there is nothing to draw."""
    low, high = np.log(params["contrast"])
    if low == high == 0:
        return {}
    return {m: float(np.exp(rng.uniform(low, high))) for m in modalities}


def check(bank: Bank, params: dict[str, Any]) -> None:
    """Raises `InputError` where the bank can never serve the config's own wishes."""
    try:
        donors(bank, params["preset"], params["donor"])
    except MisfitError as reason:
        raise InputError(
            f"config: place.preset: {reason}; change it or the training cases"
        ) from None
