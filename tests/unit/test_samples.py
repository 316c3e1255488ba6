"""Records: what a user's function gets, and what it may return."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import FieldError, SampleError
from shardtools.shards.reader import read_blocks
from shardtools.shards.samples import Composer, Record, records
from shardtools.shards.scan import scan
from shardtools.shards.tar import build_headers
from tests import tars
from tests.tars import archive, files, make_tar, padded


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The second record of a shard."""
    path = tmp_path / "a-0.tar"
    path.write_bytes(make_tar(files(x_jpg=b"0", y_jpg=b"1", y_seg_png=b"2")))
    (block,) = read_blocks(str(path))
    return list(records(block))[1]


def test_a_record_is_a_dict_of_its_key_and_fields(record: Record) -> None:
    assert isinstance(record, dict)
    assert dict(record) == {"key": "y", "jpg": b"1", "seg_png": b"2"}
    assert list(record) == ["key", "jpg", "seg_png"]
    assert type(record["jpg"]) is bytes


def test_special_names_are_not_entries(record: Record, tmp_path: Path) -> None:
    special = {name: record[name] for name in ("__key__", "__url__", "__shard__", "__index__")}
    assert special == {
        "__key__": "y",
        "__url__": str(tmp_path / "a-0.tar"),
        "__shard__": "a-0.tar",
        "__index__": 1,
    }
    for name, value in special.items():
        assert name in record and record.get(name) == value
        assert name not in list(record)
    assert len(record) == 3


def test_names_that_are_not_there(record: Record) -> None:
    assert "png" not in record and "__x__" not in record and 5 not in record
    assert record.get("png") is None and record.get("png", 1) == 1
    for name in ("png", "__x__"):
        with pytest.raises(KeyError, match=name):
            record[name]


def test_a_record_that_a_user_made_comes_from_nowhere() -> None:
    made = Record({"key": "a", "txt": b"1"})
    assert made["__key__"] == "a" and made["txt"] == b"1"
    assert "__url__" not in made and made.get("__index__", 7) == 7
    for name in ("__url__", "__shard__", "__index__"):
        with pytest.raises(KeyError, match=name):
            made[name]
    assert "__key__" not in Record({"txt": b"1"})


def test_a_key_set_the_way_of_webdataset_counts(record: Record) -> None:
    record["__key__"] = "new"
    assert record["__key__"] == "new"
    key, (layout, _) = Composer().compose(record)
    assert key == "new" and layout.fields == ("jpg", "seg_png")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, Record.copy, lambda record: pickle.loads(pickle.dumps(record))]
)
def test_copies_know_where_they_come_from(record: Record, copied: object) -> None:
    twin = copied(record)  # type: ignore[operator]
    assert type(twin) is Record and twin == record and twin is not record
    assert (twin["__url__"], twin["__index__"]) == (record["__url__"], 1)
    twin["jpg"] = b"other"
    assert record["jpg"] == b"1"


def test_unpacking_gives_entries_only(record: Record) -> None:
    assert {**record, "png": b"3"} == {"key": "y", "jpg": b"1", "seg_png": b"2", "png": b"3"}
    assert (record | {"jpg": b"new"})["jpg"] == b"new"
    assert Composer().compose({**record, "png": b"3"})[0] == "y"


def test_fields_are_sorted() -> None:
    key, (layout, values) = Composer().compose({"b": b"1", "key": "d/k", "a.x": b"2", "C": b"3"})
    assert (key, layout.fields, values) == ("d/k", ("C", "a.x", "b"), [b"3", b"2", b"1"])
    assert layout.suffixes == (b".C", b".a.x", b".b")


def test_names_that_begin_with_two_underscores_are_not_written() -> None:
    made = {"__key__": "k", "__url__": "u", "__local_path__": "p", "__x": object(), "txt": b"1"}
    key, (layout, _) = Composer().compose(made)
    assert (key, layout.fields) == ("k", ("txt",))


def test_values_are_encoded_by_their_extension() -> None:
    made = {"key": "k", "txt": "é", "cls": 7, "json": [1], "npy": np.arange(3), "raw": bytearray(b"r")}
    _, (layout, values) = Composer().compose(made)
    found = dict(zip(layout.fields, values, strict=True))
    assert (found["txt"], found["cls"], found["json"], found["raw"]) == ("é".encode(), b"7", b"[1]", b"r")
    assert all(type(value) is bytes for value in values)
    assert found["npy"].startswith(b"\x93NUMPY")


def test_any_mapping_is_a_record() -> None:
    assert Composer().compose(MappingProxyType({"key": "a", "txt": b"1"}))[0] == "a"


def test_a_value_that_cannot_be_encoded_names_key_and_field() -> None:
    with pytest.raises(FieldError) as caught:
        Composer().compose({"key": "d/k", "txt": 7})
    assert str(caught.value).startswith("[d/k.txt]: an int cannot be written as .txt")
    with pytest.raises(
        FieldError, match=r"\[d/k.x\]: an int cannot be written: shardtools has no encoder for .x; give bytes"
    ):
        Composer().compose({"key": "d/k", "x": 7})


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (7, "a record must be a dict, not int"),
        ([("key", "a")], "a record must be a dict, not list"),
        ("text", "a record must be a dict, not str"),
        ({}, "the record has no key"),
        ({"txt": b"1"}, "the record has no key"),
        ({"key": None, "txt": b"1"}, "the record has no key"),
        ({"key": b"a", "txt": b"1"}, "a key must be a str, not b'a'"),
        ({"key": 7, "txt": b"1"}, "a key must be a str, not 7"),
        ({"key": "a", "__key__": 7, "txt": b"1"}, "a key must be a str, not 7"),
        ({"key": "a"}, "[a]: the record has no fields; return None to drop the sample"),
        ({"key": "a", "__url__": "u"}, "[a]: the record has no fields"),
        ({"key": "a", 7: b"1"}, "[a]: a field's name must be a str, not 7"),
        ({"key": "a", "": b"1"}, "[a]: '' is not a valid name of a field"),
        ({"key": "a", "x/y": b"1"}, "[a]: 'x/y' is not a valid name of a field"),
        ({"key": "a", "x\0": b"1"}, "is not a valid name of a field"),
        ({"key": "a", "\ud800": b"1"}, "is not a valid name of a field"),
        ({"key": "a", "\udcc3\udca9": b"1"}, "is not a valid name of a field"),
    ],
)
def test_records_that_cannot_be_written(made: object, what: str) -> None:
    composer = Composer()
    for _ in range(2):  # nothing that was refused is remembered as good
        with pytest.raises(SampleError) as caught:
            composer.compose(made)
        message = str(caught.value)
        assert what in message and "; " in message and "\n" not in message
        message.encode("utf-8", "backslashreplace")


@pytest.mark.parametrize(
    "key", ["", "a.b", "d/", "d/a.b", "./a", "a\0b", "/", "\ud800", "\udcc3\udca9", ".a", "d/.a", ".", "d/.."]
)
def test_keys_that_would_read_back_differently(key: str) -> None:
    with pytest.raises(SampleError, match="is not a valid key; a key is a path") as caught:
        Composer().compose({"key": key, "txt": b"1"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "field"), [("__a", "b__"), ("__a__/b", "txt"), ("__a__/b/c", "txt")])
def test_names_that_readers_take_for_metadata(key: str, field: str) -> None:
    with pytest.raises(SampleError, match="is not a valid key"):
        Composer().compose({"key": key, field: b"1"})


def read_back(key: str, field: str) -> tars.Samples:
    """Return the one sample of a shard with one member."""
    key, (layout, values) = Composer().compose({"key": key, field: b"v"})
    name = key.encode("utf-8", "surrogateescape") + layout.suffixes[0]
    data = archive(*map(bytes, build_headers([name], [1])), padded(values[0]))
    table = scan(np.frombuffer(data, np.uint8)).table
    return [(key, {table.fields[table.field[i]]: b"v"}) for i, key in enumerate(table.keys.decode())]


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("a", "txt"),
        ("d.x/a", "seg.png"),
        ("__a", "txt"),
        ("__a_/b", "txt"),
        ("d/__a", "b__"),
        ("/abs/a", "txt"),
        ("/" + "a" * 96, "txt"),
        ("../a", "txt"),
        ("a b\n", "t x\n"),
        ("ключ/é", "текст"),
        ("\udcff", "\udcfe"),
        ("k" * 1000, "f" * 500),
        ("d/" * 200 + "k", "txt"),
        ("a", ".txt"),
        ("a", "txt."),
        ("a", "."),
        ("a", "Key"),
        ("a", "_x"),
    ],
)
def test_odd_names_read_back(key: str, field: str) -> None:
    assert read_back(key, field) == [(key, {field: b"v"})]


_TEXT = st.text(st.characters() | st.sampled_from("./_\0\udcff\udcc3\udca9"), max_size=8)


@settings(max_examples=500, deadline=None)
@given(key=_TEXT | st.sampled_from(["__a", "./a", "a"]), field=_TEXT | st.sampled_from(["b__", "txt", "x."]))
def test_what_is_accepted_reads_back(key: str, field: str) -> None:
    try:
        found = read_back(key, field)
    except SampleError:
        return
    assert found == [(key, {field: b"v"})]


def test_a_composer_does_not_remember_more_than_it_must() -> None:
    composer = Composer()
    for i in range(25_000):
        composer.compose({"key": "a", f"f{i}": b""})
    assert len(composer._layouts) <= 10_000
    assert composer.compose({"key": "a", "f1": b"1"})[1][0].fields == ("f1",)
