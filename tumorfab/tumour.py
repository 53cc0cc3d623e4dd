"""One more tumour in a brain, in four steps: its core's shape (`shape`), the displacement of the
brain around it (`mass_effect`), oedema in what lies there then (`oedema`), and the look of both
(`appearance`).

Everything is deterministic. Nothing is computed outside the boxes that a step reaches.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab import appearance, mass_effect, oedema, shape, stage
from tumorfab.bank import Bank
from tumorfab.draw import MisfitError, Tumour
from tumorfab.host import Host
from tumorfab.roi import soft
from tumorfab.volume import Box, Image, lattice, within

# Oedema is sought this far (mm) beyond a ball of core and oedema together: fronts are not round.
OEDEMA_ROOM_MM = 18.0
# Oedema ends over this width (mm) and has lost this share of itself there.
OEDEMA_EDGE_MM, OEDEMA_FADE = 4.0, 0.3
# A core that loses more than this to skull and ventricles was in the wrong place.
MOST_CUT = 0.15


def grow(
    host: Host, rois: Bank, tumour: Tumour, params: dict[str, Any], tumour_free: bool = False
) -> Host:
    """One more tumour in `host`; without it, only the displacement by it, if `tumour_free`."""
    roi, partner = rois.roi(tumour.roi), rois.roi(tumour.partner)
    cast = shape.cast(host.grid, roi, partner, tumour.pose)
    if cast is None:
        raise MisfitError("outside the volume")
    core = (cast.core < 0) & host.brain[cast.where]
    if not core.any():
        raise MisfitError("nothing is left of it inside the brain")
    host = moved(host, core, cast.where, tumour.mass_effect)
    if tumour_free:
        return host
    ventricles = host.ventricles[cast.where]
    kept = core & ~ventricles
    if kept.sum() < (1 - MOST_CUT) * (cast.core < 0).sum():
        raise MisfitError("cut by skull or ventricles")
    inside = soft(cast.core, params["edge_mm"]) * (host.brain[cast.where] & ~ventricles)
    if not tumour.enhancing:  # all of the core is what its middle is
        cast = replace(cast, necrosis=cast.core - np.float32(20))
    where, around = oedematous_box(host, cast.where, kept, tumour.oedema_mm3)
    density = fluid(host, cast, where, around, tumour, params)
    labels = np.where(density >= 0.5 * (1 - OEDEMA_FADE), 2, 0).astype(np.uint8)
    part = within(cast.where, where)
    labels[part][kept] = np.where(cast.necrosis < 0, 1, 3)[kept]

    references = list(host.references.values())
    relative = np.stack(
        [r.relative(x[where]) for r, x in zip(references, host.images.values(), strict=True)]
    )
    look = appearance.between(roi.look, partner.look, tumour.look_share)
    rng = stage.rng(tumour.seed, "look")
    tissue = host.brain[where] & (host.csf[where] < 0.5)
    painted = appearance.oedematous(relative, density, tissue, look, host.grid.spacing, rng)
    index = (slice(None), *part)
    painted[index] = appearance.filled(painted[index], inside, cast.necrosis, cast.at, roi, look)
    touched = density > 0
    touched[part] |= inside > 0
    return _written(host, where, touched, painted, labels)


def moved(host: Host, core: NDArray[np.bool_], where: Box, share: float) -> Host:
    """The host displaced by a `core` that fills the box `where`: images, tissues, ventricles and
    the labels of other tumours alike."""
    if share == 0:
        return host
    found = mass_effect.displace(core, where, host.brain, host.csf, host.falx, host.grid, share)
    if found is None:
        return host

    def carried(array: NDArray, order: int = 1) -> NDArray:
        out = array.copy()
        out[found.where] = found.carry(array, order)
        return out

    labels = host.labels
    if labels.any():
        present = [value for value in (1, 2, 3) if (labels == value).any()]
        parts = [carried((labels == value).astype(np.float32)) for value in present]
        shares = np.stack([1 - np.sum(parts, axis=0), *parts])
        labels = np.array([0, *present], np.uint8)[shares.argmax(0)]
    changed = host.changed.copy()
    changed[found.where] |= found.moving
    return replace(
        host,
        images={m: carried(image, 3) for m, image in host.images.items()},
        csf=carried(host.csf),
        wm=carried(host.wm),
        ventricles=carried(host.ventricles.astype(np.float32)) > 0.5,
        labels=labels,
        changed=changed,
        jacobian=min(host.jacobian, found.jacobian),
        moved_mm=max(host.moved_mm, found.largest_mm),
        sites={},
    )


def oedematous_box(
    host: Host, where: Box, core: NDArray[np.bool_], oedema_mm3: float
) -> tuple[Box, NDArray[np.bool_]]:
    """The box in which oedema is sought, and the core in it."""
    core_mm3 = core.sum() * host.grid.voxel_volume
    radii = [(3 * v / (4 * np.pi)) ** (1 / 3) for v in (core_mm3, core_mm3 + oedema_mm3)]
    room = (radii[1] - radii[0] + OEDEMA_ROOM_MM * (oedema_mm3 > 0)) / host.grid.spacing
    wide = tuple(
        slice(max(0, int(s.start - r)), min(n, int(s.stop + r) + 1))
        for s, r, n in zip(where, room, host.grid.shape, strict=True)
    )
    inner = within(where, wide)
    around = np.zeros([s.stop - s.start for s in wide], bool)
    around[inner] = core
    return wide, around


def fluid(
    host: Host,
    cast: shape.Cast,
    where: Box,
    core: NDArray[np.bool_],
    tumour: Tumour,
    params: dict[str, Any],
) -> Image:
    """The density of oedema (0..1) in the box `where`."""
    csf, spacing = host.csf[where], host.grid.spacing
    closed = ~host.brain[where] | host.ventricles[where] | (host.labels[where] > 0)
    if params["oedema"] == "spread":
        shut = closed | mass_effect.blocks_in(host.falx, where, host.grid)
        found = oedema.spread(
            core, csf, host.wm[where], shut, spacing, tumour.oedema_mm3, tumour.seed
        )
        return oedema.density(found, csf, closed, OEDEMA_EDGE_MM, OEDEMA_FADE)
    if params["oedema"] == "donor":
        distance = np.full(core.shape, np.inf, np.float32)
        part = within(cast.where, where)
        distance[part] = cast.whole
        inside = soft(distance, params["edge_mm"]) * (1 - csf)
        return np.where(closed, 0, inside).astype(np.float32)
    return np.zeros(core.shape, np.float32)


def _written(
    host: Host,
    where: Box,
    touched: NDArray[np.bool_],
    painted: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> Host:
    """The host with the `touched` voxels of a box replaced."""
    images = {}
    for (modality, image), part in zip(host.images.items(), painted, strict=True):
        # Within what the host's file can hold without moving its other voxels (volume.lattice).
        limit = 32767 * lattice(image)
        absolute = np.clip(host.references[modality].absolute(part[touched]), -limit, limit)
        images[modality] = image.copy()
        images[modality][where][touched] = absolute
    whole, changed = host.labels.copy(), host.changed.copy()
    whole[where] = np.where(labels > 0, labels, whole[where])
    changed[where] |= touched
    return replace(host, images=images, labels=whole, changed=changed, sites={})
