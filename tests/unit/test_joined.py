"""`st.open([...], join=...)`: one dataset of the fields that several have of the same keys."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.dataset.joined_pairs import find_pairs, keys_of
from shardtools.errors import ChangedError, DuplicateKeyError, JobError
from shardtools.loader.batches import ShardBatches
from shardtools.reading import Dataset, JoinedDataset
from tests.datasets import written_dataset
from tests.recording_server import recording_server

Record = Mapping[str, Any]


def image(key: str) -> Record:
    return {"key": key, "cls": int(key[2:]) % 5, "json": {"n": int(key[2:])}}


def caption(key: str) -> Record:
    return {"key": key, "txt": f"no {int(key[2:]) % 7}", "meta.json": {"m": int(key[2:]) // 2}}


KEYS = [f"k/{number:02d}" for number in range(30)]


def written(folder: Path, name: str, samples: Sequence[Record], *sizes: int) -> str:
    """Write samples as shards of these sizes, and of one with the rest; return their spec."""
    bounds = np.cumsum([0, *sizes]).tolist()
    shards = [samples[a:b] for a, b in zip(bounds, [*bounds[1:], len(samples)], strict=True)]
    spec = f"{name}-@{len(shards)}.tar"
    written_dataset(folder, spec, shards)
    return str(folder / spec)


@pytest.fixture
def images(tmp_path: Path) -> str:
    return written(tmp_path, "images", list(map(image, KEYS)), 10, 0, 13)


@pytest.fixture
def captions(tmp_path: Path) -> str:
    """Captions of every third image, in another order, and of some that are no images."""
    return written(tmp_path, "captions", [caption(key) for key in [*KEYS[::-3], "k/77", "k/88"]], 4)


@pytest.fixture
def joined(images: str, captions: str) -> Dataset:
    return shardtools.open([images, captions], join="inner")


def same_shard_order(folder: Path) -> str:
    return written(folder, "same", list(map(caption, KEYS)), 10, 0, 13)


def other_shards(folder: Path) -> str:
    return written(folder, "other", list(map(caption, KEYS)), 3, 20)


def test_paths_in_place_of_specs(images: str, captions: str) -> None:
    one, other = Path(images), Path(captions)
    assert [record["key"] for record in shardtools.open(one)] == KEYS
    assert len(shardtools.open([one, other])) == len(shardtools.open([images, captions]))
    assert len(shardtools.open({"i": one, "c": other}, join="inner")) == len(KEYS[::-3])
    [batch, *_] = ShardBatches(one, fields=("__key__", "cls"), batch_size=5, shuffle=False, decode=False)
    assert batch[0] == KEYS[:5]


class TestIsADataset:
    def test_samples_and_their_order(self, joined: Dataset) -> None:
        assert joined.keys == [key for key in KEYS if key in KEYS[::-3]]
        assert len(joined) == 10
        assert dict(joined[3]) == {
            "key": "k/11",
            "cls": b"1",
            "json": b'{"n": 11}',
            "txt": b"no 4",
            "meta.json": b'{"m": 5}',
        }
        assert [record["key"] for record in joined[-1:2:-3]] == joined.keys[-1:2:-3]
        assert list(joined) == joined[:] == joined[list(range(10))] == [joined[i] for i in range(10)]
        assert joined.fields == joined.known_fields == ("cls", "json", "meta.json", "txt")

    def test_by_key(self, joined: Dataset) -> None:
        assert joined["k/11"] == joined[3]
        assert "k/11" in joined and "k/12" not in joined and "k/77" not in joined
        assert joined.rows_of(["k/11", "k/12", "k/77"]).tolist() == [3, -1, -1]
        assert joined.index("k/11") == 3
        with pytest.raises(KeyError):
            joined["k/77"]

    def test_views(self, joined: Dataset) -> None:
        assert np.asarray(joined.view("cls")[2:5]).tolist() == [3, 1, 4]
        assert joined.view("txt")[3] == "no 4"
        assert [value["m"] for value in joined.view("meta.json")[:3]] == [1, 2, 4]

    def test_left(self, images: str, captions: str) -> None:
        left = shardtools.open([images, captions], join="left")
        assert left.keys == KEYS
        assert set(left["k/12"]) == {"key", "cls", "json"}
        assert left["k/11"]["txt"] == b"no 4"
        assert left.values("txt", np.array([11, 12])) == [b"no 4", None]

    def test_of_what_where_gave(self, images: str, captions: str) -> None:
        some = shardtools.open(images).where("cls = 1")
        few = shardtools.open(captions).where('"meta.json.m" < 10')
        assert shardtools.open([some, few], join="inner").keys == ["k/11"]
        left = shardtools.open([some, few], join="left")
        assert [(record["key"], "txt" in record) for record in left] == [
            ("k/01", False), ("k/06", False), ("k/11", True), ("k/16", False), ("k/21", False), ("k/26", False)
        ]  # fmt: skip

    def test_looks_like_what_it_is(self, images: str, captions: str, joined: Dataset) -> None:
        chosen = joined.where("cls = 1")
        assert repr(chosen).startswith(f"<JoinedDataset '{images}' inner join '{captions}' where (cls = 1): 4 shards, ")
        assert chosen.spec == [images, captions]
        html = chosen._repr_html_()
        assert "inner join" in html and "meta.json" in html and "(cls = 1)" in html
        assert "txt" in joined.view("txt")._repr_html_()

    def test_in_other_processes(self, joined: Dataset) -> None:
        expected = dict(joined[3])
        context = get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=lambda: theirs.send(dict(joined[3])))
        child.start()
        assert ours.poll(30) and ours.recv() == expected
        child.join()
        assert dict(pickle.loads(pickle.dumps(joined)).where("cls >= 0")[3]) == expected


class TestAligned:
    @pytest.mark.parametrize("write", [same_shard_order, other_shards])
    def test_takes_no_table(self, tmp_path: Path, images: str, write: Callable[[Path], str]) -> None:
        joined = shardtools.open([images, write(tmp_path)], join="inner")
        assert isinstance(joined, JoinedDataset)
        pairs = joined.parts[1].pairs
        assert pairs is not None and pairs.is_identity and not pairs.nbytes
        assert list(joined) == joined[:] == [{**image_bytes(key), **caption_bytes(key)} for key in KEYS]

    def test_only_some_shards(self, tmp_path: Path, images: str) -> None:
        """The captions of one shard are in another order, and others lack what the first shard has."""
        keys = [*KEYS[22:9:-1], *KEYS[23:]]
        joined = shardtools.open([images, written(tmp_path, "some", list(map(caption, keys)), 13)], join="inner")
        assert isinstance(joined, JoinedDataset)
        pairs = joined.parts[1].pairs
        assert pairs is not None and pairs.is_shifted.tolist() == [False, True, False, True]
        assert pairs.nbytes == 8 * 13
        assert joined[:] == [{**image_bytes(key), **caption_bytes(key)} for key in KEYS[10:]]

    def test_a_shard_that_has_changed(self, tmp_path: Path, images: str) -> None:
        joined = shardtools.open([images, same_shard_order(tmp_path)], join="inner")
        again = pickle.loads(pickle.dumps(joined))
        written(tmp_path, "same", [caption(key) for key in KEYS[::-1]], 10, 0, 13)
        with pytest.raises(ChangedError, match="joined with k/04, and has another key"):
            again[4]


def test_what_it_costs_in_requests(tmp_path: Path) -> None:
    with recording_server(tmp_path / "server") as server:
        one = written(server.root, "one", list(map(image, KEYS)), 10, 0, 13)
        other = written(server.root, "other", list(map(caption, KEYS[::-1])), 10, 0, 13)
        specs = [f"{server.url}{Path(spec).name}" for spec in (one, other)]

        def requests(what: Callable[[], object]) -> int:
            before = len(server.requests())
            what()
            return len(server.requests()) - before

        opened: list[Dataset] = []
        # Of each dataset the manifest; of each shard that is not empty the size and the sidecar.
        assert requests(lambda: opened.append(shardtools.open(specs, join="inner"))) == 2 * (1 + 2 * 3)
        assert requests(lambda: opened[0][5]) == 2
        assert requests(lambda: opened[0][2:6]) == 2
        assert requests(lambda: opened[0].values("txt", np.arange(2, 6))) == 1


def image_bytes(key: str) -> dict[str, Any]:
    number = int(key[2:])
    return {"key": key, "cls": b"%d" % (number % 5), "json": b'{"n": %d}' % number}


def caption_bytes(key: str) -> dict[str, Any]:
    number = int(key[2:])
    return {"key": key, "txt": b"no %d" % (number % 7), "meta.json": b'{"m": %d}' % (number // 2)}


class TestRefused:
    def test_a_key_that_is_there_twice(self, tmp_path: Path, images: str) -> None:
        twice = written(tmp_path, "twice", [caption(key) for key in ["k/01", "k/02", "k/03"]], 2)
        one = written(tmp_path, "one", [caption(key) for key in ["k/03", "k/04"]])
        with pytest.raises(DuplicateKeyError, match=r"twice-1.tar \[k/03\]: two samples have this key.*one-0.tar"):
            shardtools.open([images, shardtools.open([twice, one])], join="inner")
        shardtools.open([images, shardtools.open([twice, one]).where("key <> 'k/03'")], join="inner")

    def test_a_field_that_is_there_twice(self, images: str) -> None:
        with pytest.raises(JobError, match=r"the field cls is in .*images.* and in .*images.*a\.FIELD and b\.FIELD"):
            shardtools.open([images, images], join="inner")
        named = shardtools.open({"a": images, "b": images}, join="left").where('"b.cls" = 3 and "a.json.n" > 5')
        assert named.fields == ("a.cls", "a.json", "b.cls", "b.json")
        assert named[0] == {"key": "k/08", "a.cls": b"3", "a.json": b'{"n": 8}', "b.cls": b"3", "b.json": b'{"n": 8}'}
        assert named.view("b.json")[1] == {"n": 13}

    @pytest.mark.parametrize(
        ("source", "join", "message"),
        [
            (["a", "b"], "outer", "join must be 'inner' or 'left'"),
            ("a", "inner", "a join is of several datasets"),
            (["a"], "inner", "of two datasets or more"),
            ({"a": "a", "b.c": "b"}, "left", "'b.c' cannot be the start"),
            ({"a": "a", "b": "b"}, None, "say how they are put together"),
        ],
    )
    def test_arguments(self, images: str, captions: str, source: Any, join: Any, message: str) -> None:
        specs = {"a": images, "b": captions}
        if isinstance(source, dict):
            source = {name: specs[one] for name, one in source.items()}
        else:
            source = specs[source] if isinstance(source, str) else [specs[one] for one in source]
        with pytest.raises(JobError, match=message):
            shardtools.open(source, join=join)

    def test_conditions(self, joined: Dataset) -> None:
        for condition in ("nope = 1", "json.nope = 1", "json.nope = 1 or txt = 'a'"):
            with pytest.raises(JobError, match="no sample has such a column; there are key, row"):
                joined.where(condition)
        with pytest.raises(JobError, match=r"txt.*> 3"):
            joined.where("txt::int > 3 and cls = 1")
        with pytest.raises(JobError, match=r"st\.sql"):
            joined.sql("from samples")


def test_a_condition_that_is_true_of_samples_without_a_partner(images: str, captions: str) -> None:
    joined = shardtools.open([images, captions], join="left")
    assert joined.where("txt is null").keys == [key for key in KEYS if key not in KEYS[::-3]]


def test_tables_answer_for_columns_of_several(images: str, captions: str) -> None:
    for spec in (images, captions):
        shardtools.index(spec, table=True)
        for url in shardtools.open(spec).urls:
            Path(url).write_bytes(bytes(Path(url).stat().st_size))  # nothing can be read of it
    joined = shardtools.open([images, captions], join="left").where("cls = 1 or txt > 'no 5' or key = 'k/07'")
    assert joined.keys == ["k/01", "k/06", "k/07", "k/11", "k/16", "k/20", "k/21", "k/26"]


@pytest.mark.parametrize("theirs", [[], ["k/88"]])
def test_nothing_in_common(tmp_path: Path, images: str, theirs: list[str]) -> None:
    other = written(tmp_path, "other", list(map(caption, theirs)))
    inner, left = (shardtools.open([images, other], join=how) for how in ("inner", "left"))  # type: ignore[arg-type]
    assert (len(inner), list(inner), inner[:], inner.keys, inner.where("cls = 1").keys) == (0, [], [], [], [])
    assert left[:] == list(left) == list(map(image_bytes, KEYS))
    nothing = shardtools.open([other, images], join="left").where("key = 'k/88'")
    assert list(nothing) == list(map(caption_bytes, theirs))


def test_a_pair_takes_eight_bytes(tmp_path: Path) -> None:
    keys = [f"k/{number:02d}" for number in range(1000)]
    mine = shardtools.open(written(tmp_path, "mine", [{"key": key, "cls": 1} for key in keys], 300))
    theirs = shardtools.open(written(tmp_path, "theirs", [{"key": key, "txt": ""} for key in keys[::-1]], 300))
    pairs = find_pairs(*(keys_of(dataset._shards, None) for dataset in (mine, theirs)))
    assert pairs.nbytes == 8 * 1000
    assert pairs.of(np.array([0, 5, 999])).tolist() == [999, 994, 0]


CONDITIONS: list[tuple[str, Callable[[Record, Record | None], bool]]] = [
    ("cls = 3", lambda one, other: one["cls"] == 3),
    ("txt > 'no 3'", lambda one, other: other is not None and other["txt"] > "no 3"),
    ("txt is null or txt < 'no 3'", lambda one, other: other is None or other["txt"] < "no 3"),
    (
        "cls < 4 and \"meta.json.m\" > 4 and key <> 'k/17'",
        lambda one, other: (
            one["cls"] < 4 and other is not None and other["meta.json"]["m"] > 4 and one["key"] != "k/17"
        ),
    ),
    (
        'cls > 1 and json.n < 3 * coalesce("meta.json.m", 4)',
        lambda one, other: one["cls"] > 1 and one["json"]["n"] < 3 * (other["meta.json"]["m"] if other else 4),
    ),
]

some_keys = st.lists(st.sampled_from(KEYS), unique=True, max_size=20)
cuts = st.lists(st.integers(0, 8), max_size=3)


@given(
    mine=some_keys,
    theirs=st.one_of(some_keys, st.just([])),
    is_aligned=st.booleans(),
    sizes=st.tuples(cuts, cuts),
    how=st.sampled_from(["inner", "left"]),
    lost=st.integers(0, 3),
    asked=st.sampled_from(CONDITIONS),
    tables=st.sampled_from([(), ("one",), ("one", "other")]),
)
@settings(max_examples=20, deadline=None)
def test_is_what_a_loop_gives(
    mine: list[str],
    theirs: list[str],
    is_aligned: bool,
    sizes: tuple[list[int], list[int]],
    how: Literal["inner", "left"],
    lost: int,
    asked: tuple[str, Callable[[Record, Record | None], bool]],
    tables: tuple[str, ...],
) -> None:
    theirs = mine if is_aligned else theirs
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        # One sample that both have, so that all columns are there.
        mine, theirs = ["k/99", *mine], ["k/99", *theirs]
        one = written(folder, "one", list(map(image, mine)), *sizes[0])
        other = written(folder, "other", list(map(caption, theirs)), *sizes[1])
        for name in tables:
            shardtools.index({"one": one, "other": other}[name], table=True)
        for path in sorted(folder.glob("*.index.npz"))[:lost]:
            os.remove(path)
        joined = shardtools.open([one, other], join=how)
        expected = [key for key in mine if how == "left" or key in theirs]
        records = [{**image_bytes(key), **(caption_bytes(key) if key in theirs else {})} for key in expected]
        assert joined.keys == expected
        assert list(joined) == joined[:] == records
        assert [joined[key] for key in expected[::3]] == records[::3]
        assert joined.values("txt", np.arange(len(joined))) == [record.get("txt") for record in records]
        condition, is_true = asked
        chosen = [key for key in expected if is_true(image(key), caption(key) if key in theirs else None)]
        assert joined.where(condition).keys == chosen
        assert [record["key"] for record in joined.where(condition)] == chosen
