"""WebDAV servers that are not nginx: Apache, where it is installed, and one that is careless about who was first."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardtools.errors import ConflictUnsupportedError, ExistsError, StorageError
from shardtools.storage import ByteRange
from shardtools.storage.http import HttpStorage
from shardtools.storage.retry import RetryPolicy
from tests.cli.command import run
from tests.contract.suite import MEGABYTES, OBJECT, creates
from tests.datasets import members, write_dataset
from tests.webdav_servers import APACHE, apache_server, careless_server

QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.storage.exclusive._known", {})


@pytest.fixture(scope="module")
def apache() -> Iterator[tuple[str, Path]]:
    with apache_server() as served:
        yield served


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.skipif(APACHE is None, reason="apache2 is not installed")
class TestApache:
    @pytest.fixture
    def place(self, apache: tuple[str, Path]) -> tuple[str, Path]:
        """A URL, with a slash at its end, of a folder that is not there yet, and its path."""
        name = uuid.uuid4().hex
        return f"{apache[0]}{name}/", apache[1] / name

    @pytest.mark.parametrize("size", [0, 100, 5 << 20])
    def test_folders_are_made(self, place: tuple[str, Path], size: int) -> None:
        url, folder = place
        storage = HttpStorage(QUICK)
        for name in ("a b/c/x.tar", "a b/c/y.tar", "a b/d/x.tar", "z.tar"):
            with storage.create(url + name) as sink:
                sink.write(MEGABYTES[:size])
            assert (folder / name).read_bytes() == MEGABYTES[:size] == storage.read(url + name)
        assert files(folder) == ["a b/c/x.tar", "a b/c/y.tar", "a b/d/x.tar", "z.tar"]
        assert storage.read_ranges(url + "z.tar", [ByteRange(0, size // 2)] * 2) == [MEGABYTES[: size // 2]] * 2

    def test_many_make_the_same_folder(self, place: tuple[str, Path]) -> None:
        url, folder = place
        storage = HttpStorage(QUICK)

        def write(number: int) -> None:
            with storage.create(f"{url}a/b/c/{number}") as sink:
                sink.write(OBJECT)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        assert len(files(folder)) == 8

    def test_a_file_where_a_folder_should_be(self, place: tuple[str, Path]) -> None:
        url, _ = place
        storage = HttpStorage(QUICK)
        for name in ("x", "x/y/z"):
            if name == "x":
                with storage.create(url + name) as sink:
                    sink.write(b"x")
                continue
            with pytest.raises(StorageError), storage.create(url + name) as sink:
                sink.write(b"y")

    def test_an_exclusive_create(self, place: tuple[str, Path]) -> None:
        url, folder = place
        storage = HttpStorage(QUICK)
        for data in (b"first", b"again"):
            storage.create_exclusive(f"{url}log/1", data)
            with pytest.raises(ExistsError):
                storage.create_exclusive(f"{url}log/1", b"second")
            assert storage.read(f"{url}log/1") == data
            storage.delete(f"{url}log/1")
        assert files(folder) == []

    def test_of_many_threads_one_creates(self, place: tuple[str, Path]) -> None:
        url, folder = place
        storage = HttpStorage(QUICK)
        barrier = threading.Barrier(8)

        def race(me: int, number: int) -> bool:
            barrier.wait()
            return creates(storage, f"{url}log/{number}", str(me).encode())

        with ThreadPoolExecutor(8) as pool:
            for number in range(10):
                won = list(pool.map(race, range(8), [number] * 8))
                assert won.count(True) == 1
                assert (folder / f"log/{number}").read_bytes() == str(won.index(True)).encode()

    def test_a_job_writes_there(self, place: tuple[str, Path], tmp_path: Path) -> None:
        source = write_dataset(tmp_path, 3, 5)
        (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
        outcome = run("-p", "same.py", source, f"{place[0]}new/out-@3.tar", cwd=tmp_path)
        assert outcome.status == 0, outcome
        for i in range(3):
            assert members(place[1] / f"new/out-{i}.tar") == members(tmp_path / f"in-{i}.tar")


def test_a_server_that_renames_over_what_is_there(tmp_path: Path) -> None:
    with careless_server(tmp_path) as url:
        for _ in range(2):
            with pytest.raises(ConflictUnsupportedError, match=r"log/1: this service lets two .*; let one process"):
                HttpStorage(QUICK).create_exclusive(f"{url}log/1", b"mine")
        assert files(tmp_path) == [] and os.listdir(tmp_path / "log") == []
