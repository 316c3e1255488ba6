"""htcp and htrm: datasets are copied and removed whole, with all that lies beside them and nothing else."""

from __future__ import annotations

import json
import os
import pty
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardtools as st
from shardtools.errors import CorruptError, JobError, NotFoundError, OutputBusyError, SpecError, StaleTableError
from shardtools.jobs.exchange.spill import spill_of
from shardtools.jobs.lock import locked
from shardtools.jobs.options import RunOptions
from shardtools.query.published import page_names, read_meta, summary_digest
from shardtools.shards.manifest import read_manifest
from shardtools.storage import get_storage
from tests.backends import BACKENDS, running
from tests.cli.command import Argument, Outcome, call, check_failure
from tests.contract.faults import Fault, FaultyProxy
from tests.dask_cluster import dask_cluster
from tests.datasets import snapshot, write_dataset, written_dataset
from tests.moto_server import moto_server, use_environment
from tests.recording_server import recording_server
from tests.servers import NginxServer

RECORDS = [[{"key": f"{s}/{i}", "cls": i % 2, "txt": f"text {s} {i}" * 20} for i in range(9)] for s in range(3)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``d-@3.tgz`` and all index files; the tests only read it."""
    folder = tmp_path_factory.mktemp("original")
    written_dataset(folder, "d-@3.tgz", RECORDS)
    st.index(str(folder / "d-@3.tgz"), table=True)
    return folder


@pytest.fixture(scope="module")
def shown(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``d-@3.tgz``, all index files, summary and page; the tests only read it."""
    folder = tmp_path_factory.mktemp("shown")
    st.publish(put(original, str(folder)))
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a folder on each backend, without a slash at the end."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


def put(folder: Path, place: str) -> str:
    """Copy the files of a folder to a place, and return the spec of the dataset there."""
    for path in folder.iterdir():
        with get_storage(place).create(f"{place}/{path.name}") as sink:
            sink.write(path.read_bytes())
    return f"{place}/d-@3.tgz"


def names(place: str) -> set[str]:
    return {url.removeprefix(f"{place}/") for url in get_storage(place).list(f"{place}/")}


def remove(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htrm")


class TestRemove:
    def test_all_of_it_and_nothing_else(self, original: Path, place: str) -> None:
        place = f"{place}/removed"
        spec = put(original, place)
        others = {"d-03.tgz", "d-00.tgz", "d-@03.tgz.json", "e-0.tgz", "d-@3.tgz.txt", "d-@3.tar.json", "d-4.tgz"}
        for name in {*others, "d-@3.tgz.1.parquet", "d-@3.tgz.part-000002.arrow"}:
            with get_storage(place).create(f"{place}/{name}") as sink:
                sink.write(b"{}")
        elsewhere = f"{place}/elsewhere"
        for to in (None, elsewhere):
            st.publish(spec, to, overwrite=True)
        with get_storage(place).create(f"{place}/d-@3.tgz.view/notes.html") as sink:
            sink.write(b"mine")
        removed = st.remove(spec, dry_run=True)
        assert len(removed.files) == 11 + 1 + len(page_names()) and len(names(place)) == 12 + len(others)
        assert removed.size == sum(path.stat().st_size for path in original.glob("d-?.tgz"))
        assert st.remove(spec) == removed
        assert names(place) == others
        assert removed.kept == (f"{place}/d-@3.tgz.view/notes.html",)
        assert names(f"{place}/d-@3.tgz.view") == {"notes.html"}
        assert names(elsewhere) == set(page_names())
        with pytest.raises(NotFoundError):
            st.remove(spec)

    def test_a_page_where_nothing_is_listed(self, original: Path, tmp_path: Path) -> None:
        """Its index.html names its files, so that those of another version go, too; it goes last."""
        with recording_server(tmp_path / "server") as server:
            put(original, str(server.root))
            spec = f"{server.url}d-@3.tgz"
            st.publish(spec)
            page = server.root / "d-@3.tgz.view"
            index = page / "index.html"
            index.write_bytes(index.read_bytes().replace(b'files" content="', b'files" content="older.js '))
            (page / "older.js").touch()
            (page / "mine.js").touch()
            st.remove(spec)
            deleted = [request.path for request in server.requests() if request.method == "DELETE"]
        assert [path.name for path in page.iterdir()] == ["mine.js"]
        of_page = [path for path in deleted if ".view/" in path and ".view/." not in path]
        assert (len(of_page), of_page[-1]) == (len(page_names()) + 1, "/d-@3.tgz.view/index.html")

    def test_a_page_that_was_written_in_part(self, original: Path, tmp_path: Path) -> None:
        """Without its index.html, by an interrupted publication or removal; and another's folder of this name."""
        spec = put(original, str(tmp_path))
        st.publish(spec)
        page = tmp_path / "d-@3.tgz.view"
        (page / "index.html").unlink()
        (page / ".main.js.0123456789abcdef.tmp").touch()
        st.remove(spec)
        assert list(tmp_path.iterdir()) == []
        put(original, str(tmp_path))
        page.mkdir()
        (page / "index.html").write_text("another's")
        (page / "main.js").write_text("another's")
        outcome = remove(tmp_path, "--yes", "d-@3.tgz")
        assert f"stays, for htview has not written it: {page}/main.js\n" in outcome.out
        assert {path.name for path in tmp_path.rglob("*")} == {page.name, "index.html", "main.js"}

    @pytest.mark.parametrize("gone", range(9))
    def test_a_removal_that_was_stopped_is_completed(self, original: Path, tmp_path: Path, gone: int) -> None:
        """The server's log has the order; what is left after each step is removed by the next run."""
        if gone == 0:
            with recording_server(tmp_path / "server") as server:
                put(original, str(server.root))
                st.remove(f"{server.url}d-@3.tgz")
                deleted = [request.path[1:] for request in server.requests() if request.method == "DELETE"]
            order = [name for name in deleted if name.startswith("d-") and not name.endswith(".lock")]
            assert order[0] == "d-@3.tgz.json" and {*order[1:3]} == {"d-@3.tgz.parquet", "d-@3.tgz.keys"}
            for number in range(3):
                assert order.index(f"d-{number}.tgz.index.npz") < order.index(f"d-{number}.tgz")
            return
        spec = put(original, str(tmp_path))
        first = ["d-@3.tgz.json", "d-@3.tgz.keys", "d-@3.tgz.parquet"]
        for name in [*first, *(f"d-{n}.tgz{end}" for n in range(3) for end in (".index.npz", ""))][:gone]:
            (tmp_path / name).unlink()
        st.remove(spec)
        assert list(tmp_path.iterdir()) == []

    def test_what_jobs_have_left(self, original: Path, tmp_path: Path) -> None:
        spec = put(original, str(tmp_path))
        Path(spill_of(spec, None, RunOptions())).mkdir()
        mine = [".d-1.tgz.0123456789abcdef.tmp", ".d-@3.tgz.json.0123456789abcdef.tmp"]
        others = [".d-01.tgz.0123456789abcdef.tmp", ".d-1.tgz.tmp", f".{'d' * 60}.0123456789abcdef.tmp"]
        for name in mine + others:
            (tmp_path / name).touch()
        holder = {"host": socket.gethostname(), "machine": "another", "pid": 1, "run": "x", "since": "t", "beats": 0}
        (tmp_path / "d-@3.tgz.lock").write_text(json.dumps(holder))
        with pytest.raises(OutputBusyError, match="process 1"):
            st.remove(spec, dry_run=True)
        (tmp_path / "d-@3.tgz.lock").unlink()
        st.remove(spec)
        assert {path.name for path in tmp_path.iterdir()} == set(others)

    def test_a_dataset_that_is_written_is_refused(self, original: Path, tmp_path: Path) -> None:
        spec = put(original, str(tmp_path))
        before = names(str(tmp_path))
        with locked(f"{spec}.lock", take_over=False):
            assert "is writing" in check_failure("--yes", spec, cwd=tmp_path, program="htrm")
        assert names(str(tmp_path)) == before

    def test_shards_of_another_dataset_are_refused(self, original: Path, tmp_path: Path) -> None:
        put(original, str(tmp_path))
        for spec in ("d-@2.tgz", "d-1.tgz"):
            with pytest.raises(JobError, match="also belongs to the dataset of this manifest"):
                st.remove(tmp_path / spec)
        with pytest.raises(SpecError):
            st.remove(tmp_path / "d-*.tgz")

    def test_a_foreign_dataset(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 12, 1)
        assert remove(tmp_path, "--yes", spec).out == (
            f"{tmp_path}/in-@12.tar: 12 shards (122.9 kB), 0 sidecars, 0 files of manifest, table and keys\n"
            "12 files removed\n"
        )
        assert list(tmp_path.iterdir()) == []

    def test_it_asks(self, original: Path, tmp_path: Path) -> None:
        put(original, str(tmp_path))
        assert "add --yes" in check_failure("d-@3.tgz", cwd=tmp_path, status=2, program="htrm")
        shown = remove(tmp_path, "--dry-run", "-v", "d-@3.tgz")
        assert f"  {tmp_path}/d-2.tgz.index.npz" in shown.out.splitlines() and len(names(str(tmp_path))) == 9
        for answer, status, left in (("n", 1, 9), ("y", 0, 0)):
            assert answered(answer, "htrm", "d-@3.tgz", cwd=tmp_path) == status
            assert len(names(str(tmp_path))) == left


def test_what_has_arrived_is_read_back(original: Path, nginx: NginxServer) -> None:
    """A server that has other bytes than were sent, where the upload itself did not look."""
    data = bytearray((original / "d-1.tgz").read_bytes())
    data[len(data) // 2] ^= 1
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode()

    def choose(request: bytes) -> Fault | None:
        is_whole = request.startswith(b"GET /d-1.tgz ") and b"range:" not in request.lower()
        return Fault(answer=head + data) if is_whole else None

    with FaultyProxy(nginx.url, choose=choose) as proxy:
        with pytest.raises(CorruptError, match=r"d-1\.tgz: what has arrived is not what was sent"):
            st.copy(str(original / "d-@3.tgz"), f"{proxy.url}d-@3.tgz", jobs=1)
    assert not (nginx.root / "d-1.tgz").exists() and not (nginx.root / "d-@3.tgz.json").exists()


class TestCopy:
    @pytest.mark.parametrize("name", ["d-@3.tgz", "renamed-@0003.tar.gz"])
    def test_all_of_it(self, shown: Path, place: str, tmp_path: Path, name: str) -> None:
        """To each backend and back: the same bytes under the same name, and a dataset that fits under another one."""
        target = f"{place}/{name.partition('-')[0]}/{name}"
        result = st.copy(shown / "d-@3.tgz", target)
        assert (result.counts.written, len(result.shards), result.filesize) == (27, 3, size_of(shown))
        assert [record["txt"] for record in st.open(target)] == [r["txt"].encode() for some in RECORDS for r in some]
        assert all(file.exists and file.fits for file in st.info(target).files)
        ds = st.open(target)
        assert (ds["2/8"]["cls"], len(ds.where("cls = 1")), ds.rows_of(["1/3"])) == (b"0", 12, [12])
        check_published(f"{place}/{name.partition('-')[0]}", name)
        st.copy(target, tmp_path / "back" / "d-@3.tgz")
        assert snapshot(tmp_path / "back") == snapshot(shown) or name != "d-@3.tgz"
        assert [(tmp_path / "back" / f"d-{i}.tgz").read_bytes() for i in range(3)] == [
            (shown / f"d-{i}.tgz").read_bytes() for i in range(3)
        ]
        manifest = json.loads((tmp_path / "back" / "d-@3.tgz.json").read_text())
        assert manifest == json.loads((shown / "d-@3.tgz.json").read_text())

    def test_to_a_shorter_and_a_longer_name(self, shown: Path, tmp_path: Path) -> None:
        """The table's footer, the head of the keys, the summary and the page come back as they were."""
        st.copy(shown / "d-@3.tgz", tmp_path / f"{'long' * 40}-@3.tgz")
        st.copy(tmp_path / f"{'long' * 40}-@3.tgz", tmp_path / "again" / "d-@3.tgz")
        assert snapshot(tmp_path / "again") == snapshot(shown)

    def test_a_summary_that_does_not_fit_is_left_out(self, shown: Path, tmp_path: Path) -> None:
        """One that the copy replaces goes, and a page that it has stays."""
        written_dataset(tmp_path, "d-@3.tgz", [*RECORDS[:2], RECORDS[0]])
        (tmp_path / "d-@3.tgz.view.json").write_bytes((shown / "d-@3.tgz.view.json").read_bytes())
        st.copy(shown / "d-@3.tgz", tmp_path / "e-@3.tgz")
        assert "the output exists" in check_failure("d-@3.tgz", "e-@3.tgz", cwd=tmp_path, program="htcp")
        outcome = cp(tmp_path, "--overwrite", "d-@3.tgz", "e-@3.tgz")
        assert "d-@3.tgz.view.json: the shards have changed; htview --publish makes it" in outcome.err
        assert {name for name in names(str(tmp_path)) if name.startswith("e-@")} == {"e-@3.tgz.json"}
        assert names(f"{tmp_path}/e-@3.tgz.view") == set(page_names())

    @pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
    def test_a_dataset_without_index(self, tmp_path: Path, ending: str) -> None:
        spec = write_dataset(tmp_path / "a", 3, 4, ending=ending)
        outcome = cp(tmp_path, f"a/{spec}", f"b/{spec}")
        assert outcome.status == 0 and "3 shards" in outcome.out and "without a manifest" in outcome.out
        assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a")
        assert "cannot be verified" in check_failure(
            "--verify", "-j", "1", "--overwrite", f"a/{spec}", f"b/{spec}", cwd=tmp_path, program="htcp"
        )

    def test_it_resumes(self, original: Path, tmp_path: Path) -> None:
        """Shards with a sidecar are there; one that was cut off, and one that has none, are copied again."""
        put(original, str(tmp_path))
        for name in ("d-@3.tgz.json", "d-1.tgz.index.npz", "d-@3.tgz.keys"):
            (tmp_path / name).unlink()
        (tmp_path / "d-1.tgz").write_bytes(b"half")
        (tmp_path / "d-2.tgz").unlink()
        assert "the output exists" in check_failure(original / "d-@3.tgz", "d-@3.tgz", cwd=tmp_path, program="htcp")
        result = st.copy(original / "d-@3.tgz", tmp_path / "d-@3.tgz", resume=True)
        assert [shard.resumed for shard in result.shards] == [True, False, False]
        assert snapshot(tmp_path) == snapshot(original)

    def test_another_dataset_is_there(self, original: Path, tmp_path: Path) -> None:
        written_dataset(tmp_path, "d-@4.tgz", [[{"key": "a", "cls": 1}]] * 4)
        before = snapshot(tmp_path)
        for option in ("--resume", "-q"):
            assert cp(tmp_path, option, original / "d-@3.tgz", "d-@3.tgz").status == 1
            assert snapshot(tmp_path) == before
        assert cp(tmp_path, "--overwrite", original / "d-@3.tgz", "d-@3.tgz").status == 0
        assert snapshot(tmp_path) == snapshot(original)

    @pytest.mark.parametrize("where", ["shard", "sidecar", "manifest", "size"])
    def test_a_flipped_byte_is_noticed(self, original: Path, tmp_path: Path, where: str) -> None:
        spec = put(original, str(tmp_path / "a"))
        shard = tmp_path / "a" / "d-1.tgz"
        data = bytearray(shard.read_bytes())
        if where == "shard":
            data[len(data) // 2] ^= 1
            shard.write_bytes(data)
        elif where == "size":
            shard.write_bytes(data + b"more")
        elif where == "sidecar":
            (tmp_path / "a" / "d-1.tgz.index.npz").write_bytes((original / "d-2.tgz.index.npz").read_bytes())
        else:
            path = tmp_path / "a" / "d-@3.tgz.json"
            path.write_text(path.read_text().replace("crc32:", "crc32:0", 1)[:-1])
        with pytest.raises((CorruptError, StaleTableError)):
            st.copy(spec, tmp_path / "b" / "d-@3.tgz")
        assert not (tmp_path / "b" / "d-@3.tgz.json").exists()
        if where != "manifest":
            outcome = cp(tmp_path, "--on-error", "skip", "--resume", spec, "b/d-@3.tgz")
            assert outcome.status == 3 and "not copied: 1 shard and the manifest" in outcome.err
            assert sorted(path.name for path in (tmp_path / "b").glob("*.tgz")) == ["d-0.tgz", "d-2.tgz"]

    def test_what_arrives_is_read_back(self, original: Path, tmp_path: Path) -> None:
        with recording_server(tmp_path / "server") as server:
            st.copy(original / "d-@3.tgz", f"{server.url}d-@3.tgz")
            asked = [(request.method, request.path) for request in server.requests()]
        for number in range(3):
            assert asked.index(("PUT", f"/d-{number}.tgz")) < asked.index(("GET", f"/d-{number}.tgz"))
            assert asked.index(("GET", f"/d-{number}.tgz")) < asked.index(("PUT", f"/d-{number}.tgz.index.npz"))
        assert [path for method, path in asked if method == "PUT" and ".lock" not in path][-1] == "/d-@3.tgz.json"

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("b-@4.tgz", "htshuffle --no-shuffle"),
            ("b-@3.tar", "a copy is packed like its source"),
            ("d-@3.tgz", "an input and an output"),
            ("-", "one dataset to one place"),
        ],
    )
    def test_what_makes_no_sense(self, original: Path, target: str, message: str) -> None:
        before = names(str(original))
        assert message in check_failure("d-@3.tgz", target, cwd=original, status=2, program="htcp")
        assert names(str(original)) == before

    def test_a_table_that_does_not_fit_is_left_out(self, original: Path, tmp_path: Path) -> None:
        put(original, str(tmp_path))
        written_dataset(tmp_path, "d-@3.tgz", [*RECORDS[:2], RECORDS[0]])
        outcome = cp(tmp_path, "d-@3.tgz", "e-@3.tgz", "--report", "report.json")
        assert outcome.status == 0 and "the shards have changed; htindex --table makes it" in outcome.err
        assert not (tmp_path / "e-@3.tgz.parquet").exists()
        assert json.loads((tmp_path / "report.json").read_text())["counts"]["written"] == 27

    def test_dry_run(self, original: Path, tmp_path: Path) -> None:
        outcome = cp(tmp_path, "--dry-run", original / "d-@3.tgz", "e-@auto.tgz")
        first = outcome.out.splitlines()[0]
        assert first.startswith("would copy 3 shards, 27 samples, ") and first.endswith("with manifest, table, keys")
        assert list(tmp_path.iterdir()) == []

    def test_from_a_public_bucket(self, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever may not list it is told of everything that is not there that it is forbidden."""
        denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

        def choose(head: bytes) -> Fault | None:
            return Fault(answer=denied) if b"list-type=2" in head or b".view" in head.partition(b"\r\n")[0] else None

        with moto_server() as moto, FaultyProxy(moto.url, choose=choose) as proxy:
            moto.client().create_bucket(Bucket="public")
            for path in original.iterdir():
                moto.client().put_object(Bucket="public", Key=path.name, Body=path.read_bytes())
            use_environment(monkeypatch, {**moto.environment(), "AWS_ENDPOINT_URL": proxy.url.rstrip("/")})
            st.copy("s3://public/d-@3.tgz", tmp_path / "d-@3.tgz")
            assert any("list-type=2" in line for line in proxy.requests)
        assert snapshot(tmp_path) == snapshot(original)

    def test_on_a_cluster(self, original: Path, tmp_path: Path) -> None:
        with dask_cluster(workers=1) as cluster:
            st.copy(original / "d-@3.tgz", tmp_path / "d-@3.tgz", cluster=cluster.address)
        assert snapshot(tmp_path) == snapshot(original)


def cp(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htcp")


def check_published(folder: str, name: str) -> None:
    """Summary and page are of the dataset ``name`` in a folder, and of its shards."""
    view = json.loads(get_storage(folder).read(f"{folder}/{name}.view.json"))
    digest = summary_digest(read_manifest(f"{folder}/{name}.json"))
    assert (view["name"], view["spec"], view["digest"]) == (name, name, digest)
    assert names(f"{folder}/{name}.view") == set(page_names())
    index = get_storage(folder).read(f"{folder}/{name}.view/index.html")
    assert read_meta(index, "shardtools-src") == f"../{name}"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("d-?.tgz"))


def answered(answer: str, program: str, *arguments: str, cwd: Path) -> int:
    """Run a program on a terminal where a user types an answer; return its exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execv(sys.executable, [sys.executable, "-m", "shardtools", program, *arguments])
    os.write(terminal, f"{answer}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status)
