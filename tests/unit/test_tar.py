"""Finding the headers of a buffer, both ways, and building new ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError, TruncatedError
from shardtools.shards import locate, tar
from shardtools.shards.locate import LocatedHeaders, is_extension, locate_headers
from shardtools.shards.scan import scan
from shardtools.shards.tar import BLOCK, END
from shardtools.types import Bytes
from tests import tars
from tests.tars import Shard, archive, files, header, make_tar, member, patch, pax

GIB = 1 << 30


def bytes_of(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)


def plain(found: LocatedHeaders) -> tuple[list[int], list[int], int, bool, tuple[int, ...]]:
    return found.start.tolist(), found.size.tolist(), found.stop, found.ended, found.breaks


def walk(data: bytes) -> LocatedHeaders:
    return locate._locate_by_walk(bytes_of(data), 0, None)


def same_both_ways(data: bytes) -> bool:
    """Check that the numpy way, where it applies, finds what the walk does; return whether it applies."""
    fast = locate._locate_ustar(bytes_of(data))
    if fast is not None:
        assert plain(fast) == plain(walk(data))
    return fast is not None


@settings(max_examples=150, deadline=None)
@given(tars.shards())
def test_numpy_and_the_walk_agree_wherever_the_buffer_ends(shard: Shard) -> None:
    for length in range(0, len(shard.data), BLOCK):
        same_both_ways(shard.data[:length])


@settings(max_examples=100, deadline=None)
@given(tars.shards())
def test_the_walk_agrees_with_tarfile(shard: Shard) -> None:
    found = walk(shard.data)
    kind = bytes_of(shard.data)[found.start + tar.TYPE_AT]
    real = found.start[~is_extension(kind)] + BLOCK
    with tarfile.open(fileobj=io.BytesIO(shard.data)) as file:
        infos = file.getmembers()
    assert real.tolist() == [info.offset_data for info in infos]
    assert found.size[~is_extension(kind)].tolist() == [info.size for info in infos]


@pytest.mark.parametrize(
    "data",
    [
        make_tar(files(a_txt=b"1", b_txt=bytes(3000))),
        make_tar(files(a_txt=b"1", b_txt=bytes(3000)), tarfile.PAX_FORMAT, mtime=0.5),
        make_tar(files(a_txt=b"1") * 3, tarfile.GNU_FORMAT),
        make_tar([tars.Member("x/" * 100 + "a.txt", b"1")], tarfile.GNU_FORMAT),
    ],
)
def test_the_usual_shards_take_the_fast_way(data: bytes) -> None:
    assert same_both_ways(data)
    assert same_both_ways(data[:1024]), "and so do buffers that end inside a member"


def test_stored_data_that_look_like_headers_are_data() -> None:
    inner = make_tar(files(x_txt=b"1", y_txt=b"2"))
    data = make_tar(files(a_tar=inner, b_tar=header(b"h.txt") * 9, c_txt=b"3"))
    assert locate._locate_ustar(bytes_of(data)) is None
    assert len(walk(data).start) == 3
    for cut in range(0, len(data) - len(END), BLOCK):
        found = locate_headers(bytes_of(data[:cut]), final=False)
        assert found.start.tolist() == [at for at in walk(data).start.tolist() if at < found.stop]


def test_headers_without_magic_are_walked() -> None:
    """As tar wrote them before 1988, and GNU tar does with ``--format=v7``."""
    data = archive(member(b"a.txt", b"12", magic=b""), member(b"b.txt", b"", magic=b""))
    assert plain(locate_headers(bytes_of(data))) == ([0, 1024], [2, 0], 1536, True, ())


def test_headers_with_and_without_magic_may_be_mixed() -> None:
    data = archive(member(b"a.txt", b"12"), member(b"b.txt", b"", magic=b""), member(b"c.txt", b"3"))
    assert locate_headers(bytes_of(data)).start.tolist() == [0, 1024, 1536]


@pytest.mark.parametrize("number", [b"%07o\0", b"%6o \0", b" %5o \0\0", b"%06o\0 ", b"%o\0\0\0\0"])
def test_checksums_in_every_form(number: bytes) -> None:
    block = bytearray(header(b"a.txt"))
    total = sum(block[:148] + b" " * 8 + block[156:])
    block[148:156] = (number % total).ljust(8, b"\0")
    scan(bytes_of(archive(bytes(block))))
    block[0] += 1
    with pytest.raises(CorruptError, match="the header checksum at byte 0 is wrong"):
        scan(bytes_of(archive(bytes(block))))


def test_checksums_of_signed_bytes() -> None:
    """Some old programs summed the bytes as signed numbers."""
    block = bytearray(header(b"\xff\xfe.txt"))
    total = sum(block[:148] + b" " * 8 + block[156:]) - 2 * 256
    block[148:156] = b"%06o\0 " % total
    assert len(scan(bytes_of(archive(bytes(block)))).table) == 1


@pytest.mark.parametrize("size", [b"00000000003 ", b"          3\0", b"3\0" + bytes(10), b"\x80" + bytes(10) + b"\3"])
def test_sizes_in_every_form(size: bytes) -> None:
    data = archive(patch(header(b"a.txt"), 124, size), tars.padded(b"123"), member(b"b.txt", b""))
    assert plain(locate_headers(bytes_of(data))) == ([0, 1024], [3, 0], 1536, True, ())


def test_a_pax_record_overrides_the_size_of_the_next_member_only() -> None:
    data = archive(
        pax({"size": b"600"}), header(b"a.txt", 0), bytes(1024), pax({"mtime": b"1.5"}), member(b"b.txt", b"12345")
    )
    found = locate_headers(bytes_of(data))
    assert found.start.tolist() == [0, 1024, 2560, 3584]
    assert found.size[[1, 3]].tolist() == [600, 5]


def test_a_pax_record_gives_no_data_to_a_link() -> None:
    data = archive(pax({"size": b"600"}), header(b"l", kind=b"2"), member(b"b.txt", b"1"))
    assert len(scan(bytes_of(data)).table) == 1


def test_a_pax_size_counts_in_a_buffer_that_ends_inside_a_member() -> None:
    """The header that its size uncovers has no magic, so that nothing else tells of it."""
    data = pax({"size": b"0"}) + header(b"a.txt", 512) + header(b"b.txt", magic=b"") + header(b"c.txt", 5000)
    assert locate_headers(bytes_of(data), final=False).start.tolist() == [0, 1024, 1536]


@pytest.mark.parametrize("kind", [b"1", b"2", b"5"])
@pytest.mark.parametrize("behind", [b"", member(b"b.txt", b"1")])
def test_a_link_has_no_data_whatever_its_size(kind: bytes, behind: bytes) -> None:
    data = archive(member(b"a.txt", b"1"), header(b"l", 600, kind=kind), behind)
    assert same_both_ways(data)
    assert locate_headers(bytes_of(data)).size[1] == 0


def test_a_size_of_twelve_digits() -> None:
    data = archive(patch(header(b"a.txt"), 124, b"000000000014"), bytes(512))
    assert locate_headers(bytes_of(data)).size.tolist() == [12]


def test_a_size_in_a_pax_record_about_something_else_is_left_alone() -> None:
    data = archive(pax({"comment": b"size=9"}), member(b"a.txt", b"1"))
    assert locate_headers(bytes_of(data)).size[1] == 1


@pytest.mark.parametrize("form", ["base 256", "pax"])
def test_a_member_beyond_8_gib(form: str, tmp_path: Path) -> None:
    """Only its header and the member behind it are on the disk: the file is sparse."""
    size = 8 * GIB + 5
    head = (
        patch(header(b"a.bin"), 124, b"\x80" + size.to_bytes(11, "big"))
        if form == "base 256"
        else pax({"size": b"%d" % size}) + header(b"a.bin")
    )
    behind = len(head) + 8 * GIB + BLOCK
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(head)
        file.seek(behind)
        file.write(archive(member(b"b.txt", b"1")))
    data = np.memmap(path, np.uint8, "r")
    found = locate._locate_by_walk(data, 0, None)
    assert (found.start[-2:].tolist(), found.size[-2:].tolist()) == ([len(head) - BLOCK, behind], [size, 1])
    assert found.ended
    cut = locate_headers(data[: 1 << 20], final=False)
    assert (len(cut.start), cut.stop) == (0, 0)
    with pytest.raises(TruncatedError):
        locate_headers(data[: 1 << 20])


def test_a_buffer_may_begin_and_end_between_archives() -> None:
    assert plain(locate_headers(bytes_of(END), final=False)) == ([], [], 0, True, ())
    assert plain(locate_headers(bytes_of(b""), ended=True)) == ([], [], 0, False, ())
    assert locate_headers(bytes_of(END + archive(header(b"a.txt")))).start.tolist() == [1024]


def test_what_comes_after_an_end_mark_is_told() -> None:
    data = archive(header(b"a.txt")) + archive(header(b"b.txt"), header(b"c.txt")) + archive(header(b"d.txt"))
    assert locate_headers(bytes_of(data)).breaks == (1, 3)


def test_an_extension_header_must_have_a_member() -> None:
    long_name = member(b"././@LongLink", b"name.txt\0", kind=b"L")
    for extension in (long_name, pax({"path": b"a.txt"}), pax({"mtime": b"1.5"})):
        for before in (b"", member(b"a.txt", b"")):
            message = f"no member follows the extension header at byte {len(before)}"
            with pytest.raises(CorruptError, match=message):
                locate_headers(bytes_of(archive(before, extension)))
            with pytest.raises(CorruptError, match=message):
                locate_headers(bytes_of(archive(before, extension) + archive(member(b"b.txt", b""))))
            with pytest.raises(TruncatedError):
                locate_headers(bytes_of(before + extension))
            assert locate_headers(bytes_of(before + extension), final=False).stop == len(before)


def test_a_global_header_between_an_extension_header_and_its_member() -> None:
    parts = [pax({"path": b"long.txt"}), pax({"comment": b"x"}, kind=b"g"), member(b"short", b"1")]
    assert locate_headers(bytes_of(b"".join(parts[:2])), final=False).stop == 0
    assert walk(b"".join(parts[:2])).stop == 0
    assert scan(bytes_of(archive(*parts))).table.keys.decode() == ["long"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (archive(member(b"a.txt", b"1"), b"garbage!" * 64), "the header checksum at byte 1024 is wrong"),
        (archive(member(b"a.txt", b"1")) + b"garbage!" * 64, "the header checksum at byte 2048 is wrong"),
        (archive(member(b"a.txt", b"1")) + b"junk", "unexpected data after the end of the archive, before byte 2052"),
        (archive(patch(header(b"a.txt"), 124, b"12x45678901\0")), "[a.txt]: the header's size is not a number"),
        (archive(patch(header(b"a.txt"), 124, b"-0000000001\0")), "[a.txt]: the header's size is not a number"),
        (archive(header(b"a.txt", kind=b"S", magic=b"ustar  ")), "[a.txt]: sparse members are not supported"),
        (
            archive(pax({"GNU.sparse.name": b"a.txt", "GNU.sparse.major": b"1"}), member(b"x/a.txt", b"1")),
            "[a.txt]: sparse members are not supported",
        ),
        (
            archive(pax({"GNU.sparse.size": b"9"}), member(b"a.txt", b"1")),
            "sparse members are not supported; make the shard again with tar without --sparse",
        ),
        (archive(member(b"p", b"99 path=a.txt\n", kind=b"x"), header(b"a")), "malformed pax header at byte 0"),
        (archive(member(b"p", b"14 path=a.txtX", kind=b"x"), header(b"a")), "malformed pax header at byte 0"),
        (archive(member(b"p", b"no length\n", kind=b"x"), header(b"a")), "malformed pax header at byte 0"),
        (archive(member(b"p", b"-9 path=a.txt\n", kind=b"x"), header(b"a")), "malformed pax header at byte 0"),
        (archive(member(b"p", b"8 nopath\n", kind=b"x"), header(b"a")), "malformed pax header at byte 0"),
        (archive(pax({"size": b"many"}), header(b"a")), "malformed pax header at byte 0"),
        (archive(pax({"size": b"-1"}), header(b"a")), "malformed pax header at byte 0"),
        (archive(pax({"path": b"a.txt"}, b"g"), header(b"a")), "a global pax header at byte 0 renames or resizes"),
        (archive(pax({"size": b"0"}, b"g"), header(b"a")), "a global pax header at byte 0 renames or resizes"),
    ],
)
def test_damage_is_named(data: bytes, what: str) -> None:
    with pytest.raises(CorruptError) as caught:
        scan(bytes_of(data), url="http://host/u.tar?secret")
    message = str(caught.value)
    assert message.startswith("http://host/u.tar") and what in message and "; " in message and "\n" not in message


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "u.tar: the shard ends at byte 0 without an end-of-archive mark"),
        (b"x" * 100, "u.tar: the shard ends at byte 100, inside a tar block"),
        (member(b"a.txt", b"1"), "u.tar: the shard ends at byte 1024 without an end-of-archive mark"),
        (header(b"a.txt", 1), "u.tar [a.txt]: the shard ends at byte 512, inside this member"),
        (header(b"a.txt", 600) + bytes(700), "u.tar [a.txt]: the shard ends at byte 1212, inside this member"),
        (archive(member(b"a.txt", b"1"))[:1500], "u.tar: the shard ends at byte 1500, inside a tar block"),
    ],
)
def test_a_missing_end_is_named(data: bytes, what: str) -> None:
    with pytest.raises(TruncatedError) as caught:
        locate_headers(bytes_of(data), url="u.tar")
    assert str(caught.value) == f"{what}; fetch or make the shard again"


def test_errors_count_from_the_base() -> None:
    with pytest.raises(CorruptError, match="at byte 10000 is wrong"):
        locate_headers(bytes_of(b"garbage!" * 64), base=10000)
    with pytest.raises(TruncatedError, match="at byte 10512,"):
        locate_headers(bytes_of(header(b"a.txt", 1)), base=10000)
    bad = bytearray(make_tar(files(a_txt=b"1", b_txt=b"2")))
    bad[1024] ^= 1
    with pytest.raises(CorruptError, match="at byte 11024 is wrong"):
        scan(bytes_of(bytes(bad)), base=10000)


@pytest.mark.parametrize("field", [b"12x", b"0x7", b"1_0", b"+17", b"8"])
def test_numbers_that_are_none(field: bytes) -> None:
    with pytest.raises(ValueError):
        tar.parse_number(field.ljust(12, b"\0"))


def test_numbers_are_those_that_tarfile_reads() -> None:
    for field in (b"0000755\0", b"    755\0", b"755 \0\0\0\0", b"\0" * 8, b"\x80\0\0\0\0\0\1\0"):
        assert tar.parse_number(field) == tarfile.nti(field)  # type: ignore[attr-defined]


_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30).map(
    lambda text: text.encode()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_NAMES, st.integers(0, 8**11 - 1)), max_size=20))
def test_headers_are_those_of_tarfile(members: list[tuple[bytes, int]]) -> None:
    members = [(name[:100], size) for name, size in members]
    built = tar.build_headers([name for name, _ in members], [size for _, size in members])
    for block, (name, size) in zip(built, members, strict=True):
        info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
        info.size = size
        assert bytes(block) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "name",
    [
        b"x" * 96 + b".txt",
        b"x" * 97 + b".txt",
        b"d" * 155 + b"/" + b"x" * 96 + b".txt",
        b"d" * 156 + b"/" + b"x" * 96 + b".txt",
        b"d/" * 120 + b"x.txt",
        b"d/" * 200 + b"x.txt",
        b"x" * 5000 + b".txt",
        "ключ/".encode() * 30 + b"x.txt",
        "ключ".encode() * 30 + b".txt",
        b"\xff" * 101 + b".txt",
        b"\xff" * 50 + b"/" + b"\xfe" * 60 + b".txt",
        b"/" + b"x" * 96 + b".txt",
        b"/" + b"x" * 120 + b".txt",
        b"//" + b"x" * 96 + b".txt",
        b"a//" + b"x" * 97 + b".txt",
        b"line\nbreak" * 12 + b".txt",
        b"12 path=x\n" * 12 + b".txt",
    ],
)
def test_long_names_read_back(name: bytes) -> None:
    data = archive(*map(bytes, tar.build_headers([name, b"z.txt"], [0, 0])))
    text = name.decode("utf-8", "surrogateescape")
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        assert [info.name for info in file] == [text, "z.txt"]
    table = scan(bytes_of(data)).table
    assert [f"{key}.txt" for key in table.keys.decode()] == [text, "z.txt"]


def test_sizes_beyond_8_gib_get_a_pax_header() -> None:
    (block,) = tar.build_headers([b"a.bin"], [8 * GIB])
    assert len(block) == 3 * BLOCK and b"size=8589934592\n" in bytes(block)
    assert tarfile.TarInfo.frombuf(bytes(block[:BLOCK]), "utf-8", "strict").type == tarfile.XHDTYPE
    assert len(tar.build_headers([b"a.bin"], [8 * GIB - 1])[0]) == BLOCK


def test_no_headers() -> None:
    assert tar.build_headers([], []) == []
