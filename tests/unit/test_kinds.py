"""What is no shard: one line says what it is, whichever way it is opened."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image

import shardtools as st
from shardtools.errors import CorruptError, ShardError, TruncatedError
from shardtools.jobs.index import index
from shardtools.shards.kinds import check_tar
from shardtools.shards.reader import read_blocks
from shardtools.sources.opening import open_sources
from shardtools.torch import ShardIterable
from tests.tars import archive, files, header, make_tar, member

TAR = make_tar(files(a_txt=b"1"))
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>nothing here</body></html>\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packer:
        packer.writestr("a.txt", "1")
    return file.getvalue()


def image(format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


UPLOAD = "make shards of it with htupload"
UNPACK = "unpack it, and make shards of the folder with htupload"
REPACK = "unpack it, and pack it with gzip or zstd"
PAGE = "download the shard again: the server sent this page instead"
KINDS: dict[str, tuple[bytes, str]] = {
    "html": (HTML, f"an HTML page, not a tar file; {PAGE}"),
    "html with a comment": (b"\n<!-- x -->\n<HTML>" + b"." * 900, f"an HTML page, not a tar file; {PAGE}"),
    "xml": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', f"an XML document, not a tar file; {PAGE}"),
    "json": (b'{"error": "no"}', "a JSON text, not a tar file; name the shards themselves"),
    "a list": (b"\n[1, 2]", "a JSON text, not a tar file; name the shards themselves"),
    "text": (b"Not Found\n", r"a text file that begins with 'Not Found\n', not a tar file; check the name"),
    "long text": ("schön ".encode() * 99, f"a text file that begins with {('schön ' * 7)[:40]!r}"[:-1] + "…'"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a pointer of Git LFS, not a tar file; fetch the file itself with git lfs pull",
    ),
    "bzip2": (bz2.compress(TAR), f"a file packed with bzip2, not a tar file; {REPACK}"),
    "xz": (lzma.compress(TAR), f"a file packed with xz, not a tar file; {REPACK}"),
    "lzma": (lzma.compress(TAR, lzma.FORMAT_ALONE), f"a file packed with lzma, not a tar file; {REPACK}"),
    "lz4": (b"\x04\x22\x4d\x18\x64\x40\xa7" + bytes(99), f"a file packed with lz4, not a tar file; {REPACK}"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), f"a 7z archive, not a tar file; {UNPACK}"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(99), f"a rar archive, not a tar file; {UNPACK}"),
    "zip": (zipped(), f"a zip file, not a tar file; {UPLOAD}"),
    "png": (image("PNG"), f"a PNG image, not a tar file; {UPLOAD}"),
    "jpeg": (image("JPEG"), f"a JPEG image, not a tar file; {UPLOAD}"),
    "tiff": (image("TIFF"), f"a TIFF image, not a tar file; {UPLOAD}"),
    "webp": (image("WEBP"), f"a RIFF file (WebP, WAV or AVI), not a tar file; {UPLOAD}"),
    "npy": (array(), f"a .npy file, not a tar file; {UPLOAD}"),
    "mp4": (b"\0\0\0\x20ftypisom" + bytes(600), f"an MP4 or HEIF file, not a tar file; {UPLOAD}"),
    "anything": (b"\x01\x02\x03" * 999, "not a tar file: the first bytes are "),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_a_file_is(name: str, tmp_path: Path) -> None:
    data, says = KINDS[name]
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    for size in (512, 1 << 20):
        with pytest.raises(CorruptError) as caught:
            list(read_blocks(str(path), block_size=size))
        assert str(caught.value).startswith(f"{path}: this is {says}"), caught.value


def open_dataset(path: str) -> object:
    return len(st.open(path))


def iterate(path: str) -> object:
    return list(st.open(path))


def train(path: str) -> object:
    return list(ShardIterable(path, fields=("txt",), decode=False, batch_size=1))


WAYS: list[Callable[[str], object]] = [open_dataset, iterate, train, index, lambda path: open_sources([path])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["html", "png", "text", "empty"])
def test_whichever_way_it_is_opened(name: str, way: Callable[[str], object], tmp_path: Path) -> None:
    data, says = KINDS.get(name, (b"", "the file is empty; fetch or make the shard again"))
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(ShardError) as caught:
        way(str(path))
    assert str(caught.value).removeprefix(f"{path}: ").removeprefix("this is ").startswith(says), caught.value


@pytest.mark.parametrize("url", ["http://host/a.tar", "s3://bucket/a.tar"])
def test_a_page_of_a_server(url: str) -> None:
    with pytest.raises(CorruptError) as caught:
        check_tar(HTML, url)
    advice = "check the URL: servers send such pages instead of an object that they do not have"
    assert str(caught.value) == f"{url}: this is an HTML page, not a tar file; {advice}"


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_what_is_packed(kind: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    for data, says in [
        (image("PNG"), f"the {kind} data are a PNG image, not a tar file; "),
        (gzip.compress(TAR), f"the {kind} data are a file packed with gzip, not a tar file; unpack it once"),
        (json.dumps([1]).encode(), f"the {kind} data are a JSON text, not a tar file; "),
        (b"", f"the {kind} data decompress to nothing; fetch"),
    ]:
        path.write_bytes(pack(data))
        with pytest.raises((CorruptError, TruncatedError)) as caught:
            list(read_blocks(str(path)))
        assert str(caught.value).startswith(f"{path}: {says}"), caught.value


@pytest.mark.parametrize("name", ["PK\x03\x04.txt", "BZh91.txt", "<html>.txt", "{}.txt", "GIF89a.gif", "%PDF-1.txt"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_file_is_one_whatever_its_first_member_is_called(name: str, format: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo(name)
    path.write_bytes(info.tobuf(format) + bytes(1024))
    (block,) = read_blocks(str(path))
    assert block.keys == [name.rpartition(".")[0]]


def test_what_may_be_a_tar_file_is_left_to_those_who_read_it() -> None:
    damaged = bytearray(header(b"<html>.txt"))
    damaged[0] ^= 1
    for head in (bytes(damaged), bytes(512), bytes(9), member(b"a.txt", b"", magic=b""), archive(), b"a.jpg", b"\x1f"):
        check_tar(head[:512], "a.tar")
