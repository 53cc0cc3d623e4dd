"""Time and memory of TF-Aug on a 240 x 240 x 155 grid at 1 mm, against reading and writing the same
files in the same run.

    python -m benchmarks.coarse [--batch 100] [--hosts 10]

needs no data: hosts are MNI152 painted in four contrasts with noise, donors are warped balls. One
core. Writes benchmarks/results.json and docs/coarse_cost.png.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tumorfab import bank, config, fields, mass_effect, mni152, place, samples, stage, volume
from tumorfab.anatomy import Plane
from tumorfab.bank import Bank, describe
from tumorfab.contrast import Reference
from tumorfab.host import Host
from tumorfab.roi import analysed
from tumorfab.volume import Grid, Volume

GRID = Grid(
    (240, 240, 155), np.array([[-1.0, 0, 0, 120], [0, -1, 0, 100], [0, 0, 1, -72], [0, 0, 0, 1]])
)
MODALITIES = ("T1w", "T1c", "T2w", "FLAIR")
# Tissue-relative intensities of CSF, GM, WM and of NCR, ED, ET.
CONTRAST = {
    "T1w": ((-2.5, -0.5, 0.5), (-1.5, -0.8, -0.5)),
    "T1c": ((-2.5, -0.5, 0.5), (-1.2, -0.8, 2.0)),
    "T2w": ((3.0, 0.5, -0.5), (2.5, 2.0, 1.2)),
    "FLAIR": ((-2.0, 0.5, -0.5), (0.0, 2.2, 1.5)),
}
CORES_ML = (2, 10, 25, 50, 100)
TYPICAL_ML = 25
REPEATS = 5


def host(name: str, modalities: tuple[str, ...]) -> Host:
    """MNI152 on the grid, in several contrasts, with noise of its own."""
    mni = mni152.template()
    csf, gm, wm = (
        np.clip(volume.resample(Volume(part, mni.t1.affine), GRID), 0, 1)
        for part in (mni.csf, mni.gm, mni.wm)
    )
    brain = csf + gm + wm > 0.5
    inner = volume.resample(Volume(mni.ventricles.astype(np.float32), mni.t1.affine), GRID) > 0.5
    rng = stage.rng(0, "bench", name)
    images = {}
    for modality in modalities:
        image = sum(v * t for v, t in zip(CONTRAST[modality][0], (csf, gm, wm), strict=True))
        image = image + 0.1 * rng.standard_normal(GRID.shape)
        images[modality] = np.where(brain, image, 0).astype(np.float32)
    plane = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    falx = mass_effect.falx(brain, GRID, plane)
    return Host(
        name, images, dict.fromkeys(modalities, Reference(0.0, 1.0)),
        dict.fromkeys(modalities, 0.1), brain, csf, wm, inner,
        np.zeros(GRID.shape, np.uint8), brain, plane, falx, np.eye(4), GRID,
        np.zeros(GRID.shape, bool),
    )  # fmt: skip


def rois(folder: Path, core_ml: float, modalities: tuple[str, ...]) -> Bank:
    """Two donors: warped balls of `core_ml` with a necrotic middle and a shell of oedema."""
    radius = volume.ball_radius(1000 * core_ml)
    edge = int(2 * (1.5 * radius + 14))
    grid = Grid((edge, edge, edge), np.eye(4))
    for donor in ("A", "B"):
        rng = stage.rng(0, "bench", donor, str(core_ml))
        index = np.indices(grid.shape, np.float32) - edge / 2
        index += fields.warp(rng, grid.shape, grid.spacing, 12.0, 2.0)
        apart = np.sqrt((index**2).sum(0))
        labels = np.select(
            [apart < 0.6 * radius, apart < radius, apart < 1.45 * radius], [1, 3, 2], 0
        )
        labels = labels.astype(np.uint8)
        images = {}
        for modality in modalities:
            means = np.array([0.0, *CONTRAST[modality][1]])
            images[modality] = means[labels] + 0.2 * rng.standard_normal(grid.shape)
        roi = analysed(donor, 0, labels, images, dict.fromkeys(modalities, 0.1), grid.spacing)
        box = tuple(slice(0, n) for n in grid.shape)
        bank.save(folder / f"sub-{donor}_rois.npz", [roi])
        about = {"licence": "CC0", "rois": [describe(roi, box, grid, np.eye(4))]}
        stage.write_json(folder / f"sub-{donor}_rois.json", about)
    return bank.load(folder, ["A", "B"])


def seconds(work: Callable[[], Any]) -> float:
    """The least time of `REPEATS`."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def write(made: Host, sidecar: Path) -> None:
    """The five files of a sample."""
    for modality, image in made.images.items():
        volume.save(samples.image(sidecar, modality), image, GRID.affine)
    volume.save(samples.dseg(sidecar), made.labels, GRID.affine)


def read(made: Host, sidecar: Path) -> None:
    """The same five files."""
    for modality in made.images:
        volume.load(samples.image(sidecar, modality))
    volume.load_labels(samples.dseg(sidecar))


def one(healthy: Host, donors: Bank, params: dict[str, Any], folder: Path) -> dict[str, float]:
    """Seconds of one sample: computing it, writing it, reading it."""
    rng = stage.rng(1, "bench")
    found = place.make(rng, healthy, donors, params)
    sidecar, used = folder / "sample.json", healthy.copy()

    def computed() -> None:
        made = place.apply(healthy, donors, found.draw, params, used)
        place.checks(healthy, made, found.draw)

    compute = seconds(computed)
    return {
        "compute": compute,
        "write": seconds(lambda: write(found.made, sidecar)),
        "read": seconds(lambda: read(found.made, sidecar)),
    }


def batch(job: tuple[int, int]) -> float:
    """Seconds per sample of one host's samples, drawing and files included, its own set-up not."""
    number, count = job
    params = settings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        healthy, donors = host(f"host{number}", MODALITIES), rois(folder, TYPICAL_ML, MODALITIES)
        _ = donors.roi("A-0"), donors.roi("B-0")  # read once
        used = healthy.copy()
        start = time.perf_counter()
        for index in range(count):
            found = place.make(stage.rng(number, "batch", index), healthy, donors, params, used)
            write(found.made, folder / f"sample{index % 2}.json")
        return (time.perf_counter() - start) / count


def settings(**changes: Any) -> dict[str, Any]:
    """The default `place` section, with a displacement of typical strength."""
    defaults = config.validated({})["place"]
    return {**defaults, "donor": "", "site_mni_mm": [], "mass_effect": [0.25, 0.25], **changes}


def plot(sizes: dict[float, float], counts: dict[int, float], path: Path) -> None:
    """How computing grows with the tumour's size and the number of modalities."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for ax, found, label in zip(axes, (sizes, counts), ("core, ml", "modalities"), strict=True):
        ax.plot(list(found), list(found.values()), "o-", color="#1f6f8b")
        ax.set_xlabel(label)
        ax.set_ylim(0)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per sample, computing")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=0, help="samples made by two processes")
    parser.add_argument("--hosts", type=int, default=10, help="hosts that they are made from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    args = parser.parse_args()
    threadpool_limits(1)
    params = settings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        healthy = host("host", MODALITIES)
        by_size = {
            ml: one(healthy, rois(folder / str(ml), ml, MODALITIES), params, folder)
            for ml in CORES_ML
        }
        typical = by_size[TYPICAL_ML]
        by_count = {
            n: one(
                replace(healthy, images={m: healthy.images[m] for m in MODALITIES[:n]}, sites={}),
                rois(folder / f"m{n}", TYPICAL_ML, MODALITIES[:n]),
                params,
                folder,
            )
            for n in (1, 2, 3, 4)
        }
    io = typical["read"] + typical["write"]
    results = {
        "coarse_4mod_240x240x155_seconds": typical["compute"] + typical["write"],
        "coarse_4mod_io_seconds": io,
        "coarse_4mod_compute_seconds": typical["compute"],
        "coarse_4mod_compute_over_io": typical["compute"] / io,
        "coarse_compute_seconds_by_core_ml": {ml: t["compute"] for ml, t in by_size.items()},
        "coarse_compute_seconds_by_modalities": {n: t["compute"] for n, t in by_count.items()},
        "coarse_peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if args.batch:
        shares = [(h, -(-args.batch // args.hosts)) for h in range(args.hosts)]
        with ProcessPoolExecutor(1) as pool:  # the samples of two hosts, nothing beside it
            alone = list(pool.map(batch, shares[:2]))
        with ProcessPoolExecutor(2) as pool:
            together = list(pool.map(batch, shares))
        results["coarse_batch_seconds_per_sample"] = float(np.mean(together))
        results["coarse_batch_same_samples_alone_seconds"] = float(np.mean(alone))
        results["coarse_batch_two_processes_over_one"] = float(
            np.mean(together[:2]) / np.mean(alone)
        )
    known = stage.read_json(args.out) if args.out.exists() else {}
    stage.write_json(args.out, {**known, **results})
    plot(
        results["coarse_compute_seconds_by_core_ml"],
        results["coarse_compute_seconds_by_modalities"],
        Path(__file__).parents[1] / "docs" / "coarse_cost.png",
    )
    for key, value in results.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
