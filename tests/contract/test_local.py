"""Files on a disk: the contract, and what only a disk can do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from shardtools.errors import (
    AccessError,
    ChangedError,
    ExistsError,
    FullError,
    NotFoundError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from shardtools.storage import ByteRange
from shardtools.storage.files import FileSink, storage_error
from shardtools.storage.local import LocalStorage
from tests.contract.suite import OBJECT, Boom, FolderPlace, StorageContract

T = TypeVar("T")


class TestPaths(StorageContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> FolderPlace:
        return FolderPlace(LocalStorage(), f"{tmp_path}/", tmp_path)


class TestFileUrls(StorageContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> FolderPlace:
        return FolderPlace(LocalStorage(), f"file://{tmp_path}/", tmp_path)


class TestWithoutUnnamedFiles(StorageContract):
    """The way of file systems that have no files without a name."""

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
        monkeypatch.delattr(os, "O_TMPFILE")
        return FolderPlace(LocalStorage(), f"{tmp_path}/", tmp_path)

    def test_nothing_is_visible_before_the_commit(self, place: FolderPlace) -> None:
        url = place.url("new/x.tar")
        with place.storage.create(url) as sink:
            sink.write(OBJECT)
            assert place.storage.list(place.url("new/")) == []
            [hidden] = os.listdir(place.folder / "new")
            assert hidden.startswith(".x.tar.") and hidden.endswith(".tmp")
        assert os.listdir(place.folder / "new") == ["x.tar"]


@pytest.fixture
def local() -> LocalStorage:
    return LocalStorage()


def test_relative_paths(local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with local.create("x-0.tar") as sink:
        sink.write(b"x")
    local.create_exclusive("d/x-1.tar", b"y")
    assert local.list("x-") == ["x-0.tar"]
    assert local.list("d/") == ["d/x-1.tar"]
    assert local.read("file://d/x-1.tar") == b"y"


@pytest.mark.parametrize("old", [True, False])
def test_a_killed_writer_leaves_nothing(tmp_path: Path, old: bool) -> None:
    if old:
        (tmp_path / "x.tar").write_bytes(b"old")
    script = (
        "import sys, signal\n"
        "from shardtools.storage.local import LocalStorage\n"
        "with LocalStorage().create(sys.argv[1]) as sink:\n"
        "    sink.write(bytes(3_000_000))\n"
        "    print('written', flush=True)\n"
        "    signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x.tar")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    assert os.listdir(tmp_path) == ["x.tar"] * old
    assert not old or (tmp_path / "x.tar").read_bytes() == b"old"


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_decides_the_mode(
    local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool, mask: int
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE")
    before = os.umask(mask)
    try:
        for _ in range(2):
            with local.create(f"{tmp_path}/x") as sink:
                sink.write(b"x")
        local.create_exclusive(f"{tmp_path}/y", b"y")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in "xy"] == [0o666 & ~mask] * 2


def test_a_name_as_long_as_can_be(local: LocalStorage, tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        for data in (b"one", b"two"):
            with local.create(f"{tmp_path}/{name}") as sink:
                sink.write(data)
        assert local.read(f"{tmp_path}/{name}") == b"two"
    with pytest.raises(RefusedError, match="name is too long"), local.create(f"{tmp_path}/{'n' * 256}") as sink:
        sink.write(b"x")


def test_what_is_no_regular_file_is_not_replaced(local: LocalStorage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError, match="not a regular file"), local.create(f"{tmp_path}/pipe") as sink:
        sink.write(b"x")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_what_may_never_end_is_not_read(local: LocalStorage, tmp_path: Path) -> None:
    """Nobody writes to this pipe: whoever opens it waits for ever. And nothing reads all of /dev/zero."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/socket")
        for name, kind in (
            (f"{tmp_path}/pipe", "a named pipe"),
            ("/dev/zero", "a device"),
            (f"{tmp_path}/socket", "a socket"),
        ):
            reads = [local.open, local.read, lambda url: local.read_ranges(url, [ByteRange(0, 1)])]
            reads += [local.stat, local.exists] if name != "/dev/zero" else []
            for read in reads:
                with pytest.raises(RefusedError, match=f"this is {kind}.*; name a regular file"):
                    read(name)


def test_what_the_process_has_open_can_be_read(local: LocalStorage) -> None:
    """It is how a shell passes <(...)."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:
            file.write(OBJECT)

    writer = threading.Thread(target=write)
    writer.start()
    with local.open(f"/dev/fd/{reading}") as stream:
        assert stream.stat.size is None and stream.stat.validator is None
        assert stream.readall() == OBJECT
    writer.join()
    os.close(reading)


def test_devices_can_be_written_to(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("/dev/null", str(tmp_path / "link")):
        assert not local.exists(name)
        with local.create(name) as sink:
            sink.write(OBJECT)
        assert stat.S_ISCHR(os.stat(name).st_mode)
    with pytest.raises(FullError), local.create("/dev/full") as sink:
        sink.write(OBJECT)


def test_what_the_process_has_open_can_be_written(local: LocalStorage, tmp_path: Path) -> None:
    """It is not opened again: what was written before stays."""
    with open(tmp_path / "x", "wb", buffering=0) as file:
        file.write(b"before ")
        for path in (f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}"):
            assert not local.exists(path)
            with local.create(path) as sink:
                sink.write(b"this ")
        file.write(b"behind")
    assert (tmp_path / "x").read_bytes() == b"before this this behind"


def test_a_file_that_is_written_over_in_place_has_changed(local: LocalStorage, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OBJECT)
    with local.open(str(path)) as stream:
        stream.read(10)
        with path.open("r+b") as file:
            file.truncate(500)
        with pytest.raises(ChangedError, match="x: "):
            stream.readall()
    with local.open(str(path)) as stream:
        buffer = bytearray(1000)
        assert stream.readinto(buffer) == 500
        with path.open("ab") as file:
            file.write(b"more")
        assert stream.readinto(buffer) == 4
        with pytest.raises(ChangedError):
            stream.readinto(buffer)


class WritingBetween(list[T]):
    """A list after whose first item somebody writes to a file in place."""

    path: Path

    def __iter__(self) -> Iterator[T]:
        first, *others = super().__iter__()
        yield first
        with self.path.open("r+b") as file:
            file.write(b"other")
        os.utime(self.path, (1e9, 1e9))  # the clock of the file system may be coarse
        yield from others


@pytest.mark.parametrize("into", [False, True])
def test_a_file_that_is_written_over_between_two_ranges_has_changed(
    local: LocalStorage, tmp_path: Path, into: bool
) -> None:
    WritingBetween.path = path = tmp_path / "x"
    path.write_bytes(OBJECT)
    with pytest.raises(ChangedError, match=r"x: the file was written to while it was read"):
        if into:
            local.read_into(str(path), WritingBetween([0, 10]), [memoryview(bytearray(5)) for _ in range(2)])
        else:
            local.read_ranges(str(path), WritingBetween([ByteRange(0, 5), ByteRange(10, 15)]))


@pytest.mark.parametrize("url", ["", "file://", "a\0b", "d/", "d/..", "/"])
def test_what_names_no_file(local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError), local.create(url) as sink:
        sink.write(b"x")
    with pytest.raises(StorageError):
        local.read(url)


def test_short_reads_are_continued(local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux gives them, past 2 GiB and on some network file systems."""
    (tmp_path / "x").write_bytes(OBJECT)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 777), offset))
    ranges = [ByteRange(5, 5000), ByteRange(0, len(OBJECT)), ByteRange(10, 20)]
    assert local.read_ranges(f"{tmp_path}/x", ranges) == [OBJECT[part.start : part.stop] for part in ranges]
    with pytest.raises(RefusedError, match="it has 100000"):
        local.read_ranges(f"{tmp_path}/x", [ByteRange(90_000, 100_001)])


class TestSink:
    def test_short_writes_are_continued(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, True)
        parts = [OBJECT[i : i + 777] for i in range(0, len(OBJECT), 777)] * 40 + [b"", b"end"]
        expected = b"".join(parts)
        got = bytearray()

        def drain() -> None:
            while piece := os.read(reader, 1000):
                got.extend(piece)

        thread = threading.Thread(target=drain)
        thread.start()
        sink = FileSink(writer, "pipe")
        sink.writelines(parts)
        sink.write(OBJECT)
        os.close(writer)
        thread.join()
        os.close(reader)
        assert got == expected + OBJECT

    @pytest.mark.parametrize("sizes", [[1], [3, 1, 4], [0, 5, 0, 0, 2]])
    @pytest.mark.parametrize("step", [1, 2, 3, 100])
    def test_every_length_of_a_short_write(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sizes: list[int], step: int
    ) -> None:
        write = os.write
        parts = [OBJECT[i : i + size] for i, size in enumerate(sizes)]
        monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, b"".join(parts)[:step]))
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:step]))
        with (tmp_path / "x").open("wb", buffering=0) as file:
            FileSink(file.fileno(), "x").writelines(parts)
            assert FileSink(file.fileno(), "x").write(b"whole") == 5
        assert (tmp_path / "x").read_bytes() == b"".join(parts) + b"whole"

    def test_a_full_disk(self) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            sink = FileSink(full.fileno(), "disk/x.tar")
            with pytest.raises(FullError, match=r"disk/x.tar: no space left on the disk; free some space"):
                sink.write(b"x")
            with pytest.raises(FullError):
                sink.writelines([b"x", b"y"])


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """A process that may not write more gets an error, and leaves nothing."""
    script = (
        "import resource, signal, sys\n"
        "from shardtools.errors import FullError\n"
        "from shardtools.storage.local import LocalStorage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    with LocalStorage().create(sys.argv[1]) as sink:\n"
        "        sink.writelines([bytes(20_000)] * 500)\n"
        "except FullError:\n"
        "    print('full')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.tar")], capture_output=True, timeout=60)
    assert done.stdout == b"full\n", done.stderr
    assert os.listdir(tmp_path) == []


def test_what_may_not_be_read_or_written(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.tar").write_bytes(b"x")
    (tmp_path / "d" / "x.tar").chmod(0)
    (tmp_path / "d").chmod(0o500)

    def check() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may do everything
        with pytest.raises(AccessError, match=r"x\.tar: permission denied; "):
            local.read(f"{tmp_path}/d/x.tar")
        with pytest.raises(AccessError), local.create(f"{tmp_path}/d/y.tar") as sink:
            sink.write(b"y")

    child = multiprocessing.get_context("fork").Process(target=check)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    (tmp_path / "d").chmod(0o700)
    assert os.listdir(tmp_path / "d") == ["x.tar"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, NotFoundError),
        (errno.ENOTDIR, NotFoundError),
        (errno.EEXIST, ExistsError),
        (errno.EACCES, AccessError),
        (errno.EPERM, AccessError),
        (errno.EROFS, AccessError),
        (errno.ENOSPC, FullError),
        (errno.EDQUOT, FullError),
        (errno.EISDIR, RefusedError),
        (errno.ENAMETOOLONG, RefusedError),
        (errno.EIO, UnavailableError),
        (errno.ENODEV, StorageError),
        (None, StorageError),
    ],
)
def test_every_errno_has_its_error(number: int | None, kind: type[StorageError]) -> None:
    error = storage_error(OSError(number, "text") if number is not None else OSError("text"), "d/x.tar")
    assert type(error) is kind
    assert str(error).startswith("d/x.tar: ") and error.fix


def test_an_abort_in_a_folder_that_is_gone(local: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with pytest.raises(Boom), local.create(f"{folder}/x") as sink:
        sink.write(b"x")
        folder.rmdir()
        raise Boom
    with pytest.raises(NotFoundError, match="d/x: "), local.create(f"{folder}/x") as sink:
        sink.write(b"x")
        folder.rmdir()
