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
from tumorfab.roi import FAR_MM, Roi, soft
from tumorfab.volume import Box, Image, ball_radius, box, lattice, placed, within

# Oedema is sought this far (mm) beyond a ball of core and oedema together: fronts are not round.
OEDEMA_ROOM_MM = 18.0
# Oedema ends over this width (mm) and has lost this share of itself there.
OEDEMA_EDGE_MM, OEDEMA_FADE = 4.0, 0.3
# A core that loses more than this to skull and ventricles was in the wrong place.
MOST_CUT = 0.15


def grow(
    host: Host, rois: Bank, tumour: Tumour, params: dict[str, Any], tumour_free: bool = False
) -> Host:
    """One more tumour in `host`, whose arrays are changed; only the displacement by it, if
    `tumour_free`. Raises `MisfitError` where it has no room."""
    roi, partner = rois.roi(tumour.roi), rois.roi(tumour.partner)
    cast = shape.cast(host.grid, roi, partner, tumour.pose)
    if cast is None:
        raise MisfitError("outside the volume")
    core = (cast.core < 0) & host.brain[cast.where]
    if not core.any():
        raise MisfitError("nothing is left of it inside the brain")
    host = displaced(host, core, cast.where, tumour.mass_effect)
    if tumour_free:
        return host
    room = host.brain[cast.where] & ~host.ventricles[cast.where]
    if np.count_nonzero(core & room) < (1 - MOST_CUT) * np.count_nonzero(cast.core < 0):
        raise MisfitError("cut by skull or ventricles")
    core &= room
    inside = soft(cast.core, params["edge_mm"]) * room
    if not tumour.enhancing:  # all of the core is what its middle is
        cast = replace(cast, necrosis=cast.core - FAR_MM)
    where, density = fluid(host, roi, cast, core, tumour, params)

    part = within(cast.where, where)
    touched = density > 0
    touched[part] |= inside > 0
    swollen = density >= 0.5 * (1 - OEDEMA_FADE)
    swollen[part] |= core
    closed = ~host.brain[where] | host.ventricles[where] | (host.labels[where] > 0)
    outline = oedema.outlined(swollen, closed, host.grid.spacing)
    labels = np.where(outline, 2, 0).astype(np.uint8)
    labels[part][core] = np.where(cast.necrosis < 0, 1, 3)[core]
    relative = np.stack([host.references[m].relative(x[where]) for m, x in host.images.items()])
    look = appearance.between(roi.look, partner.look, tumour.look_share)
    look = appearance.contrasted(look, [tumour.contrast.get(m, 1.0) for m in host.images])
    rng = stage.rng(tumour.seed, "look")
    tissue = host.brain[where] & (host.csf[where] < 0.5)
    grains = np.array([host.grains[m] for m in host.images])
    painted = appearance.oedematous(relative, density, tissue, look, grains, host.grid.spacing, rng)
    index = (slice(None), *part)
    painted[index] = appearance.filled(painted[index], inside, cast.necrosis, cast.at, roi, look)
    _write(host, where, touched, painted, labels)
    return host


def displaced(host: Host, core: NDArray[np.bool_], where: Box, share: float) -> Host:
    """The host displaced by a `core` that fills the box `where`: images, tissues, ventricles and
    the labels of other tumours alike."""
    found = mass_effect.displace(core, where, host.brain, host.csf, host.falx, host.grid, share)
    if found is None:
        return host
    at = found.where
    labels = host.labels[at]
    if labels.any():
        present = [value for value in (1, 2, 3) if (labels == value).any()]
        parts = [found.carry((host.labels == value).astype(np.float32)) for value in present]
        shares = np.stack([1 - np.sum(parts, axis=0), *parts])
        host.labels[at] = np.array([0, *present], np.uint8)[shares.argmax(0)]
    host.ventricles[at] = found.carry(host.ventricles.astype(np.float32)) > 0.5
    for tissue in (host.csf, host.wm):
        tissue[at] = found.carry(tissue)
    for image in host.images.values():
        image[at] = found.carry(image, 3)
    host.changed[at] |= found.moving
    return replace(
        host,
        jacobian=min(host.jacobian, found.jacobian),
        moved_mm=max(host.moved_mm, found.largest_mm),
    )


def fluid(
    host: Host,
    roi: Roi,
    cast: shape.Cast,
    core: NDArray[np.bool_],
    tumour: Tumour,
    params: dict[str, Any],
) -> tuple[Box, Image]:
    """The density of oedema (0..1), and the box that holds it and the cast."""
    where = _around(host, cast.where, core, tumour.oedema_mm3)
    part, size = within(cast.where, where), tuple(s.stop - s.start for s in where)
    csf = host.csf[where]
    closed = ~host.brain[where] | host.ventricles[where] | (host.labels[where] > 0)
    if params["oedema"] == "spread" and tumour.oedema_mm3:
        inner = np.zeros(size, bool)
        inner[part] = core
        shut = closed | mass_effect.blocks_in(host.falx, where, host.grid)
        found = oedema.spread(
            inner, csf, host.wm[where], shut, host.grid.spacing, tumour.oedema_mm3, tumour.seed
        )
        density = oedema.density(found, csf, closed, OEDEMA_EDGE_MM, OEDEMA_FADE)
    elif params["oedema"] == "donor":
        density = np.zeros(size, np.float32)
        density[part] = soft(shape.whole(roi, cast, tumour.pose), params["edge_mm"])
        density *= (1 - csf) * ~closed
    else:
        return cast.where, np.zeros(core.shape, np.float32)
    held = density > 0
    held[part] = True
    tight = box(held)
    return placed(tight, where), density[tight]


def _around(host: Host, where: Box, core: NDArray[np.bool_], oedema_mm3: float) -> Box:
    """The box in which oedema around a core is sought."""
    core_mm3 = np.count_nonzero(core) * host.grid.voxel_volume
    thickness = ball_radius(core_mm3 + oedema_mm3) - ball_radius(core_mm3)
    room = (thickness + OEDEMA_ROOM_MM) / host.grid.spacing
    return tuple(
        slice(max(0, int(s.start - r)), min(n, int(s.stop + r) + 1))
        for s, r, n in zip(where, room, host.grid.shape, strict=True)
    )


def _write(
    host: Host,
    where: Box,
    touched: NDArray[np.bool_],
    painted: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:
    """Replace the `touched` voxels of a box of the host."""
    for (modality, image), part in zip(host.images.items(), painted, strict=True):
        # Within what the host's file can hold without moving its other voxels (volume.lattice).
        limit = 32767 * lattice(image)
        absolute = np.clip(host.references[modality].absolute(part[touched]), -limit, limit)
        image[where][touched] = absolute
    whole = host.labels[where]
    whole[labels > 0] = labels[labels > 0]
    host.changed[where] |= touched | (labels > 0)
