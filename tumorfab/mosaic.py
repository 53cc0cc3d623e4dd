"""One picture per subject to judge its preprocessing by eye: masks, alignment, tissues, tumour.

Several subjects per call, since loading matplotlib takes longer than a picture.
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tumorfab import stage, volume
from tumorfab.bank import case_files
from tumorfab.views import LABEL_COLOURS, LABEL_NAMES, PLANES, View, style, window
from tumorfab.volume import Affine, Image

Mask = NDArray[np.bool_]

ACROSS = 7  # slices per plane
MARGIN_MM = 10.0  # shown around the brain: enough to judge its edge, too little for a face
TISSUE_OPACITY = 0.5
BRAIN, TEMPLATE, WHITE = "brain mask", "brain mask of the template", "white matter"
COLOURS = {
    BRAIN: "#4ade80", TEMPLATE: "#e879f9", WHITE: "#f2b705",
    "CSF": "#3b82f6", "GM": "#e5484d", "WM": "#f2e205",
    **{name: LABEL_COLOURS[value] for value, name in LABEL_NAMES.items()},
}  # fmt: skip
_INCHES = 10.0
_TITLE_INCHES = 0.3


@dataclass(frozen=True, eq=False)
class Band:
    """One image (I, J, K) in rows of slices, with what is drawn over it; all arrays on its grid.

    The greys are those of the voxels of `brain`. `outlines` are masks and `tissues` shares in 0..1,
    by a name of `COLOURS`.
    """

    title: str
    image: Image
    brain: Mask
    rows: Sequence[Sequence[View]]
    outlines: dict[str, Mask] = field(default_factory=dict)
    tissues: dict[str, Image] = field(default_factory=dict)


def slices(brain: Mask, affine: Affine, plane: str, focus: Mask | None = None) -> list[View]:
    """`ACROSS` slices at even steps through the brain, the outermost one step inside its ends.

    The one nearest to the middle of `focus`, a tumour, goes through that.
    """
    view = View.through(brain, brain, affine, plane, MARGIN_MM)
    hit = np.flatnonzero(view.profile(brain))
    places = np.rint(np.linspace(hit[0], hit[-1], ACROSS + 2)[1:-1]).astype(int)
    if focus is not None and focus.any():
        middle = View.through(focus, brain, affine, plane).index
        places[np.abs(places - middle).argmin()] = middle
    return [replace(view, index=int(place)) for place in places]


def draw(bands: Sequence[Band]) -> bytes:
    """The bands below each other as a PNG, all at one scale."""
    sizes = [row[0].size_mm for band in bands for row in band.rows]
    cell = max(width for width, _ in sizes)
    per_mm = _INCHES / (cell * ACROSS)
    heights = [_TITLE_INCHES + per_mm * sum(row[0].size_mm[1] for row in b.rows) for b in bands]
    bottom = total = sum(heights)
    with style():
        figure = Figure(figsize=(_INCHES, total), dpi=100)
        for band, height in zip(bands, heights, strict=True):
            bottom -= height
            axes = figure.add_axes((0, bottom / total, 1, (height - _TITLE_INCHES) / total))
            _draw_band(axes, band, cell)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return _small_png(np.asarray(canvas.buffer_rgba())[..., :3])


def _small_png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG with a palette, half as large: a page holds fifty of them.

    The palette suits the picture, and thin lines keep their colour since it is given them.
    """
    full = PIL.Image.fromarray(np.ascontiguousarray(picture))
    kept = [*COLOURS.values(), "white"]
    lines = [round(255 * part) for colour in kept for part in to_rgb(colour)]
    suited = full.quantize(256 - len(kept), PIL.Image.Quantize.MEDIANCUT).getpalette() or []
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(suited + lines)
    buffer = io.BytesIO()
    full.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _draw_band(axes: Axes, band: Band, cell: float) -> None:
    """Tiles of `cell` mm in width; the axes are in mm, y down."""
    limits = window(band.image[band.brain])
    top = 0.0
    for row in band.rows:
        width, height = row[0].size_mm
        for place, view in enumerate(row):
            left = place * cell + (cell - width) / 2
            _draw_tile(axes, band, view, (left, left + width, top + height, top), limits)
        sides = "AP" if row[0].across == PLANES["sagittal"] else "RL"
        for x, side in zip((0.05 * cell, (ACROSS - 0.05) * cell), sides, strict=True):
            axes.text(x, top + 0.5 * height, side, color="white", ha="center", va="center")
        top += height
    axes.set(xlim=(0, cell * ACROSS), ylim=(top, 0), aspect="auto", xticks=[], yticks=[])
    axes.set_facecolor("black")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(band.title, loc="left", pad=5)
    lines = [Line2D([], [], color=COLOURS[n], label=n, lw=2) for n in band.outlines | band.tissues]
    axes.legend(handles=lines, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(lines),
                borderaxespad=0.1)  # fmt: skip


def _draw_tile(
    axes: Axes,
    band: Band,
    view: View,
    extent: tuple[float, float, float, float],
    limits: tuple[float, float],
) -> None:
    """One slice at `extent`: left, right, bottom, top in mm."""
    plane, (black, white) = view.of(band.image), limits
    # Outside a stripped brain 0 is no intensity: black, where normalised images have mid-grey.
    grey = np.where(plane == 0, 0, np.clip((plane - black) / (white - black), 0, 1))
    picture = np.repeat(grey[..., None], 3, axis=2)
    for name, share in band.tissues.items():
        opacity = TISSUE_OPACITY * view.of(share)[..., None]
        picture += opacity * (np.array(to_rgb(COLOURS[name])) - grey[..., None])
    axes.imshow(np.clip(picture, 0, 1), extent=extent, interpolation="bilinear")
    width, height = view.pixel_mm
    x = extent[0] + width * (np.arange(plane.shape[1]) + 0.5)
    y = extent[3] + height * (np.arange(plane.shape[0]) + 0.5)
    for name, mask in band.outlines.items():
        inside = view.of(mask)
        if inside.any() and not inside.all():
            axes.contour(x, y, inside.astype(float), [0.5], colors=[to_rgba(COLOURS[name])],
                         linewidths=0.9)  # fmt: skip


def bands(
    subject: str, anat: Path, template: Path, label: str, modalities: Sequence[str]
) -> list[Band]:
    """What is shown of a subject: the native reference with its brain mask, each modality in the
    analysis space, the tissue maps.

    `anat` and `template` are the folders that `standardise` read and wrote. Raises `InputError` for
    a file that is missing, broken or on another grid.
    """
    reference, *others = modalities
    native = volume.load(anat / f"sub-{subject}_desc-N4_{reference}.nii.gz")
    brain = _mask(anat / f"sub-{subject}_desc-brain_mask.nii.gz", native.grid)
    rows = [slices(brain, native.affine, plane) for plane in PLANES]
    shown = [Band(f"{reference}, native space", native.data, brain, rows, {BRAIN: brain})]

    files = case_files(anat, subject, label)
    grid = volume.load_grid(files["brain"])
    brain = _mask(files["brain"], grid)
    expected = _mask(template / f"template_space-{label}_desc-brain_mask.nii.gz", grid)
    images = {m: volume.load_on(str(files["image"]).format(m), grid) for m in modalities}
    tissues = {name: volume.load_on(files[name], grid) for name in ("CSF", "GM", "WM")}
    outlines = {TEMPLATE: expected}
    tumour = None
    if files["dseg"].exists():
        labels = volume.load_on(files["dseg"], grid, labels=True)
        tumour = labels > 0
        outlines |= {name: labels == value for value, name in LABEL_NAMES.items()}
    rows = [slices(brain | expected, grid.affine, plane, tumour) for plane in PLANES]
    space = f"{label} space"
    shown.append(Band(f"{reference}, {space}", images[reference], brain, rows, outlines))
    shown.append(Band(f"tissues, {space}", images[reference], brain, rows, tissues=tissues))
    # What the reference calls white matter shows whether another modality lies on it.
    white = {WHITE: tissues["WM"] > 0.5}
    shown += [Band(f"{m}, {space}", images[m], brain, rows[:1], white) for m in others]
    return shown


def _mask(path: Path, grid: volume.Grid) -> Mask:
    return volume.load_on(path, grid, labels=True) > 0


def main(argv: list[str] | None = None) -> None:
    """Draw the quality pictures of some subjects."""
    parser = argparse.ArgumentParser(
        prog="tumorfab mosaic",
        description=main.__doc__,
        fromfile_prefix_chars="@",  # @FILE: one argument a line
    )
    parser.add_argument("--subject", nargs="+", required=True)
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", required=True, help="BIDS label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True, help="first: the reference")
    args = parser.parse_args(argv)
    for subject in stage.progress(args.subject, "quality pictures"):
        folder = args.results / f"sub-{subject}"
        shown = bands(
            subject, folder / "anat", args.results / "template", args.label, args.modality
        )
        with stage.atomic(picture(args.results, subject)) as temporary:
            temporary.write_bytes(draw(shown))


def picture(results: Path, subject: str) -> Path:
    """Where the picture of a subject is."""
    return results / f"sub-{subject}" / "figures" / f"sub-{subject}_desc-qc.png"


if __name__ == "__main__":
    stage.run(main)
