"""deploy/slurm.sh and deploy/slurm_cluster.py on a real SLURM of one node, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datasets import snapshot, write_dataset
from tests.deploy.network import ROOT
from tests.servers import stop, wait_until

DEPLOY = ROOT / "deploy"
CONFIG = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
NodeName={name} NodeAddr=127.0.0.1 CPUs=16 RealMemory=65536
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which sbatch and others use a SLURM of one node, this machine, which has no jobs."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"deploy/slurm.sh WAS NOT RUN: {', '.join(missing) or 'root'} is missing (slurmctld, slurmd)")
    folder = tmp_path_factory.mktemp("slurm")
    name = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, name=name, controller=free_port(), daemon=free_port())
    )
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT)}

    def is_idle() -> bool:
        asked = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, check=False)
        return asked.stdout.strip() == b"idle"

    with ExitStack() as stack:
        log = stack.enter_context(open(folder / "log", "w"))
        for daemon in ("slurmctld", "slurmd"):
            process = subprocess.Popen([daemon, "-D"], env=environment, stdout=log, stderr=log, text=True)
            stack.callback(stop, process)
        try:
            wait_until(is_idle, "a SLURM of one node", 20)
        except TimeoutError:
            said = (folder / "log").read_text()[-2000:]
            pytest.skip(f"deploy/slurm.sh WAS NOT RUN: SLURM does not start here: {said}")
        yield environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, 4, 25, name="train")
    subprocess.run(["htshuffle", "--seed", "7", "train-@4.tar", "threads-@4.tar"], cwd=tmp_path, check=True)
    return tmp_path


def shards(folder: Path, name: str) -> list[bytes]:
    return [data for file, data in snapshot(folder).items() if file.startswith(f"{name}-") and file.endswith(".tar")]


def await_end(slurm: Mapping[str, str]) -> None:
    """Wait until SLURM has no jobs."""

    def is_empty() -> bool:
        return subprocess.run(["squeue", "-h"], env=slurm, capture_output=True, check=True).stdout == b""

    wait_until(is_empty, "the jobs to end")


def test_script(slurm: Mapping[str, str], folder: Path) -> None:
    options = ["--ntasks=2", "--cpus-per-task=1", "--time=10", "--output=out.log"]
    command = ["htshuffle", "--seed", "7", "--resume", "train-@4.tar", "shuffled-@4.tar"]
    subprocess.run(["sbatch", *options, DEPLOY / "slurm.sh", *command], cwd=folder, env=slurm, check=True)
    await_end(slurm)
    log = (folder / "out.log").read_text()
    assert len(shards(folder, "shuffled")) == 4, log
    assert shards(folder, "shuffled") == shards(folder, "threads")
    assert "error" not in log
    assert list(folder.glob(".shardtools-*")) == []


@pytest.mark.slow
def test_workers_as_jobs(slurm: Mapping[str, str], folder: Path) -> None:
    where = f"{DEPLOY / 'slurm_cluster.py'}:make_cluster"
    command = ["htshuffle", "-c", where, "--wait", "60", "--seed", "7", "train-@4.tar", "shuffled-@4.tar"]
    subprocess.run(command, cwd=folder, env=slurm, check=True)
    assert shards(folder, "shuffled") == shards(folder, "threads")
    await_end(slurm)
