"""A device for a training job. Snakemake counts GPUs; this module hands them out.

Two jobs on one machine must not share card 0. Each leases one of the visible devices by a file lock
that dies with the process, so a killed job never keeps its card.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import torch


def visible(count: int) -> list[str]:
    """Names of the devices that this process may use: CUDA_VISIBLE_DEVICES (SLURM sets it too), or
    the first `count` cards."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return [str(i) for i in range(count)]
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")][:count]


def locks() -> str:
    """Name of the folder of locks that this process shares with those it competes with.

    A SLURM job competes with none but itself: its cards are its own, and where the cluster hides
    the others each job on a node calls its first card 0.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return f"tumorfab-gpus-{job}" if job else "tumorfab-gpus"


def lease(names: list[str], folder: Path, wait_s: float = 2.0) -> tuple[int, FileLock]:
    """Lock the first free of the named devices; returns its position and the held lock.

    Waits, looking every `wait_s` seconds, while all are taken: Snakemake starts no more jobs than
    there are cards, but other users of the machine may.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user's, who opened it to all
        folder.chmod(0o777)
    told = False
    while True:
        for position, name in enumerate(names):
            lock = FileLock(folder / f"gpu-{name.replace('/', '_')}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return position, lock
        if not told:
            print(f"all {len(names)} GPUs are leased; waiting for one", file=sys.stderr, flush=True)
            told = True
        time.sleep(wait_s)


@contextmanager
def device(threads: int) -> Iterator["torch.device"]:
    """A torch device of this process's own for the `with` block; the CPU when there is none.

    On CPU, torch is set to `threads` threads and to deterministic algorithms.
    """
    import torch

    torch.set_num_threads(threads)
    names = visible(torch.cuda.device_count()) if torch.cuda.is_available() else []
    if not names:
        print(f"no GPU visible: running on {threads} CPU threads", file=sys.stderr, flush=True)
        torch.use_deterministic_algorithms(True)
        yield torch.device("cpu")
        return
    position, lock = lease(names, Path(tempfile.gettempdir()) / locks())
    try:
        print(f"leased GPU {names[position]}", file=sys.stderr, flush=True)
        yield torch.device("cuda", position)
    finally:
        lock.release()
