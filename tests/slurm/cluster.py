"""A real SLURM on this machine: munged, slurmctld and slurmd, one node, two GPUs that are none.

The GPUs are two character devices; SLURM counts them, hands them out and sets
CUDA_VISIBLE_DEVICES, which is all that is tested. Needs root, and apt where SLURM is not installed.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
GPUS = 2
CPUS = 8  # said, not owned: so that nothing but the GPUs keeps a third GPU job waiting
PATIENCE_S = 60

SLURM_CONF = """
ClusterName=tumorfab
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
PlugStackConfig={root}/plugstack.conf
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer_batch
MinJobAge=3600
ReturnToService=2
KillWait=1
GresTypes=gpu
NodeName={host} CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus}
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
TaskProlog={root}/prolog
Epilog={root}/epilog
"""
SRUN = 'SLURM_CONF={conf} exec {srun} "$@"'
# What SLURM itself saw: each task of a job with its environment, and the end of each job.
PROLOGS = {
    "prolog": "echo $(date +%s.%N) $SLURM_JOB_ID ${{CUDA_VISIBLE_DEVICES:-none}} >> {root}/starts",
    "epilog": "echo $(date +%s.%N) $SLURM_JOB_ID >> {root}/ends",
}


class Cluster:
    """A running SLURM; `env` is what its clients need in their environment."""

    def __init__(self, root: Path) -> None:
        self.root, self.host = root, socket.gethostname().partition(".")[0]
        path = f"{root}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, "SLURM_CONF": str(root / "slurm.conf"), "PATH": path}

    def call(self, *command: str) -> str:
        """Standard output of a SLURM client."""
        return subprocess.run(
            command, env=self.env, check=True, capture_output=True, text=True
        ).stdout

    def node(self, **settings: str) -> None:
        """Change the node, as `scontrol update` does."""
        options = [f"{name}={value}" for name, value in settings.items()]
        self.call("scontrol", "update", f"NodeName={self.host}", *options)


def why_not() -> str:
    """Why no SLURM can be started here; empty where it can."""
    if os.geteuid() != 0:
        return "SLURM's daemons must be started by root"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing and not shutil.which("apt-get"):
        return f"{missing[0]} is not installed and there is no apt-get to install it"
    return ""


def install() -> None:
    """Install what is missing, without letting the packages start services."""
    if all(shutil.which(name) for name in PROGRAMS):
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *command], env=env, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running(root: Path) -> Iterator[Cluster]:
    """A SLURM whose files are all below `root`, for the time of a `with` block."""
    cluster = Cluster(root)
    munge = _configure(cluster)
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            with open(root / f"{command[0]}.out", "wb") as out:
                daemons.append(subprocess.Popen(command, env=cluster.env, stdout=out, stderr=out))
            if command is munge:
                _until((root / "munge.socket").exists, "munged", root)
        _until(lambda: "IDLE" in cluster.call("scontrol", "show", "node"), "the node", root)
        yield cluster
    finally:
        subprocess.run(["scancel", "--user", "root"], env=cluster.env, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _configure(cluster: Cluster) -> list[str]:
    """Write everything that the daemons read; returns the command that starts munged."""
    root = cluster.root
    for folder in ("state", "spool"):
        (root / folder).mkdir(parents=True)
    for number in range(GPUS):
        os.mknod(root / f"gpu{number}", 0o020666, os.makedev(1, 3))  # as /dev/null
    (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu[0-{GPUS - 1}]\n")
    (root / "plugstack.conf").write_text("")
    (root / "slurm.conf").write_text(
        SLURM_CONF.format(host=cluster.host, root=root, ports=_free_ports(), cpus=CPUS, gpus=GPUS)
    )
    # The plugin takes SLURM_CONF from the environment of its job steps: srun gets it back.
    scripts = {"srun": SRUN.format(conf=root / "slurm.conf", srun=shutil.which("srun"))}
    scripts |= {name: text.format(root=root) for name, text in PROLOGS.items()}
    for name, text in scripts.items():
        (root / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / name).chmod(0o755)
    key = root / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {"key-file": key, "socket": "munge.socket", "log-file": "munge.log",
             "pid-file": "munge.pid", "seed-file": "munge.seed"}  # fmt: skip
    options = [f"--{option}={root / name}" for option, name in files.items()]
    return ["munged", "--foreground", "--force", *options]


def _free_ports() -> list[int]:
    """Two ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _until(ready: Callable[[], bool], what: str, root: Path) -> None:
    """Wait for `ready`. Raises `TimeoutError` with the ends of the daemons' logs."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(subprocess.CalledProcessError):  # the controller does not answer yet
            if ready():
                return
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-2000:] for log in root.glob("*.log"))
            raise TimeoutError(f"{what} did not come up\n{logs}")
        time.sleep(0.2)
