"""What is wrong with a hub's place, documents and chunks is one line that says where, and nothing is lost."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs.numcodecs
import zstandard
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

import shardtools as st
from shardtools.errors import (
    CorruptError,
    ExistsError,
    JobError,
    LimitError,
    NotFoundError,
    ShardtoolsError,
    SpecError,
)
from shardtools.limits import Limits
from shardtools.log.log import Log
from tests.servers import nginx_server

BOMB = 64 << 20


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=(4, 4), chunks=(2, 2), dtype="int32")[:] = 5
    return hub


def alter(hub: st.Hub, **values: Any) -> None:
    """Change the document of ``x`` to something, with a checksum that is right."""
    with hub.transaction() as t:
        document = t.document("x")
        assert document is not None
        t.set_document("x", json.dumps({**json.loads(document), **values}).encode())


def assert_one_line(error: ShardtoolsError, hub: st.Hub) -> None:
    text = str(error)
    assert "\n" not in text and text.startswith(hub.url) and error.fix


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"zarr_format": 4}, "this is not the document of a Zarr array or group"),
        ({"zarr_format": 2}, "this is not the document of a Zarr array or group"),
        ({"node_type": "table"}, "this is not the document of a Zarr array or group"),
        ({"codecs": [{"name": "bytes"}, {"name": "unheard"}]}, "zarr cannot read this array"),
        ({"codecs": []}, "zarr cannot read this array"),
        ({"codecs": 5}, "zarr cannot read this array"),
        ({"shape": [-4, 4]}, "zarr cannot read this array"),
        ({"shape": [2**70, 4]}, "zarr cannot read this array"),
        ({"shape": "4"}, "zarr cannot read this array"),
        ({"data_type": "unheard"}, "zarr cannot read this array"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 2]}}}, "zarr cannot read this array"),
        ({"chunk_grid": {"name": "unheard"}}, "zarr cannot read this array"),
        ({"chunk_key_encoding": {"name": "unheard"}}, "zarr cannot read this array"),
        ({"fill_value": "abc"}, "zarr cannot read this array"),
        ({"must_know": {"must_understand": True}}, "zarr cannot read this array"),
    ],
    ids=str,
)
def test_a_document_of_nonsense_is_an_error(hub: st.Hub, values: dict[str, Any], what: str) -> None:
    alter(hub, **values)
    with pytest.raises(CorruptError, match=what) as caught:
        hub.load("x")
    assert_one_line(caught.value, hub)
    assert caught.value.member == "x"
    assert hub.load("x@1")[0].tolist() == [5] * 4


def test_a_document_that_is_no_json_is_an_error(hub: st.Hub) -> None:
    with hub.transaction() as t:
        t.set_document("x", b"{")
    with pytest.raises(CorruptError, match="it is not JSON"):
        hub.load("x")


def test_a_chunk_that_is_too_large_for_memory_is_refused(hub: st.Hub) -> None:
    alter(hub, shape=[2**40, 4], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [2**40, 4]}})
    array = hub.load("x")
    for call in (lambda: array[0], lambda: array.__setitem__((0, 0), 1)):
        with pytest.raises(LimitError, match="17,592,186,044,416 bytes, and 1,073,741,824 is") as caught:
            call()
        assert_one_line(caught.value, hub)
    with pytest.raises(LimitError, match="raise the limit"):
        hub.array("y", shape=2**40, chunks=2**40, dtype="uint8")
    small = st.hub(hub.url, limits=Limits(value=15))
    with pytest.raises(LimitError, match="a chunk of it has 16 bytes, and 15 is the limit"):
        small.load("x@1")[0]


def packing(name: str, **options: Any) -> Any:
    """Return a codec of numcodecs for zarr, which warns that others may not know it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(zarr.codecs.numcodecs, name)(**options)


def gzip_bomb() -> bytes:
    return gzip.compress(bytes(BOMB), 1)


def zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(BOMB))


def zstd_bomb_without_size() -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BOMB))


def blosc_bomb() -> bytes:
    return bytes(numcodecs.Blosc().encode(bytes(BOMB)))


def lz4_bomb() -> bytes:
    return bytes(numcodecs.LZ4().encode(bytes(BOMB)))


PACKINGS: list[tuple[Any, Callable[[], bytes]]] = [
    (GzipCodec(), gzip_bomb),
    (ZstdCodec(), zstd_bomb),
    (ZstdCodec(), zstd_bomb_without_size),
    (BloscCodec(typesize=1), blosc_bomb),
    (packing("Blosc"), blosc_bomb),
    (packing("LZ4"), lz4_bomb),
    (packing("Zstd"), zstd_bomb),
    (packing("GZip"), gzip_bomb),
    (packing("Zlib"), lambda: zlib.compress(bytes(BOMB), 1)),
    (packing("BZ2"), lambda: bz2.compress(bytes(BOMB), 1)),
    (packing("LZMA"), lambda: lzma.compress(bytes(BOMB), preset=0)),
]


@pytest.mark.parametrize("options", [{}, {"filters": [TransposeCodec(order=(1, 0))]}, {"dtype": "U2"}], ids=str)
@pytest.mark.parametrize(("codec", "bomb"), PACKINGS)
def test_a_bomb_is_refused_before_it_takes_memory(
    hub: st.Hub, codec: Any, bomb: Callable[[], bytes], options: dict[str, Any]
) -> None:
    with hub.transaction() as t:
        t.array("y", **{"shape": (2, 2), "chunks": (2, 2), "dtype": "int32", "compressors": [codec], **options})
        t.buffer.put("y/c/0/0", bomb())
    array = hub.load("y")
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match="the chunk cannot be decoded") as caught:
            array[:]
        assert tracemalloc.get_traced_memory()[1] < BOMB / 4
    finally:
        tracemalloc.stop()
    assert_one_line(caught.value, hub)
    assert caught.value.member == "y/c/0/0"


def test_a_bomb_within_a_chunk_is_refused_before_it_takes_memory(hub: st.Hub) -> None:
    bomb = gzip_bomb()
    index = struct.pack("<QQ", 0, len(bomb))
    with hub.transaction() as t:
        t.array("y", shape=(2, 2), chunks=(2, 2), shards=(2, 2), dtype="int32", compressors=[GzipCodec()])
        t.buffer.put("y/c/0/0", bomb + index + struct.pack("<I", google_crc32c.value(index)))
    array = hub.load("y")
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match="the chunk cannot be decoded: more or fewer bytes than there should be"):
            array[:]
        assert tracemalloc.get_traced_memory()[1] < BOMB / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not blosc: 0 bytes, fewer than its header of 16"),
        (bytes(numcodecs.Blosc().encode(bytes(range(16))))[:-1], "not blosc: 31 bytes, and its header says 32"),
        (bytes(4) + struct.pack("<III", 16, 16, 20) + bytes(4), "not blosc: "),
    ],
    ids=["empty", "cut off", "nonsense"],
)
def test_a_chunk_that_is_not_blosc_is_an_error(hub: st.Hub, data: bytes, what: str) -> None:
    with hub.transaction() as t:
        t.array("y", shape=(2, 2), chunks=(2, 2), dtype="int32", compressors=[BloscCodec(typesize=1)])
        t.buffer.put("y/c/0/0", data)
    with pytest.raises(CorruptError, match=f"the chunk cannot be decoded: {what}") as caught:
        hub.load("y")[:]
    assert_one_line(caught.value, hub)


@pytest.mark.parametrize("data", [struct.pack("<I", 2**24), b"", bytes(3)], ids=["many", "empty", "cut off"])
def test_a_chunk_of_another_number_of_texts_is_refused_before_it_takes_memory(hub: st.Hub, data: bytes) -> None:
    with hub.transaction() as t:
        t.array("y", shape=(2, 2), chunks=(2, 2), dtype=str, compressors=None)
        t.buffer.put("y/c/0/0", data)
    with pytest.raises(CorruptError, match="the chunk cannot be decoded: not 4 values") as caught:
        hub.load("y")[:]
    assert_one_line(caught.value, hub)


CODECS = [[codec] for codec, _ in PACKINGS] + [
    [packing("Shuffle"), packing("LZ4")],
    [packing("LZ4"), packing("Shuffle", elementsize=2)],
    [packing("LZMA", format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 1}])],
    [packing("Zlib"), packing("CRC32"), packing("Adler32"), packing("CRC32C")],
    [packing("Fletcher32"), packing("JenkinsLookup3", initval=0), BloscCodec(typesize=4), ZstdCodec()],
]


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("options", [{}, {"shards": (4, 4)}], ids=["plain", "shards"])
def test_what_is_packed_is_read_as_zarr_reads_it(hub: st.Hub, codecs: list[Any], options: dict[str, Any]) -> None:
    values = np.arange(64, dtype="int32").reshape(8, 8)
    array = hub.array("y", shape=(8, 8), chunks=(2, 2), dtype="int32", compressors=codecs, **options)
    array[:] = values
    assert np.array_equal(hub.load("y")[:], values)
    assert np.array_equal(zarr.open_array(hub.store(), path="y", mode="r")[:], values)


@pytest.mark.parametrize("data", [b"", b"123", bytes(17)], ids=len)
def test_a_chunk_of_a_wrong_size_is_an_error(hub: st.Hub, data: bytes) -> None:
    with hub.transaction() as t:
        t.array("y", shape=(2, 2), chunks=(2, 2), dtype="int32", compressors=None)
        t.buffer.put("y/c/0/0", data)
    with pytest.raises(CorruptError, match=f"the chunk cannot be decoded: {len(data)} bytes, not 16") as caught:
        hub.load("y")[:]
    assert_one_line(caught.value, hub)


def test_places_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train-0.tar").write_bytes(bytes(10240))
    zarr.create_array(tmp_path / "zarr", shape=3, dtype="int32")
    for name, other in (("dataset", "train-0.tar"), ("zarr", "zarr.json")):
        hub = st.hub(str(tmp_path / name))
        with pytest.raises(NotFoundError, match="there are no arrays here; check the URL"):
            hub.load("x")
        with pytest.raises(ExistsError, match=f"this place holds other files, such as {other}; name an empty or new"):
            hub.array("x", shape=3)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "log.json").write_text('{"format": 2}')
    with pytest.raises(CorruptError, match="it has format 2, and this shardtools knows 1; upgrade it"):
        st.hub(str(tmp_path / "later")).array("x", shape=3)
    Log.open(str(tmp_path / "other"), create=True)
    assert st.hub(str(tmp_path / "other")).list() == []


def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ExistsError, match="/file: this is a file, not a place for arrays; name an empty or new folder"):
        st.hub(str(tmp_path / "file")).array("x", shape=3)
    with nginx_server(tmp_path) as server, pytest.raises(ExistsError, match="/file: this is a file"):
        st.hub(f"{server.url}file").array("x", shape=3)
    with pytest.raises(SpecError, match="'' is not the URL of a place"):
        st.hub("")
    with pytest.raises(TypeError):
        st.hub(None)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="unknown scheme ftp:"):
        st.hub("ftp://host/x").load("x")


def test_the_branch_of_a_tag_that_is_gone(hub: st.Hub) -> None:
    hub.tag("v1")
    Path(hub.url, "branches", "main").unlink()
    with pytest.raises(CorruptError, match="branches/main: the branch of a tag is gone; restore it from a copy"):
        st.hub(hub.url).load("x:v1")


def test_clocks_that_jump(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits of all times follow each other, and none that is young expires because a later one says it is old."""
    array = hub.load("x")
    for number, time in enumerate(["2019-01-01", "2019-01-02", "1970-01-01", "2999-01-01", "1970-01-01", "no time"]):
        monkeypatch.setattr("shardtools.log.committing.now", lambda time=time: f"{time}T00:00:00+00:00")
        array[0] = number
    assert [commit.number for commit in hub.history()] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert hub.load("x")[0].tolist() == [5] * 4
    assert hub.expire(older_than="1d") == 0
    assert hub.load("x@1")[0].tolist() == [5] * 4


def test_what_is_older_expires(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    other = st.hub(f"{hub.url}other")
    monkeypatch.setattr("shardtools.log.committing.now", lambda: "2019-01-01T00:00:00+00:00")
    array = other.array("x", shape=4, chunks=2, dtype="int32")
    for number in range(40):
        array[:] = number
    assert other.expire(older_than="1d", keep=3) == 38
    monkeypatch.undo()
    array[:] = 50
    monkeypatch.setattr("shardtools.log.committing.now", lambda: "2019-01-01T00:00:00+00:00")
    array[:] = 51
    assert other.expire(older_than="1d") == 41
    assert other.load("x@41")[:].tolist() == [50] * 4
    with pytest.raises(NotFoundError, match="version @40 has expired"):
        other.load("x@40")


@pytest.mark.parametrize("name", [5, None, "a\u0308", "a\n", "\ud800", "/a", "a/", "a/./b"])
def test_names_that_cannot_be(hub: st.Hub, name: Any) -> None:
    with pytest.raises(SpecError, match="use names such as mnist/train"):
        hub.array(name, shape=3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"shape": 2**63}, ValueError),
        ({"shape": -1}, ValueError),
        ({"shape": 2.5}, TypeError),
        ({"shape": (4,), "chunks": 0}, ValueError),
        ({"shape": (4,), "chunks": (2, 2)}, ValueError),
        ({"shape": 4, "dtype": "unheard"}, TypeError),
        ({"shape": 4, "dtype": object}, TypeError),
        ({"shape": 4, "fill_value": "abc"}, TypeError),
        ({"shape": 4, "attributes": {"a": {1}}}, JobError),
        ({"shape": 4, "attributes": {"a": float("nan")}}, JobError),
        ({"shape": 4, "attributes": {1: 2}}, JobError),
        ({"shape": 4, "attributes": [1]}, JobError),
        ({"shape": 4, "unheard": 1}, TypeError),
    ],
    ids=str,
)
def test_options_that_cannot_be(hub: st.Hub, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        hub.array("y", **options)
    assert hub.list() == ["x"]
    assert len(list(hub.history())) == 2


def test_where_an_array_cannot_be(hub: st.Hub) -> None:
    hub.array("g/y", shape=3)
    for call, error, what in (
        (lambda: hub.array("x/y", shape=3), ExistsError, "x is an array, and can have nothing in it"),
        (lambda: hub.array("g", shape=3), ExistsError, "g is a group already"),
        (lambda: hub.load("g"), NotFoundError, "this is a group, not an array"),
        (lambda: hub.move("x", "x"), ExistsError, "there is x already"),
        (lambda: hub.move("g", "g/z"), JobError, "g cannot be moved into itself"),
        (lambda: hub.move("g", "x/g"), ExistsError, "x is an array, and can have nothing in it"),
        (lambda: hub.move("x", "y:v1"), JobError, "this transaction writes to main, not to v1"),
        (lambda: hub.load("x").set_attrs({"a": {1}}), JobError, "attributes must be JSON"),
        (lambda: hub.load("x").resize((2**63, 4)), ValueError, "the sizes of axes must be from 0 to"),
        (lambda: hub.load("x").resize((4,)), ValueError, "the array has 2 axes"),
        (lambda: hub.load("x").resize((4, -1)), ValueError, "the sizes of axes cannot be negative"),
        (lambda: hub.load("x").append(np.zeros((1, 5))), ValueError, "could not append values of shape"),
    ):
        with pytest.raises(error, match=what):
            call()
    assert hub.list() == ["g/y", "x"]
    assert hub.load("x")[:].tolist() == [[5] * 4] * 4


def test_an_array_that_others_have_removed(hub: st.Hub) -> None:
    array = hub.load("x")
    del hub["x"]
    assert array[0].tolist() == [5] * 4
    with pytest.raises(ShardtoolsError, match="commit 2 of main has removed x; read it again"):
        array[0] = 1
    with pytest.raises(NotFoundError, match="there is no array x in main"):
        array.refresh()
    assert array[0].tolist() == [5] * 4


@pytest.mark.parametrize("texts", [(None, ""), ("", 5), ("a", "\ud800")], ids=ascii)
def test_messages_and_authors_that_are_no_texts(hub: st.Hub, texts: tuple[Any, Any]) -> None:
    with pytest.raises(JobError, match="message and author must be texts, not"):
        hub.transaction(texts[0], author=texts[1])


@pytest.mark.parametrize("shards", [None, (4, 4)], ids=str)
def test_texts_that_zarr_would_mix_up(hub: st.Hub, shards: tuple[int, int] | None) -> None:
    options: dict[str, Any] = {"dtype": np.dtypes.StringDType(), "filters": [TransposeCodec(order=(1, 0))]}
    with pytest.raises(ValueError, match="zarr cannot write texts of any length with the transpose codec"):
        hub.array("y", shape=(4, 4), chunks=(2, 2), shards=shards, **options)
