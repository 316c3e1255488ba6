"""Shards that others made: GNU tar, Python's tarfile and webdataset."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shardtools.errors import CorruptError
from shardtools.shards.reader import read_blocks
from tests import tars
from tests.tars import BLOCK_SIZES

SHORT: tars.Samples = [
    (f"{folder}{i:03d}", {"cls": b"%d" % i, "seg.png": bytes([i]) * (i * 211)})
    for folder in ("", "train.v1/", "val/a.b/")
    for i in range(12)
]
LONG: tars.Samples = [
    *SHORT,
    ("d" * 90 + "/" + "k" * 60, {"txt": b"split in ustar"}),
    ("ключ/\udcff", {"txt": b"odd characters"}),
]
LONGEST: tars.Samples = [
    *LONG,
    ("e" * 90 + "/" + "f" * 90 + "/" + "k" * 90, {"txt": b"more than 256 bytes"}),
    ("n" * 150, {"txt": b"more than 100, undivided"}),
]
BY_FORMAT = {"v7": SHORT, "ustar": LONG, "gnu": LONGEST, "oldgnu": LONGEST, "posix": LONGEST}


def fill(folder: Path, samples: tars.Samples) -> list[str]:
    """Write the members as files; return their names in the order of the samples."""
    names = []
    for key, fields in samples:
        for field, data in sorted(fields.items()):
            name = f"{key}.{field}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            names.append(name)
    return names


def gnu_tar(path: Path, folder: Path, names: list[str], *options: str) -> None:
    listed = "\0".join(names).encode("utf-8", "surrogateescape")
    command = ["tar", "-c", "-f", str(path), "-C", str(folder), *options, "--null", "-T", "-"]
    subprocess.run(command, input=listed, check=True)


def check(path: Path, samples: tars.Samples) -> None:
    for size in (*BLOCK_SIZES, 8 << 20):
        assert tars.read(path, block_size=size) == samples
    assert tars.read(path, ahead=True) == samples
    assert not any(block.repeated for block in read_blocks(str(path)))


@pytest.mark.parametrize("format", BY_FORMAT)
def test_gnu_tar(tmp_path: Path, format: str) -> None:
    folder, path = tmp_path / "files", tmp_path / "a.tar"
    names = fill(folder, BY_FORMAT[format])
    gnu_tar(path, folder, names, f"--format={format}")
    check(path, BY_FORMAT[format])


@pytest.mark.parametrize("format", BY_FORMAT)
def test_gnu_tar_of_a_folder(tmp_path: Path, format: str) -> None:
    """With ``./`` before every name, and a member for each folder, as ``tar cf a.tar .`` gives."""
    folder, path = tmp_path / "files", tmp_path / "a.tar"
    samples = BY_FORMAT[format]
    fill(folder, samples)
    subprocess.run(["tar", "-cf", path, f"--format={format}", "--sort=name", "-C", folder, "."], check=True)
    found = tars.read(path, block_size=4096)
    assert sorted(found) == sorted(samples)
    check(path, found)
    folders = sum(entry.is_dir() for entry in folder.rglob("*")) + 1
    assert sum(block.table.other for block in read_blocks(str(path), block_size=512)) == folders


@pytest.mark.parametrize(
    ("name", "option"), [("a.tgz", "--gzip"), ("a.tar.zst", "--zstd"), ("a.tar", "--gzip"), ("b.tgz", "--posix")]
)
def test_gnu_tar_packs(tmp_path: Path, name: str, option: str) -> None:
    names = fill(tmp_path / "files", LONGEST)
    gnu_tar(tmp_path / name, tmp_path / "files", names, option)
    check(tmp_path / name, LONGEST)


def test_gnu_tar_with_links_and_labels(tmp_path: Path) -> None:
    folder, path = tmp_path / "files", tmp_path / "a.tar"
    names = fill(folder, SHORT)
    (folder / "link.jpg").symlink_to("x" * 200)
    (folder / "hard.cls").hardlink_to(folder / names[0])
    (folder / ".DS_Store").write_bytes(b"rubbish")
    gnu_tar(path, folder, [*names, "link.jpg", "hard.cls", ".DS_Store"], "--label=a volume")
    check(path, SHORT)
    assert sum(block.table.other for block in read_blocks(str(path))) == 4


def test_gnu_tar_appends(tmp_path: Path) -> None:
    folder, path = tmp_path / "files", tmp_path / "a.tar"
    names = fill(folder, LONGEST)
    gnu_tar(path, folder, names[:20])
    listed = "\0".join(names[20:]).encode("utf-8", "surrogateescape")
    subprocess.run(["tar", "-rf", path, "-C", folder, "--null", "-T", "-"], input=listed, check=True)
    check(path, LONGEST)


def test_cat_of_gnu_tars(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    names = fill(folder, LONGEST)
    for option, suffix in (("--format=gnu", "tar"), ("--gzip", "tgz")):
        parts = b""
        for at in range(0, len(names), 24):
            gnu_tar(tmp_path / "part", folder, names[at : at + 24], option)
            parts += (tmp_path / "part").read_bytes()
        (tmp_path / f"all.{suffix}").write_bytes(parts)
        check(tmp_path / f"all.{suffix}", LONGEST)


@pytest.mark.parametrize("format", ["--format=gnu", "--format=posix"])
def test_sparse_members_are_refused(tmp_path: Path, format: str) -> None:
    """Their data are stored with the holes left out: taken as they are they would be wrong."""
    with (tmp_path / "hole.bin").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")
    gnu_tar(tmp_path / "a.tar", tmp_path, ["hole.bin"], "--sparse", format)
    for size in BLOCK_SIZES:
        with pytest.raises(CorruptError) as caught:
            tars.read(tmp_path / "a.tar", block_size=size)
        assert str(caught.value) == (
            f"{tmp_path}/a.tar [hole.bin]: sparse members are not supported; "
            "make the shard again with tar without --sparse"
        )


@pytest.mark.parametrize("mode", ["w", "w|", "w:gz", "w|gz"])
@pytest.mark.parametrize("format", tars.FORMATS)
def test_tarfile(tmp_path: Path, format: str, mode: Any) -> None:
    samples = LONG if format == "ustar" else LONGEST
    path = tmp_path / "a.tar"
    with tarfile.open(str(path), mode, format=tars.FORMATS[format]) as file:
        for key, fields in samples:
            for field, data in sorted(fields.items()):
                info = tarfile.TarInfo(f"{key}.{field}")
                info.size, info.mtime, info.uname = len(data), 1700000000.25, "user"
                file.addfile(info, io.BytesIO(data))
    check(path, samples)


@pytest.mark.parametrize("format", tars.FORMATS)
def test_tarfile_of_a_folder(tmp_path: Path, format: str) -> None:
    samples = LONG if format == "ustar" else LONGEST
    fill(tmp_path / "files", samples)
    with tarfile.open(tmp_path / "a.tar", "w", format=tars.FORMATS[format]) as file:
        file.add(tmp_path / "files", arcname=".")
    found = tars.read(tmp_path / "a.tar")
    assert sorted(found) == sorted(samples)
    check(tmp_path / "a.tar", found)


def as_webdataset(samples: tars.Samples) -> list[dict[str, Any]]:
    return [{"__key__": key, "__url__": "not written", **fields} for key, fields in samples]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_webdataset_tar_writer(tmp_path: Path, name: str) -> None:
    """It writes the time as a fraction, in a pax header before every member."""
    import webdataset

    path = tmp_path / name
    with webdataset.TarWriter(str(path)) as writer:
        for sample in as_webdataset(LONGEST):
            writer.write(sample)
    check(path, LONGEST)


def test_webdataset_shard_writer(tmp_path: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{tmp_path}/a-%03d.tar", maxcount=10) as writer:
        for sample in as_webdataset(LONGEST):
            writer.write(sample)
    paths = sorted(tmp_path.glob("a-*.tar"))
    assert len(paths) == 4
    for i, path in enumerate(paths):
        check(path, LONGEST[10 * i : 10 * i + 10])
