"""The ways to hand over a Dask cluster: addresses of any scheme, Dask's configuration, callables; and the waiting."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.deploy import Cluster

import shardtools as st
from shardtools import engine
from shardtools.engine import Connection, Done, Task
from shardtools.engine.tls import CA_FILE, CERT, KEY, LOADER, variable
from shardtools.errors import JobError, SchedulerError
from tests.cli.command import run
from tests.dask_cluster import ROOT, DaskCluster, dask_cluster
from tests.datasets import write_dataset
from tests.servers import wait_until

pytestmark = pytest.mark.slow

NO_SECURITY = {CA_FILE: None, CERT: None, KEY: None, LOADER: None}


def square(number: int) -> int:
    return number * number


def results(cluster: engine.ClusterLike, wait: float = 60, count: int = 5) -> list[int]:
    done: list[Done] = []
    with cluster if isinstance(cluster, Connection) else Connection(cluster, wait) as connection:
        engine.run([Task(square, (i,), f"{i}.tar") for i in range(count)], done.append, cluster=connection)
    assert [one.error for one in done] == [None] * count
    return sorted(one.result for one in done)


EXPECTED = [0, 1, 4, 9, 16]


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=1) as running:
        yield running


class TestAuto:
    def test_the_scheduler_of_dasks_configuration(self, cluster: DaskCluster) -> None:
        with dask.config.set({"scheduler-address": f"tcp://{cluster.address}"}):
            assert results("auto") == EXPECTED

    def test_the_client_that_dask_uses_stays_open(self, cluster: DaskCluster) -> None:
        with Client(cluster.address) as client:
            assert results("auto") == EXPECTED
            assert client.status == "running"

    def test_nothing_is_configured(self) -> None:
        with pytest.raises(SchedulerError, match="has no scheduler-address; set it there or as DASK_SCHEDULER_"):
            results("auto")

    def test_a_command_in_the_pod_of_a_daskjob(self, cluster: DaskCluster, tmp_path: Path) -> None:
        """Which has nothing but this variable."""
        write_dataset(tmp_path, 2, 3)
        (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
        environ = {"DASK_SCHEDULER_ADDRESS": f"tcp://{cluster.address}"}
        outcome = run("-c", "auto", "-p", "same.py", "in-@2.tar", "out-@2.tar", cwd=tmp_path, env=environ)
        assert (outcome.status, outcome.err) == (0, "")
        with dask_cluster(workers=0) as empty:
            environ = {"DASK_SCHEDULER_ADDRESS": f"tcp://{empty.address}"}
            command = ("-c", "auto", "--wait", "0", "-p", "same.py", "in-@2.tar", "no-@2.tar")
            error = run(*command, cwd=tmp_path, env=environ).error()
        assert error.startswith(f"the scheduler at tcp://{empty.address} has no workers; start some with ")


FACTORIES = """
from distributed import Client, LocalCluster
from beside import OPTIONS

made = []

def cluster():
    made.append(LocalCluster(**OPTIONS))
    return made[-1]

def client():
    made.append(Client(cluster(), set_as_default=False))
    return made[-1]

def nothing():
    pass

def fails():
    raise LookupError("no such namespace")

class Clusters:
    make = staticmethod(cluster)

number = 3
"""

IN_PROCESS = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text(f"OPTIONS = {IN_PROCESS!r}\n")
    file = tmp_path / "factories.py"
    file.write_text(FACTORIES)
    return file


def test_the_link_of_the_dashboard_is_shown(tmp_path: Path) -> None:
    """Of a scheduler that has bokeh, as far as Python's list of packages says."""
    (tmp_path / "bokeh-3.4.0.dist-info").mkdir()
    (tmp_path / "bokeh-3.4.0.dist-info/METADATA").write_text("Name: bokeh\nVersion: 3.4.0\n")
    write_dataset(tmp_path, 2, 3)
    with dask_cluster(workers=1, scheduler_env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as cluster:
        outcome = run("-c", cluster.address, "in-@2.tar", cwd=tmp_path, program="htindex")
        with Client(cluster.address, set_as_default=False) as client:
            assert (outcome.status, outcome.err) == (0, f"htindex: the dashboard is at {client.dashboard_link}\n")


class TestCallables:
    @pytest.mark.parametrize("name", ["cluster", "client", "Clusters.make"])
    def test_what_one_returns_is_used_by_all_runs_and_closed(
        self, name: str, factories: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(factories.parent))
        import factories as module  # type: ignore[import-not-found]

        with Connection(f"factories:{name}") as connection:
            for _ in range(2):
                assert [done.result for done in one_run(connection)] == [49]
            assert len(module.made) == (2 if name == "client" else 1)
            assert {one.status for one in module.made if isinstance(one, Client)} <= {"running"}
        del sys.modules["factories"], sys.modules["beside"]
        for one in module.made:
            assert (one.status if isinstance(one, Client) else one.status.name) == "closed"

    @pytest.mark.parametrize("name", ["cluster", "client"])
    def test_a_file_whose_neighbours_it_imports(self, name: str, factories: Path) -> None:
        assert results(f"{factories}:{name}") == EXPECTED

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("FILE:nothing", "FILE:nothing returned a NoneType; return a distributed.Client, or a cluster such as"),
            ("FILE:fails", "FILE:fails failed: LookupError: no such namespace; see where with -v"),
            ("FILE:missing", "FILE has no missing; check the name after the colon"),
            ("FILE:number", "FILE:number is a int, not callable; name a function"),
            ("/no/such.py:make", "/no/such.py: there is no such file"),
            ("no_such_module:make", "the module no_such_module cannot be imported: ModuleNotFoundError: "),
            ("json:dumps", "json:dumps failed: TypeError: "),
        ],
    )
    def test_errors(self, text: str, says: str, factories: Path) -> None:
        with pytest.raises(SchedulerError) as caught:
            results(text.replace("FILE", str(factories)))
        assert str(caught.value).startswith(says.replace("FILE", str(factories)))

    def test_both_passes_of_a_command_use_one_cluster(self, factories: Path, tmp_path: Path) -> None:
        write_dataset(tmp_path, 2, 3)
        with open(factories, "a") as file:
            file.write("def noted():\n    open('made', 'a').write('x')\n    return cluster()\n")
        for program, more in (("htshuffle", ("--spill", str(tmp_path / "spill"))), ("htextract", ("--stats",))):
            (tmp_path / "made").unlink(missing_ok=True)
            urls = ("in-@2.tar", "out-@2.tar") if program == "htshuffle" else ("in-@2.tar",)
            outcome = run("-c", "factories.py:noted", *more, *urls, cwd=tmp_path, program=program)
            assert outcome.status == 0, outcome.err
            assert (tmp_path / "made").read_text() == "x"

    def test_nothing_is_made_for_a_dry_run(self, factories: Path, tmp_path: Path) -> None:
        write_dataset(tmp_path, 2, 3)
        command = ("-c", "factories.py:fails", "--dry-run", "in-@2.tar", "out-@2.tar")
        assert run(*command, cwd=tmp_path, program="htshuffle").status == 0


def one_run(connection: Connection) -> list[Done]:
    done: list[Done] = []
    engine.run([Task(square, (7,), "")], done.append, cluster=connection)
    return done


class Adaptive(LocalCluster):
    """A cluster without workers that starts some when there is work, as Kubernetes or SLURM do."""

    def __init__(self) -> None:
        super().__init__(**{**IN_PROCESS, "n_workers": 0})
        self.adapt(minimum=0, maximum=2, interval="50ms", wait_count=1000)


def test_a_cluster_that_starts_its_workers_when_there_is_work() -> None:
    with Adaptive() as cluster:
        assert results(cluster) == EXPECTED


class Gateway:
    """A cluster that is no `distributed.deploy.Cluster`, as those of Dask Gateway."""

    def __init__(self, inner: Cluster):
        self.scheduler_address = inner.scheduler_address
        self.status = inner.status
        self.security = None
        self.dashboard_link = ""

    def __await__(self) -> Iterator[None]:
        return
        yield


def test_a_cluster_of_another_class() -> None:
    with LocalCluster(**IN_PROCESS, protocol="tcp") as cluster:
        assert results(Gateway(cluster)) == EXPECTED  # type: ignore[arg-type]  # as said


class TestSchemes:
    def test_websockets(self) -> None:
        with dask_cluster(workers=1, protocol="ws") as cluster:
            assert cluster.address.startswith("ws://")
            assert results(f"{cluster.address}/") == EXPECTED

    def test_the_default_scheme_of_dasks_configuration(self) -> None:
        with (
            dask_cluster(workers=1, protocol="ws") as cluster,
            dask.config.set({"distributed.comm.default-scheme": "ws"}),
        ):
            assert results(cluster.address.removeprefix("ws://")) == EXPECTED

    def test_one_that_needs_a_package(self) -> None:
        with pytest.raises(SchedulerError, match=r"ucx://host:1 cannot be used: .*; install distributed-ucxx here and"):
            results("ucx://host:1")

    def test_an_unknown_one(self) -> None:
        with pytest.raises(SchedulerError, match=r"no addresses of the form nfs://; it knows .*tcp, tls.*ws, wss"):
            results("nfs://host:1")


@dataclass(frozen=True)
class Certificates:
    """Files of an authority and of a certificate that it has signed, by openssl."""

    ca: Path
    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, object]:
        """Dask's configuration of a client that uses them."""
        return {**NO_SECURITY, CA_FILE: str(self.ca), CERT: str(self.cert), KEY: str(self.key)}

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a scheduler or worker that uses them."""
        variables = {variable(CA_FILE): str(self.ca)}
        for role in ("client", "scheduler", "worker"):
            variables[variable(CERT).replace("CLIENT", role.upper())] = str(self.cert)
            variables[variable(KEY).replace("CLIENT", role.upper())] = str(self.key)
        return variables


def sign(folder: Path) -> Certificates:
    """Return a new authority and a certificate by it."""
    folder.mkdir()
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    days = ("-days", "2", "-nodes", "-newkey", "rsa:2048")
    for command in (
        ("req", "-x509", *days, "-subj", f"/CN={folder.name}", "-keyout", folder / "ca-key.pem", "-out", made.ca),
        ("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=dask", "-keyout", made.key, "-out", folder / "request"),
        ("x509", "-req", "-days", "2", "-in", folder / "request", "-CA", made.ca, "-CAkey", folder / "ca-key.pem",
         "-CAcreateserial", "-out", made.cert),
    ):  # fmt: skip
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return sign(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return sign(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture(scope="module")
def secure(own: Certificates) -> Iterator[DaskCluster]:
    with (
        dask.config.set(own.settings),
        dask_cluster(workers=1, protocol="tls", scheduler_env=own.environ, worker_env=own.environ) as running,
    ):
        yield running


class TestTls:
    def test_it_is_used(self, secure: DaskCluster, own: Certificates) -> None:
        with dask.config.set(own.settings):
            assert results(secure.address) == EXPECTED
            assert results(str(secure.scheduler_file)) == EXPECTED

    def test_a_command(self, secure: DaskCluster, own: Certificates, tmp_path: Path) -> None:
        write_dataset(tmp_path, 2, 3)
        (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
        command = ("-c", secure.address, "-p", "same.py", "in-@2.tar", "out-@2.tar")
        outcome = run(*command, cwd=tmp_path, env=own.environ)
        assert (outcome.status, outcome.err) == (0, "")
        error = run(*command, "--overwrite", cwd=tmp_path).error()
        assert error.startswith(f"tls:// needs {CA_FILE} and {CERT}, which Dask's configuration does not have; ")
        assert error.endswith(f"or as {variable(CA_FILE)} and {variable(CERT)}")

    def test_a_security_loader(self, secure: DaskCluster, own: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.integration.test_handing_over.LOADED", own, raising=False)
        with dask.config.set({**NO_SECURITY, LOADER: "tests.integration.test_handing_over.load_security"}):
            assert results(secure.address) == EXPECTED

    @pytest.mark.parametrize("setting", [CA_FILE, CERT, KEY])
    def test_a_file_that_is_not_there(self, setting: str, secure: DaskCluster, own: Certificates) -> None:
        with (
            dask.config.set({**own.settings, setting: "/no/such.pem"}),
            pytest.raises(SchedulerError, match=f"^{setting} of Dask's configuration: /no/such.pem: No such file or "),
        ):
            results(secure.address)

    @pytest.mark.parametrize("setting", [CA_FILE, CERT, KEY])
    def test_a_file_that_is_none(self, setting: str, secure: DaskCluster, own: Certificates, tmp_path: Path) -> None:
        (tmp_path / "bad.pem").write_text("not a certificate\n")
        with (
            dask.config.set({**own.settings, setting: str(tmp_path / "bad.pem")}),
            pytest.raises(SchedulerError, match=f"{setting}.* of Dask's configuration: .*bad.pem.*; correct it"),
        ):
            results(secure.address)

    def test_a_scheduler_that_is_not_trusted(
        self, secure: DaskCluster, own: Certificates, others: Certificates
    ) -> None:
        with (
            dask.config.set({**own.settings, CA_FILE: str(others.ca)}),
            pytest.raises(SchedulerError, match=f"is not trusted: .*; let {CA_FILE} be the file that .*{others.ca}"),
        ):
            results(secure.address)

    def test_a_client_that_is_not_trusted(self, secure: DaskCluster, own: Certificates, others: Certificates) -> None:
        with (
            dask.config.set({**own.settings, CERT: str(others.cert), KEY: str(others.key)}),
            pytest.raises(SchedulerError, match=f"does not accept {CERT}"),
        ):
            results(secure.address, wait=0)

    def test_plain_and_encrypted_mixed_up(self, secure: DaskCluster, cluster: DaskCluster, own: Certificates) -> None:
        with dask.config.set(own.settings):
            with pytest.raises(SchedulerError, match=r"tls://.* does not use TLS; write tcp://HOST:PORT"):
                results(f"tls://{cluster.address}")
            with pytest.raises(SchedulerError, match="the connection was closed; one with TLS has an address tls://"):
                results(secure.address.removeprefix("tls://"), wait=0)
            assert results(cluster.address) == EXPECTED

    def test_required_encryption(self, cluster: DaskCluster) -> None:
        with (
            dask.config.set({**NO_SECURITY, "distributed.comm.require-encryption": True}),
            pytest.raises(SchedulerError, match=r"^distributed\.comm\.require-encryption .* forbids tcp://"),
        ):
            results(cluster.address)


def load_security(facts: dict[str, str]) -> object:
    from distributed.security import Security

    own: Certificates = LOADED  # type: ignore[name-defined]  # noqa: F821  # a test sets it
    ssl.create_default_context(cafile=own.ca)
    return Security(tls_ca_file=str(own.ca), tls_client_cert=str(own.cert), tls_client_key=str(own.key))


class TestWaiting:
    def test_for_scheduler_and_workers(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job starts before them, and says what it waits for."""
        monkeypatch.setattr("shardtools.engine.patience.FIRST_NOTE", 0)
        port = free_port()
        found: list[int] = []
        job = threading.Thread(target=lambda: found.extend(results(f"127.0.0.1:{port}")))
        with caplog.at_level(logging.INFO, "shardtools.engine.notes"):
            job.start()
            wait_until(
                lambda: f"waiting for the scheduler at 127.0.0.1:{port} (nothing listens" in caplog.text, "a note"
            )
            with dask_cluster(workers=0, port=port) as cluster:
                wait_until(lambda: "waiting for workers of the scheduler at" in caplog.text, "another note")
                cluster.start_worker()
                job.join(60)
        assert found == EXPECTED

    def test_for_the_file_of_a_scheduler(
        self, cluster: DaskCluster, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shardtools.engine.patience.FIRST_NOTE", 0)
        file = tmp_path / "scheduler.json"
        found: list[int] = []
        job = threading.Thread(target=lambda: found.extend(results(str(file))))
        job.start()
        wait_until(lambda: f"waiting for the scheduler file {file}, at most" in caplog.text, "a note")
        file.touch()
        (tmp_path / "new").write_text(json.dumps({"address": cluster.address}))
        os.replace(tmp_path / "new", file)
        job.join(60)
        assert found == EXPECTED

    @pytest.mark.parametrize(
        ("wait", "says"), [(-1, "is too small"), (float("nan"), "is too small"), ("5", "is of type str")]
    )
    def test_no_time(self, wait: Any, says: str, tmp_path: Path) -> None:
        with pytest.raises(JobError, match=f"--wait .* {says}; give "):
            st.count(f"{tmp_path}/a.tar", "cls", cluster="host:1", wait=wait)

    def test_no_file(self) -> None:
        with pytest.raises(SchedulerError, match=r"there is no scheduler file /no/such\.json; start one with"):
            results("/no/such.json", wait=0)

    def test_no_name(self) -> None:
        with pytest.raises(SchedulerError, match=r"no Dask scheduler answers at no-such\.invalid:8786 \((its|there)"):
            results("no-such.invalid:8786", wait=0)

    def test_something_that_closes_connections(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=hang_up, args=(server,), daemon=True).start()
            with pytest.raises(SchedulerError, match=r"\(the connection was closed"):
                results(f"127.0.0.1:{server.getsockname()[1]}", wait=0)


def hang_up(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:  # the test has ended
            return


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
