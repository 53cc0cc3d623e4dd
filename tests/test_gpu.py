import multiprocessing
import os
import signal

import pytest
from filelock import Timeout

from tumorfab import gpu


def test_visible_honours_the_environment(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.visible(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert gpu.visible(2) == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.visible(0) == []


def test_jobs_of_slurm_do_not_wait_for_each_others_cards(tmp_path, monkeypatch):
    """Where the cluster confines devices, every job on a node finds its own card under number 0."""
    taken = []
    for job in ("71", "72"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        taken.append(gpu.lease(["0"], tmp_path / gpu.locks()))
    assert [position for position, _ in taken] == [0, 0]
    with pytest.raises(Timeout):  # within one job a card is still leased once
        gpu.FileLock(tmp_path / gpu.locks() / "gpu-0.lock").acquire(timeout=0)
    monkeypatch.delenv("SLURM_JOB_ID")
    shared = gpu.locks()
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    assert gpu.locks() != shared


def hold(folder, ready):
    position, _lock = gpu.lease(["4", "5"], folder)
    ready.send(position)
    signal.pause()


def test_two_jobs_get_two_devices_and_a_killed_one_gives_its_back(tmp_path):
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    jobs = [context.Process(target=hold, args=(tmp_path, send), daemon=True) for _ in range(3)]
    for job in jobs[:2]:
        job.start()
    assert sorted(next_from(receive) for _ in range(2)) == [0, 1]
    for name in ("4", "5"):
        with pytest.raises(Timeout):
            gpu.FileLock(tmp_path / f"gpu-{name}.lock").acquire(timeout=0)
    os.kill(jobs[0].pid, signal.SIGKILL)
    jobs[0].join()
    jobs[2].start()
    assert next_from(receive) in (0, 1)
    for job in jobs:
        job.kill()
        job.join()


def next_from(pipe):
    assert pipe.poll(60), "no job took a device"
    return pipe.recv()


def test_without_a_gpu_the_cpu_is_used_and_said(capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with gpu.device(1) as device:
        assert device.type == "cpu"
    assert capsys.readouterr().err == "no GPU visible: running on 1 CPU threads\n"
