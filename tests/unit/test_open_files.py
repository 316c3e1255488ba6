"""Files of this machine that stay open."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from shardtools.errors import ChangedError, NotFoundError, RefusedError, StorageError
from shardtools.storage.open_files import OpenFiles, open_file, read_each


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(100)))
    return path


def is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:
        return False


def test_any_range_is_read(path: Path) -> None:
    file = open_file(f"file://{path}")
    assert file.size == 100
    assert file.read(3, 7) == bytes([3, 4, 5, 6]) and file.read(0, 100) == path.read_bytes() and file.read(9, 9) == b""
    assert file.read_many([5, 0, 99], [7, 0, 100]) == [bytes([5, 6]), b"", bytes([99])]
    file.advise([0, 50], [10, 60])
    assert bytes(file.map(10, 90)) == bytes(range(10, 90))


def test_the_name_may_be_another_than_the_path(path: Path) -> None:
    file = open_file("http://host/a.zip", str(path))
    with pytest.raises(RefusedError, match=r"^http://host/a.zip: bytes 99 to 101 .* it has 100"):
        file.read(99, 101)


def test_what_is_not_there(path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        open_file(f"{path}.not")
    with pytest.raises(RefusedError, match="this is a folder"):
        open_file(str(path.parent))
    os.mkfifo(f"{path}.pipe")
    with pytest.raises(RefusedError, match="named pipe"):
        open_file(f"{path}.pipe")


def test_a_file_of_another_size_was_replaced(path: Path) -> None:
    with pytest.raises(ChangedError, match="replaced"):
        open_file(str(path), size=99)


def test_a_file_that_was_cut_off_is_an_error_of_its_own(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.bin"
    other.write_bytes(bytes(200))
    files = [open_file(str(path)), open_file(str(other))]
    os.truncate(other, 150)
    assert files[1].read(0, 150) == bytes(150)
    with pytest.raises(StorageError, match=r"b.bin: the file was cut off"):
        files[1].read(140, 160)
    with pytest.raises(StorageError, match=r"b.bin: the file was cut off"):
        read_each(files, [0, 140], [10, 160])
    with pytest.raises(StorageError, match=r"a.bin: bytes 90 to 1234567890123456789 were asked for"):
        read_each(files, [90, 0], [1234567890123456789, 1])


def test_a_file_is_closed_when_nobody_has_it(path: Path) -> None:
    file = open_file(str(path))
    descriptor = file.descriptor
    assert is_open(descriptor, path)
    del file
    gc.collect()
    assert not is_open(descriptor, path)
    with open_file(str(path)) as file:
        descriptor = file.descriptor
    assert not is_open(descriptor, path)


def test_those_used_lately_stay_open(path: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    for other in paths:
        other.write_bytes(b"x")
    files = OpenFiles(limit=2)
    first, second = (files.get(str(other), 1) for other in paths[:2])
    assert files.get(str(paths[0]), 1) is first
    descriptors = first.descriptor, second.descriptor
    del first
    files.get(str(paths[2]), 1)
    assert second.read(0, 1) == b"x"  # forgotten, but in use
    del second
    gc.collect()
    assert is_open(descriptors[0], paths[0]) and not is_open(descriptors[1], paths[1])
    files.clear()
    gc.collect()
    assert not is_open(descriptors[0], paths[0])
