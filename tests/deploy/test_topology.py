"""The clusters that deploy/ describes, run as they are written there: each service on a host of its own.

The image is this checkout. The hosts share a network and no disk, and know each other by name once they have joined.
The job comes first: it has to wait for the name of the scheduler, for the scheduler, and for a worker.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import run
from tests.datasets import members, parts_of, snapshot, write_dataset
from tests.deploy.network import ROOT, Host, Network, network, why_not
from tests.servers import wait_until

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "deploy"
SHARDS = 4
SECONDS = 120


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(f"THE CLUSTERS OF deploy/ WERE NOT RUN: {reason}")
    (tmp_path / "network").mkdir()
    with network(tmp_path / "network") as running:
        yield running


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The shards that the job makes on threads."""
    folder = tmp_path / "threads"
    folder.mkdir()
    write_dataset(folder, SHARDS, 25, name="train")
    outcome = run("--seed", "7", "train-@4.tar", "shuffled-@4.tar", cwd=folder, program="htshuffle")
    assert outcome.status == 0, outcome
    return shuffled(folder)


def shuffled(folder: Path) -> dict[str, bytes]:
    """Return the shards of a complete output; its sidecars and its manifest depend on where the source was."""
    files = snapshot(folder)
    assert {name for name in files if name.startswith("shuffled")} == parts_of("shuffled", shards=SHARDS)
    return {name: data for name, data in files.items() if name.startswith("shuffled") and name.endswith(".tar")}


def interpolate(text: str) -> str:
    """Return a text of a compose file with the defaults of its variables.

    >>> interpolate("--nthreads ${THREADS:-2} ${PACKAGES:-}")
    '--nthreads 2 '
    """
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return an argument of a container with the variables of its environment, as Kubernetes expands them."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text)


def finish(job: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a job that must succeed."""
    status = job.wait(SECONDS)
    assert status == 0, log.read_text()


def await_waiting(job: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a job says that it waits."""
    wait_until(lambda: job.poll() is not None or "waiting for" in log.read_text(), "the job to wait")
    assert job.poll() is None, log.read_text()


@pytest.fixture
def services() -> Any:
    """The services of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]


def start_storage(hosts: Network, shards: int) -> Path:
    """Start the storage server, with a dataset, and return the folder that it serves."""
    root = hosts.join("storage").disk / "data"
    write_dataset(root, shards, 25, name="train")
    hosts.start("storage", [sys.executable, str(ROOT / "scripts/serve"), "data", "8080", "--host", "0.0.0.0"])
    wait_until(lambda: b"serves" in hosts.log("storage").read_bytes(), "the storage server")
    return root


def start_cluster(hosts: Network, services: Any, env: Mapping[str, str] | None = None) -> list[Host]:
    """Start the scheduler and the workers, ``worker-0`` and so on, and return the hosts of the workers."""
    workers = []
    hosts.join("scheduler")
    hosts.start("scheduler", shlex.split(interpolate(services["scheduler"]["command"])), env)
    for number in range(services["worker"]["scale"]):
        workers.append(hosts.join(f"worker-{number}"))
        hosts.start(f"worker-{number}", shlex.split(interpolate(services["worker"]["command"])), env)
    return workers


def test_compose(hosts: Network, services: Any, expected: dict[str, bytes]) -> None:
    root = start_storage(hosts, SHARDS)
    hosts.join("job")
    command = (
        "htshuffle -c auto --wait 60 --seed 7 http://storage:8080/train-@4.tar http://storage:8080/shuffled-@4.tar"
    )
    job = hosts.start("job", command.split(), services["job"]["environment"])
    await_waiting(job, hosts.log("job"))
    start_cluster(hosts, services)
    finish(job, hosts.log("job"))
    assert shuffled(root) == expected
    for name in ("scheduler", "job", "worker-0", "worker-1"):
        assert list((hosts.disk.parent / "disks" / name).rglob("*.tar")) == []


SLOW = """
import time

def process_sample(record):
    time.sleep(0.04)
    return record
"""


def test_a_machine_that_vanishes(hosts: Network, services: Any) -> None:
    """It closes no connection, as a process that is killed does; Dask notices after its timeout, here a short one."""
    root = start_storage(hosts, 9)
    (hosts.join("job").disk / "slow.py").write_text(SLOW)
    first, _ = start_cluster(hosts, services, {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"})
    scheduler = hosts.log("scheduler")
    wait_until(lambda: scheduler.read_text().count("Register worker addr") == 2, "the workers")
    command = "htmapper -c auto -p slow.py http://storage:8080/train-@9.tar http://storage:8080/out-@9.tar"
    job = hosts.start("job", command.split(), services["job"]["environment"])
    wait_until(lambda: job.poll() is not None or list(root.glob("out-*.tar")), "the first shard")
    hosts.unplug("worker-0")
    finish(job, hosts.log("job"))
    assert f"Remove worker addr: tcp://{first.address}:" in scheduler.read_text()
    for number in range(9):
        assert members(root / f"out-{number}.tar") == members(root / f"train-{number}.tar")


S3_SERVER = """
from moto.server import main
main(["-H", "0.0.0.0", "-p", "5000"])
"""

COPY = """
import sys, boto3
from pathlib import Path
direction, bucket = sys.argv[1], boto3.resource("s3").Bucket("bucket")
if direction == "up":
    bucket.create()
    for path in Path("data").iterdir():
        bucket.upload_file(path, path.name)
else:
    for item in bucket.objects.filter(Prefix="shuffled-"):
        bucket.download_file(item.key, f"data/{item.key}")
"""

ASK = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).status)
"""


def pods_of(resource: Any) -> dict[str, Any]:
    """Return the containers of a DaskJob by their role."""
    cluster = resource["spec"]["cluster"]["spec"]
    pods = {"runner": resource["spec"]["job"], "scheduler": cluster["scheduler"], "worker": cluster["worker"]}
    return {role: pod["spec"]["containers"][0] for role, pod in pods.items()}


def start_pod(hosts: Network, host: str, container: Any, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start what a container runs, with fewer shards."""
    arguments = [expand(argument, env).replace("@1000", f"@{SHARDS}") for argument in container["args"]]
    return hosts.start(host, arguments, env)


def test_daskjob(hosts: Network, expected: dict[str, bytes]) -> None:
    resource = yaml.safe_load((DEPLOY / "daskjob.yaml").read_text("utf-8"))
    containers, name = pods_of(resource), resource["metadata"]["name"]
    service = f"{name}-scheduler.default.svc.cluster.local"
    secret = {
        "AWS_ENDPOINT_URL": "http://storage:5000",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    environment = {**secret, "DASK_SCHEDULER_ADDRESS": f"tcp://{service}:8786"}  # the operator adds this one

    hosts.join("storage")
    hosts.start("storage", [sys.executable, "-c", S3_SERVER])
    files = hosts.join("person").disk / "data"
    wait_until(lambda: b"Running on" in hosts.log("storage").read_bytes(), "the S3 server")
    write_dataset(files, SHARDS, 25, name="train")
    finish(hosts.start("person", [sys.executable, "-c", COPY, "up"], secret), hosts.log("person"))

    hosts.join("runner")
    job = start_pod(hosts, "runner", containers["runner"], environment)
    await_waiting(job, hosts.log("runner"))

    hosts.join(service)
    start_pod(hosts, service, containers["scheduler"], {})
    for number in range(2):
        worker = f"{name}-default-worker-{number}"
        hosts.join(worker)
        start_pod(hosts, worker, containers["worker"], {**environment, "DASK_WORKER_NAME": worker})
    finish(job, hosts.log("runner"))

    probe = containers["scheduler"]["readinessProbe"]["httpGet"]
    (port,) = [port["containerPort"] for port in containers["scheduler"]["ports"] if port["name"] == probe["port"]]
    url = f"http://{service}:{port}{probe['path']}"
    finish(hosts.start("person", [sys.executable, "-c", ASK, url]), hosts.log("person"))
    finish(hosts.start("person", [sys.executable, "-c", COPY, "down"], secret), hosts.log("person"))
    assert shuffled(files) == expected
