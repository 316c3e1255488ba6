"""Packed shards: entered in the middle, read whole by everyone, and never cut short in silence."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shardtools.errors import CorruptError, ShardError, SpecError, TruncatedError
from shardtools.shards.compression import crc32, is_packed, unpack
from shardtools.shards.packers import ENTRY_EVERY, GzipPacker, Packer, ZstdPacker, packer_for
from shardtools.shards.reader import read_blocks
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import RECORD
from tests import tars
from tests.tars import files, make_tar

PACKED = ["a.tgz", "a.tar.gz", "a.tar.zst"]


def unpacked(data: bytes, piece: int = 10_000) -> bytes:
    """Return the tar file in ``data`` as the reader gets it, ``piece`` bytes at a time."""
    source = unpack(data[:4], io.BytesIO(data[4:]), "u.tgz")
    found, buffer = b"", memoryview(bytearray(piece))
    while size := source.readinto(buffer):
        found += buffer[:size]
    return found


def inflate_from(data: bytes, name: str) -> bytes:
    """Return what a packed file holds from an entry point on."""
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return zlib.decompressobj(wbits=-15).decompress(data)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("a.tar", Packer),
        ("-", Packer),
        ("d/a.b.tgz", GzipPacker),
        ("http://host/a.tar.gz?sig=x.zip", GzipPacker),
        ("a.tar.zst", ZstdPacker),
    ],
)
def test_the_name_of_a_shard_chooses_its_packer(url: str, kind: type[Packer]) -> None:
    assert type(packer_for(url)) is kind


@pytest.mark.parametrize("url", ["a.zip", "a", "tgz", "a.tar.xz", "a.tgz/", "http://host/x?a.tar"])
def test_other_names_are_refused(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        packer_for(url)
    assert "not the name of a shard; end it with one of .tar, .tgz, .tar.gz, .tar.zst" in str(caught.value)


def test_crc32_is_that_of_zlib() -> None:
    data = random.Random(0).randbytes(100_000)
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data[5:], crc32(data[:5])) == zlib.crc32(data)


def some_records(sizes: list[int]) -> list[dict[str, object]]:
    noise = random.Random(1)
    return [{"key": f"d.x/{i:05d}", "bin": noise.randbytes(size), "cls": i} for i, size in enumerate(sizes)]


@pytest.mark.parametrize("name", PACKED)
def test_every_entry_point_can_be_entered(tmp_path: Path, name: str) -> None:
    """Small samples, one that is larger than the distance of entries, and one larger than what is packed together."""
    sizes = [3000] * 200 + [600_000] + [10, 0, 511, 512] * 20 + [4_500_000] + [20_000] * 30
    sidecar = tars.write(tmp_path / name, some_records(sizes))
    packed = (tmp_path / name).read_bytes()
    plain = unpacked(packed)
    table = sidecar.table
    starts, stops = set(table.start.tolist()), table.stop.tolist()
    assert sidecar.entries[0, 0] == 0
    for at, entry in sidecar.entries.tolist():
        assert at in starts
        assert inflate_from(packed[entry:], name) == plain[at:]
    distance = np.diff([*sidecar.entries[:, 0].tolist(), stops[-1]])
    assert (distance[:-1] >= ENTRY_EVERY).all(), "no more entries than are needed"
    largest = np.max(table.stop - table.start)
    assert distance.max() < ENTRY_EVERY + largest
    usual = np.median(distance)
    assert ENTRY_EVERY <= usual < ENTRY_EVERY + 25_000, "and no fewer"


@pytest.mark.parametrize("name", PACKED)
def test_one_entry_gives_nothing_but_what_follows(tmp_path: Path, name: str) -> None:
    """The bytes between two entries are enough for the samples between them."""
    sidecar = tars.write(tmp_path / name, some_records([3000] * 300))
    packed, plain = (tmp_path / name).read_bytes(), unpacked((tmp_path / name).read_bytes())
    (at, entry), (after, stop) = sidecar.entries[1:3].tolist()
    piece = packed[entry:stop]
    found = (
        zstandard.ZstdDecompressor().decompress(piece)
        if name.endswith(".zst")
        else zlib.decompressobj(wbits=-15).decompress(piece)
    )
    assert found == plain[at:after]


def test_a_plain_shard_needs_no_entries(tmp_path: Path) -> None:
    sidecar = tars.write(tmp_path / "a.tar", some_records([3000] * 300))
    assert sidecar.entries.shape == (0, 2)


@pytest.mark.parametrize("name", PACKED)
def test_an_empty_shard(tmp_path: Path, name: str) -> None:
    sidecar = tars.write(tmp_path / name, [])
    assert unpacked((tmp_path / name).read_bytes()) == bytes(RECORD)
    assert len(sidecar.entries) == 0
    assert tars.read(tmp_path / name) == []


def test_a_gzip_shard_is_one_member(tmp_path: Path) -> None:
    """Python's tarfile, when it streams, stops after the first one without a word."""
    tars.write(tmp_path / "a.tgz", some_records([3000] * 300))
    inflate = zlib.decompressobj(wbits=31)
    plain = inflate.decompress((tmp_path / "a.tgz").read_bytes())
    assert inflate.eof and inflate.unused_data == b"" and plain == unpacked((tmp_path / "a.tgz").read_bytes())


@pytest.mark.parametrize(("name", "command"), [("a.tgz", "gzip"), ("a.tar.zst", "zstd")])
def test_the_programs_find_no_fault(tmp_path: Path, name: str, command: str) -> None:
    for sizes in ([], [1], [3000] * 300):
        tars.write(tmp_path / name, some_records(sizes))
        done = subprocess.run([command, "-t", str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        plain = subprocess.run([command, "-dc", str(tmp_path / name)], capture_output=True, check=True).stdout
        assert plain == unpacked((tmp_path / name).read_bytes())


def test_zstd_frames_are_checked() -> None:
    packer = ZstdPacker()
    (data,) = [b"".join(packer.pack([b"x" * ENTRY_EVERY]))]
    assert zstandard.get_frame_parameters(data).has_checksum


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_unpacking_in_pieces_of_any_size(pack: object) -> None:
    data = random.Random(2).randbytes(3000) + bytes(50_000)
    packed = pack(data)  # type: ignore[operator]
    assert is_packed(packed[:4])
    for piece in (1000, 4096, 70_000):
        assert unpacked(packed, piece) == data
    assert unpacked(packed + packed, 999) == data + data


# Damage: small shards, so that every byte can be tried.


def packed_shard(kind: str) -> tuple[bytes, tars.Samples]:
    noise = random.Random(3)
    data = make_tar(files(a_bin=noise.randbytes(200), a_txt=b"text" * 40, b_bin=noise.randbytes(50)))
    if kind == "gzip":
        return gzip.compress(data, mtime=0), tars.expected(data)
    if kind == "gzip, named":
        file = io.BytesIO()
        with gzip.GzipFile("name.tar", "wb", fileobj=file, mtime=5) as packer:
            packer.write(data)
        return file.getvalue(), tars.expected(data)
    if kind == "gzip, two members":
        return gzip.compress(data[:1500], mtime=0) + gzip.compress(data[1500:], mtime=0), tars.expected(data)
    if kind == "zstd, two frames":
        pack = zstandard.ZstdCompressor(write_checksum=True).compress
        return pack(data[:1500]) + pack(data[1500:]), tars.expected(data)
    packer = zstandard.ZstdCompressor(write_checksum=kind == "zstd, checked").compressobj()
    return packer.compress(data) + packer.flush(), tars.expected(data)


KINDS = ["gzip", "gzip, named", "gzip, two members", "zstd", "zstd, checked", "zstd, two frames"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_shard_cut_anywhere_is_noticed(tmp_path: Path, kind: str) -> None:
    packed, samples = packed_shard(kind)
    path = tmp_path / "cut.tgz"
    path.write_bytes(packed)
    assert tars.read(path) == samples
    for cut in range(len(packed)):
        path.write_bytes(packed[:cut])
        with pytest.raises((TruncatedError, CorruptError) if cut < 18 else TruncatedError) as caught:
            tars.read(path, block_size=1024 if cut % 2 else 1 << 20, ahead=cut % 3 == 0)
        assert str(caught.value).startswith(str(path)) and "; fetch or make the shard again" in str(caught.value)


def test_our_shards_cut_anywhere_near_their_end_are_noticed(tmp_path: Path) -> None:
    for name in PACKED:
        path = tmp_path / name
        tars.write(path, some_records([3000] * 100))
        packed = path.read_bytes()
        for cut in [*range(len(packed) - 60, len(packed)), *range(20, len(packed), 7919)]:
            path.write_bytes(packed[:cut])
            with pytest.raises(TruncatedError):
                tars.read(path)


@pytest.mark.parametrize("kind", ["gzip", "gzip, named", "zstd, checked", "zstd, two frames"])
def test_damage_to_any_byte_is_noticed(tmp_path: Path, kind: str) -> None:
    """Or it is harmless, as in the time and the name that a gzip header holds."""
    packed, samples = packed_shard(kind)
    path = tmp_path / "bad.tgz"
    noticed = 0
    for at in range(len(packed)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(packed[:at] + bytes([packed[at] ^ flip]) + packed[at + 1 :])
            try:
                found = tars.read(path)
            except ShardError as error:
                assert str(error).startswith(str(path)) and "; " in str(error)
                noticed += 1
            else:
                assert found == samples
    assert noticed > 3 * (len(packed) - 25)


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_what_follows_packed_data_is_refused(tmp_path: Path, kind: str, pack: object) -> None:
    path = tmp_path / "bad.tgz"
    packed = pack(make_tar(files(a_txt=b"1")))  # type: ignore[operator]
    for garbage in (b"garbage " * 10, b"<html>404</html>\n", b"\n\n", b"x"):
        path.write_bytes(packed + garbage)
        with pytest.raises(CorruptError) as caught:
            tars.read(path)
        shown = garbage[:8] if kind == "zstd" else garbage[:12]
        what = f"the {kind} data are complete, and followed by bytes that are not {kind}: {shown!r}"
        assert str(caught.value) == f"{path}: {what}; cut these off, or fetch or make the shard again"


@pytest.mark.parametrize(
    "padding", [b"\n", b"\0", bytes(511), bytes(700_000), bytes(10) + b"\n", bytes(700_000) + b"\n"]
)
def test_zeros_and_a_newline_after_gzip_data_are_padding(tmp_path: Path, padding: bytes) -> None:
    data = make_tar(files(a_txt=b"1", b_bin=random.Random(4).randbytes(5000)))
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(data) + padding)
    assert subprocess.run(["gzip", "-dqc", str(path)], capture_output=True).stdout == data
    for packed in (gzip.compress(data), gzip.compress(data[:1000]) + bytes(300_000) + gzip.compress(data[1000:])):
        path.write_bytes(packed + padding)
        for size in (512, 1 << 20):
            assert tars.read(path, block_size=size) == tars.expected(data)


def test_a_zstd_dictionary_is_missed(tmp_path: Path) -> None:
    data = make_tar(files(a_txt=b"1"))
    dictionary = zstandard.train_dictionary(2000, [random.Random(i).randbytes(20) * 5 for i in range(200)])
    path = tmp_path / "a.tar.zst"
    path.write_bytes(zstandard.ZstdCompressor(dict_data=dictionary).compress(data))
    with pytest.raises(CorruptError) as caught:
        tars.read(path)
    what = "the shard is compressed with a zstd dictionary, which it does not contain; compress it again without -D"
    assert str(caught.value) == f"{path}: {what}"


def test_a_zstd_window_that_takes_too_much_memory(tmp_path: Path) -> None:
    data = make_tar(files(a_bin=random.Random(0).randbytes(200_000)))
    path = tmp_path / "a.tar.zst"
    for window, is_fine in (("27", True), ("28", False)):
        pack = ["zstd", f"--long={window}", "-c", "-"]
        path.write_bytes(subprocess.run(pack, input=data, capture_output=True, check=True).stdout)
        if is_fine:
            assert tars.read(path) == tars.expected(data)
            continue
        with pytest.raises(CorruptError) as caught:
            tars.read(path)
        what = "decompressing the shard's zstd data needs more than 128 MB of memory"
        assert str(caught.value) == f"{path}: {what}; compress it again without --long and --ultra"


def test_a_large_shard_is_read_from_any_entry(tmp_path: Path) -> None:
    """What a view of the dataset does: fetch from the entry before a sample, inflate, and take the sample's span."""
    path = tmp_path / "a.tgz"
    sidecar = tars.write(path, some_records([3000] * 500))
    table = ShardTable.join([block.table for block in read_blocks(str(path))])
    packed = path.read_bytes()
    for i in (0, 1, 250, 499):
        at, entry = sidecar.entries[np.searchsorted(sidecar.entries[:, 0], table.start[i], "right") - 1].tolist()
        piece = zlib.decompressobj(wbits=-15).decompress(packed[entry:], int(table.stop[i]) - at)
        with tarfile.open(fileobj=io.BytesIO(piece[int(table.start[i]) - at :] + bytes(1024))) as file:
            assert file.getnames() == [f"d.x/{i:05d}.bin", f"d.x/{i:05d}.cls"]


def gzipped(*samples: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    packer = GzipPacker()
    parts = [part for sample in samples for part in packer.pack([sample])]
    return b"".join(map(bytes, [*parts, *packer.finish(bytes(1024))])), packer.entries


@pytest.mark.parametrize("left_out", [*range(256), None])
def test_no_byte_of_the_dictionary_is_matched(left_out: int | None) -> None:
    """It is no part of the file, so that a match with it would be an error, or other bytes."""
    start = b"abcd"
    all_but_one = b"".join(bytes([value]) + start for value in range(256) if value != left_out)
    data = start + all_but_one * 30
    packed, _ = gzipped(data)
    assert gzip.decompress(packed) == data + bytes(1024)


@given(
    st.lists(st.lists(st.sampled_from([b"\0", b"\xff", b"\xfe\xff", b"ab", bytes(300), b"\xff" * 33_000])), max_size=4)
)
def test_repetitive_samples_come_back(samples: list[list[bytes]]) -> None:
    data = [b"".join(pieces) for pieces in samples]
    packed, entries = gzipped(*data)
    tar = b"".join(data) + bytes(1024)
    assert gzip.decompress(packed) == tar
    for start, at in entries:
        assert zlib.decompressobj(-15).decompress(packed[at:]) == tar[start:]


def test_the_same_bytes_wherever_in_memory() -> None:
    """isal by itself, which hashes an address, gives others once in some thousand times."""
    choose = random.Random(5)
    data = b"".join((b"%d.bin" % i).ljust(512, b"\0") + choose.randbytes(20_000) + bytes(20_448) for i in range(7))
    kept: list[object] = []
    expected = GzipPacker().pack([data])
    for _ in range(1000):
        found = GzipPacker().pack([data])
        assert found == expected
        kept += [found, bytearray(choose.randrange(1 << 20))]
        if len(kept) > 300:
            kept = choose.sample(kept, 150)
