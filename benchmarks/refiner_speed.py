"""How fast TF-GAN trains and refines on the device at hand, against the same networks in float32.

    python -m benchmarks.refiner_speed [--out FILE]

needs no data. Modes are timed in turn, several times round, and the median of each is given: memory
layout, precision and `refiner.compile`. On a GPU also the share of what a large bfloat16 matrix
product reaches there, peak memory, and the device time of refining one tumour of 240 x 240 x 155.
"""

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tumorfab import config, gpu, judge, refine, refiner, stage
from tumorfab.networks import settled
from tumorfab.players import Players

MODALITIES = 4
CASES = 8  # real ones
GRID = (240, 240, 155)
SPACING = np.ones(3)  # mm
RADII = (46, 50, 40)  # voxels of 1 mm: half axes of a large whole tumour
ROUNDS, STEPS = 5, 5
# Memory layout, mixed precision, compiled.
MODES = {
    "float32, NCDHW": (torch.contiguous_format, False, False),
    "float32, channels last": (torch.channels_last_3d, False, False),
    "bfloat16, channels last": (torch.channels_last_3d, True, False),
    "bfloat16, NCDHW": (torch.contiguous_format, True, False),
    "bfloat16, NCDHW, compiled": (torch.contiguous_format, True, True),
}


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: torch.device, count: int) -> float:
    """Time of one of `count` calls in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / count


def ceiling(device: torch.device) -> float:
    """Operations per second of a large matrix product: bfloat16 on a GPU, float32 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds(lambda: a @ b, device, 3)
    return 2 * size**3 / statistics.median(seconds(lambda: a @ b, device, 5) for _ in range(5))


def stepper(
    mode: str, params: dict[str, Any], batch: tuple[torch.Tensor, ...], device: torch.device
) -> Callable[[], None]:
    """One training step of all players in a mode."""
    layout, mixed, compiled = MODES[mode]
    torch.manual_seed(0)
    params = params | {"compile": compiled}
    players = Players.new(MODALITIES, params, judge.reach(SPACING), CASES, device)
    for part in (players.encoder, players.generator, players.discriminator):
        part.to(memory_format=layout)
    plain = nullcontext() if mixed else mock.patch.object(refiner, "fast", _plain)

    def step() -> None:
        with plain:
            players.compete(*batch, params, 0)

    return step


def _plain(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=False)


def training(params: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Voxels per second in each mode, both kinds of patches counted."""
    shape = (params["batch"], MODALITIES, *(params["patch"],) * 3)
    images = [torch.randn(shape, device=device) for _ in range(2)]
    labels = [torch.randint(0, 4, (shape[0], *shape[2:]), device=device) for _ in range(2)]
    batch = (images[0], labels[0], images[1], labels[1])
    # On a CPU bytes must repeat: it runs in float32, and nothing there is compiled.
    names = [name for name, (_, mixed, _) in MODES.items() if device.type == "cuda" or not mixed]
    steps = {name: stepper(name, params, batch, device) for name in names}
    with FlopCounterMode(display=False) as counter:
        steps[names[0]]()
    operations = counter.get_total_flops()
    memory = {}
    for name, step in steps.items():
        seconds(step, device, 3)  # compiles, and lets the library choose its kernels
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            memory[name] = torch.cuda.max_memory_allocated() / 2**20
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(seconds(step, device, STEPS))
    most = ceiling(device)
    found = {}
    for name, values in times.items():
        step_s = statistics.median(values)
        found[name] = {
            "step_seconds": step_s,
            "voxels_per_second": 2 * images[0][:, 0].numel() / step_s,
            "over_plain": statistics.median(times[names[0]]) / step_s,
            "share_of_ceiling": operations / step_s / most,
            "peak_memory_mb": memory.get(name),
        }
    return {"modes": found, "operations_per_step": operations, "ceiling_per_second": most}


def inference(channels: int, device: torch.device) -> dict[str, float]:
    """Seconds of refining one large tumour in four modalities."""
    torch.manual_seed(0)
    generator = refiner.Generator(MODALITIES, channels, judge.reach(SPACING))
    generator = settled(generator, device).eval()
    axes = [(np.arange(n) - n / 2) / r for n, r in zip(GRID, RADII, strict=True)]
    apart = np.sqrt(sum(np.square(x) for x in np.meshgrid(*axes, indexing="ij")))
    labels = np.select([apart < 0.4, apart < 0.6, apart < 1], [1, 3, 2], 0).astype(np.uint8)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal(GRID).astype(np.float32) for _ in range(MODALITIES)]
    references, contrasts = [[0.0, 1.0]] * MODALITIES, [1.2] * MODALITIES
    where = judge.window(labels, SPACING)
    window = torch.from_numpy(np.stack([image[where] for image in images]))[None]
    edges = [n - n % 4 for n in window.shape[2:]]
    x = window[..., : edges[0], : edges[1], : edges[2]].contiguous().to(device)
    y = torch.from_numpy(labels[where])[None, : edges[0], : edges[1], : edges[2]].to(device).long()

    @torch.no_grad()
    def forward(several: torch.Tensor, wanted: torch.Tensor) -> None:
        generator(several, wanted)

    found = {}
    for count in (1, 4):
        work = partial(forward, x.repeat(count, 1, 1, 1, 1), y.repeat(count, 1, 1, 1))
        seconds(work, device, 2)
        each = [seconds(work, device, 2) / count for _ in range(ROUNDS)]
        found[f"device_seconds_of_one_in_{count}"] = statistics.median(each)
    sample = images, labels, references, contrasts, SPACING
    whole = [seconds(lambda: refine.refine(generator, *sample), device, 1) for _ in range(3)]
    return found | {"all_but_files_seconds": statistics.median(whole)}


def main(argv: list[str] | None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    sizes = {name: getattr(args, name) for name in ("patch", "batch", "channels")}
    params = config.validated({})["refiner"] | sizes
    with gpu.device(args.threads) as device:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        result = {
            "device": f"{name}, {args.threads} CPU threads",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "settings": sizes,
            "training": training(params, device),
            "inference": inference(args.channels, device),
            "memory_of_the_process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    for mode, values in result["training"]["modes"].items():
        print(mode, {key: value and round(value, 4) for key, value in values.items()})
    print(result["inference"])
    if args.out:
        stage.write_json(args.out, result)


if __name__ == "__main__":
    stage.run(main)
