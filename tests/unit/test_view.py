"""A view is the array of all samples, or raises; and what a dataset gives is what is in the shards."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shardtools
from shardtools.errors import NotFoundError, SampleError, ShardtoolsError, SpecError
from shardtools.reading import Dataset
from shardtools.torch import ShardBatches
from shardtools.view.field_view import FieldView
from tests.datasets import write_shard, written_dataset
from tests.servers import NginxServer

SIZES = (10, 0, 7, 6)
TOTAL = sum(SIZES)
ARRAY = np.random.default_rng(0).integers(0, 200, (TOTAL, 4, 5, 3), dtype=np.uint8)


def samples() -> list[list[dict[str, object]]]:
    shards, number = [], 0
    for size in SIZES:
        rows: list[dict[str, object]] = []
        for _ in range(size):
            row = {"key": f"k/{number:03d}", "x.npy": ARRAY[number], "png": ARRAY[number], "cls": number % 5}
            rows.append({**row, "txt": f"no {number}", "ragged.npy": np.arange(number % 3 + 1)})
            if number % 2:
                rows[-1]["json"] = {"n": number}
            number += 1
        shards.append(rows)
    return shards


@pytest.fixture(scope="module", params=["tar", "tgz", "tar.zst", "bare tar", "bare tgz"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset with its sidecars and manifest, or without."""
    folder = tmp_path_factory.mktemp("data")
    ending = request.param.removeprefix("bare ")
    written_dataset(folder, f"in-@4.{ending}", samples())
    if request.param.startswith("bare"):
        for path in [*folder.glob("*.npz"), *folder.glob("*.json")]:
            path.unlink()
    return shardtools.open(str(folder / f"in-@4.{ending}"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("plain")
    written_dataset(folder, "in-@4.tar", samples())
    return shardtools.open(str(folder / "in-@4.tar"))


def expected(number: int) -> tuple[str, bytes]:
    return f"k/{number % TOTAL:03d}", b"no %d" % (number % TOTAL)


def seen(record: Any) -> tuple[str, bytes]:
    return record["key"], record["txt"]


class TestDataset:
    def test_what_it_is(self, dataset: Dataset) -> None:
        assert len(dataset) == TOTAL
        assert dataset.fields == ("cls", "json", "png", "ragged.npy", "txt", "x.npy")
        assert dataset.keys == [f"k/{i:03d}" for i in range(TOTAL)]
        assert "4 shards, 23 samples" in repr(dataset)

    @pytest.mark.parametrize("number", [0, 9, 10, 16, 17, 22, -1, -23])
    def test_a_sample(self, dataset: Dataset, number: int) -> None:
        record = dataset[number]
        assert seen(record) == expected(number) and record["cls"] == b"%d" % (number % TOTAL % 5)
        assert ("json" in record) == bool(number % TOTAL % 2)
        assert seen(dataset[np.int64(number)]) == expected(number)

    @pytest.mark.parametrize("number", [23, -24, 10**12])
    def test_none_of_them(self, dataset: Dataset, number: int) -> None:
        with pytest.raises(IndexError, match="the dataset has 23 samples"):
            dataset[number]

    @pytest.mark.parametrize(
        "part", [slice(2, 20), slice(None, None, -1), slice(20, 3, -4), slice(30, 40), slice(-5, None)]
    )
    def test_slices(self, dataset: Dataset, part: slice) -> None:
        assert [seen(record) for record in dataset[part]] == [expected(i) for i in range(TOTAL)[part]]

    def test_lists_and_masks(self, dataset: Dataset) -> None:
        assert [seen(record) for record in dataset[[5, 20, 5, -1]]] == [expected(i) for i in (5, 20, 5, -1)]
        mask = np.arange(TOTAL) % 4 == 1
        assert [seen(record) for record in dataset[mask]] == [expected(i) for i in np.flatnonzero(mask)]
        with pytest.raises(IndexError, match="the mask has shape"):
            dataset[mask[:5]]
        with pytest.raises(IndexError, match="index 23 is out of range"):
            dataset[[1, 23]]

    def test_by_key(self, dataset: Dataset) -> None:
        assert seen(dataset["k/017"]) == expected(17) and dataset["k/017"].index == 0
        assert "k/022" in dataset and "k/023" not in dataset and 5 not in dataset
        with pytest.raises(KeyError):
            dataset["nothing"]

    def test_index_and_count_are_of_keys(self, dataset: Dataset) -> None:
        assert [dataset.index(key) for key in ("k/000", "k/009", "k/010", "k/022")] == [0, 9, 10, 22]
        assert dataset.index("k/010", 10, 11) == 10 and dataset.index("k/010", -20) == 10
        for value, *bounds in [("k/023",), (5,), (dataset[0],), ("k/010", 11), ("k/010", 0, 10)]:
            with pytest.raises(ValueError, match="no sample has the key"):
                dataset.index(value, *bounds)
        assert (dataset.count("k/010"), dataset.count("k/023"), dataset.count(dataset[0]), dataset.count(3)) == (
            1,
            0,
            0,
            0,
        )

    def test_a_key_in_several_shards(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "in-@3.tar", [[{"key": key, "cls": 1} for key in keys] for keys in ("ab", "bc", "b")])
        dataset = shardtools.open(str(tmp_path / "in-@3.tar"))
        assert (dataset.count("b"), dataset.index("b"), dataset.index("b", 2), dataset.index("b", 3)) == (3, 1, 2, 4)

    def test_iteration(self, dataset: Dataset) -> None:
        assert [seen(record) for record in dataset] == [expected(i) for i in range(TOTAL)]

    def test_many_threads(self, dataset: Dataset) -> None:
        numbers = [random.Random(i).randrange(TOTAL) for i in range(300)]
        with ThreadPoolExecutor(8) as pool:
            assert [seen(r) for r in pool.map(dataset.__getitem__, numbers)] == [expected(i) for i in numbers]

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_in_other_processes(self, dataset: Dataset, method: str) -> None:
        dataset[0]
        assert len(pickle.dumps(dataset)) < 4000
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map(dataset.__getitem__, range(TOTAL))
        assert list(map(seen, found)) == [expected(i) for i in range(TOTAL)]

    def test_tables_go_to_the_cache(self, tmp_path: Path) -> None:
        """Where there are no sidecars a shard is scanned once; nothing is written beside it."""
        written_dataset(tmp_path, "in-@4.tgz", samples())
        for path in [*tmp_path.glob("*.npz"), *tmp_path.glob("*.json")]:
            path.unlink()
        for _ in range(2):
            assert len(shardtools.open(str(tmp_path / "in-@4.tgz"), cache=str(tmp_path / "cache"))) == TOTAL
            tables = list((tmp_path / "cache" / "tables").iterdir())
            assert len(tables) == 4
        assert len(list(tmp_path.glob("*"))) == 5

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"no-0\.tar"):
            len(shardtools.open(str(tmp_path / "no-@2.tar")))
        with pytest.raises(SpecError):
            shardtools.open(str(tmp_path / "no-@0.tar"))

    def test_a_manifest_of_other_shards(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "in-@4.tar", samples())
        manifest = (tmp_path / "in-@4.tar.json").read_bytes()
        written_dataset(tmp_path, "in-@4.tar", [rows[:3] for rows in samples()])
        (tmp_path / "in-@4.tar.json").write_bytes(manifest)
        with pytest.raises(
            SpecError, match=r"in-0\.tar: it has 3 samples, and 10 in the manifest; delete the manifest"
        ):
            shardtools.open(str(tmp_path / "in-@4.tar"))[0]


def hide(folder: Path, count: int, *shards: int) -> str:
    """Let the manifest of a dataset of four shards say that some of them have ``count`` samples; return its spec."""
    written_dataset(folder, "in-@4.tar", samples())
    path = folder / "in-@4.tar.json"
    manifest = json.loads(path.read_bytes())
    for number in shards:
        manifest["shardlist"][number]["nsamples"] = count
    path.write_text(json.dumps(manifest))
    return str(folder / "in-@4.tar")


class TestHiddenSamples:
    """Whoever goes through all samples meets those of a shard that has none as the manifest says."""

    USES = (
        list,
        lambda dataset: dataset[:],
        lambda dataset: [dataset[i] for i in range(len(dataset))],
        lambda dataset: np.asarray(dataset.view("cls")),
        lambda dataset: list(dataset.view("cls")),
        lambda dataset: dataset.view("x.npy").mean(),
        lambda dataset: dataset.view("x.npy").to_dask(batch=3).compute(),
        lambda dataset: dataset.keys,
        lambda dataset: list(ShardBatches(dataset.spec, fields="cls", decode=False)),
        lambda dataset: list(ShardBatches(dataset.spec, fields="cls", decode=False, shuffle=True, uneven="drop")),
    )

    @pytest.mark.parametrize("shards", [(0,), (2,), (3,), (2, 3), (0, 2), (0, 2, 3)], ids=str)
    @pytest.mark.parametrize("use", USES, ids=range(len(USES)))
    def test_all_of_a_shard(self, tmp_path: Path, use: Callable[[Dataset], object], shards: tuple[int, ...]) -> None:
        spec = hide(tmp_path, 0, *shards)
        number = "|".join(map(str, shards))
        with pytest.raises(SpecError, match=rf"in-({number})\.tar: it has \d+ samples, and 0 in the manifest"):
            use(shardtools.open(spec))

    @pytest.mark.parametrize("count", [1, 11, 10**15])
    def test_some_of_a_shard(self, tmp_path: Path, count: int) -> None:
        spec = hide(tmp_path, count, 0)
        with pytest.raises(SpecError, match=rf"in-0\.tar: it has 10 samples, and {count:,} in the manifest"):
            [record["key"] for record in iter(shardtools.open(spec))]

    def test_less_than_none(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Such a manifest is not used, so that the shards tell."""
        dataset = shardtools.open(hide(tmp_path, -1, 0))
        assert len(dataset) == TOTAL == len(list(dataset)) and "the nsamples of in-0.tar is not a number" in caplog.text

    def test_an_honest_empty_shard_is_looked_at_once(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "in-@4.tar", samples())
        dataset = shardtools.open(str(tmp_path / "in-@4.tar"))
        asked: list[int] = []
        get = dataset._shards._tables.get
        dataset._shards._tables.get = lambda number: (asked.append(number), get(number))[1]  # type: ignore[method-assign]
        for _ in range(3):
            assert len(dataset[:]) == len(dataset.view("cls")[:]) == TOTAL
        assert asked.count(1) == 1
        del asked[:]
        assert shardtools.open(str(tmp_path / "in-@4.tar"))[0]["key"] == "k/000" and not asked


class TestView:
    @pytest.mark.parametrize("field", ["x.npy", "png"])
    def test_what_it_is(self, dataset: Dataset, field: str) -> None:
        view = dataset.view(field)
        assert (view.shape, view.dtype, view.ndim, view.size, view.nbytes, len(view)) == (
            ARRAY.shape, ARRAY.dtype, ARRAY.ndim, ARRAY.size, ARRAY.nbytes, TOTAL
        )  # fmt: skip
        assert np.array_equal(np.asarray(view), ARRAY)
        assert np.array_equal(view[3], ARRAY[3]) and np.array_equal(view[-1], ARRAY[-1])
        assert all(np.array_equal(a, b) for a, b in zip(view, ARRAY, strict=True))

    def test_numbers_texts_and_objects(self, dataset: Dataset) -> None:
        labels = dataset.view("cls")[:]
        assert np.asarray(labels).tolist() == [i % 5 for i in range(TOTAL)] and labels.shape == (TOTAL,)
        assert labels.dtype == np.int64 and labels[7] == 2
        assert np.asarray(dataset.view("txt")[3:5]).tolist() == ["no 3", "no 4"]
        assert dataset.view("txt", decode=None)[5] == b"no 5"
        assert dataset.view("json")[1::2][2] == {"n": 5}
        assert dataset.view("cls", decode=lambda data: float(data) / 2)[3] == 1.5

    def test_a_field_that_is_missing(self, dataset: Dataset) -> None:
        with pytest.raises(SampleError, match=r"\[k/004\]: sample 4 has no json; choose other samples"):
            np.asarray(dataset.view("json")[3:6])

    def test_samples_of_different_shapes(self, dataset: Dataset) -> None:
        view = dataset.view("ragged.npy")
        with pytest.raises(SampleError, match=r"samples 1 and 2 have the shapes \(2,\) and \(3,\); use view.ragged"):
            np.asarray(view[1:3])
        assert [part.tolist() for part in view.ragged[1:4]] == [[0, 1], [0, 1, 2], [0]]
        assert np.asarray(view[1::3]).shape == (8, 2)

    def test_images_of_one_size(self, dataset: Dataset) -> None:
        assert np.asarray(dataset.view("png", resize=(8, 9))[2:4]).shape == (2, 8, 9, 3)
        with pytest.raises(ValueError, match="resize is for images"):
            dataset.view("x.npy", resize=(8, 9))

    @settings(max_examples=300, deadline=None)
    @given(index=hnp.basic_indices(ARRAY.shape, min_dims=0, allow_newaxis=True, allow_ellipsis=True))
    def test_basic_indices(self, plain: Dataset, index: Any) -> None:
        self.compare(plain, index)

    @settings(max_examples=150, deadline=None)
    @given(
        first=hnp.integer_array_indices((TOTAL,), result_shape=hnp.array_shapes(max_dims=2, max_side=4)),
        rest=hnp.basic_indices(ARRAY.shape[1:], allow_newaxis=True, allow_ellipsis=False),
    )
    def test_lists_of_samples(self, plain: Dataset, first: Any, rest: Any) -> None:
        self.compare(plain, (first[0], *(rest if isinstance(rest, tuple) else (rest,))))

    @settings(max_examples=100, deadline=None)
    @given(hnp.integer_array_indices(ARRAY.shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    def test_lists_on_every_axis(self, plain: Dataset, index: Any) -> None:
        self.compare(plain, index)

    @settings(max_examples=50, deadline=None)
    @given(hnp.arrays(bool, TOTAL), st.sampled_from([(), (1,), (slice(1, 3),), ([0, 1],)]))
    def test_masks(self, plain: Dataset, mask: Any, rest: Any) -> None:
        if rest and isinstance(rest[0], list) and mask.sum() != 2:
            rest = ()
        self.compare(plain, (mask, *rest))

    @settings(max_examples=150, deadline=None)
    @given(
        hnp.basic_indices(ARRAY.shape, allow_newaxis=False, allow_ellipsis=True),
        st.lists(st.sampled_from([slice(None), slice(1, None), slice(None, None, -1), slice(0, 3, 2)]), max_size=2),
    )
    def test_views_of_views(self, plain: Dataset, index: Any, more: list[slice]) -> None:
        view, array = plain.view("x.npy")[index], ARRAY[index]
        for part in more:
            if np.ndim(array):
                view, array = view[part], array[part]
        assert np.array_equal(np.asarray(view), array) and np.shape(view) == array.shape

    @staticmethod
    def compare(dataset: Dataset, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        lead = next((part for part in parts if part is not Ellipsis), slice(None))
        view = dataset.view("x.npy")
        if lead is None and (parts[0] is None or sum(p is not None and p is not Ellipsis for p in parts) == ARRAY.ndim):
            try:
                found = np.asarray(view[index])
            except IndexError:
                return
        else:
            found = np.asarray(view[index])
        assert np.array_equal(found, ARRAY[index]) and found.dtype == ARRAY.dtype

    @pytest.mark.parametrize(
        "index", [(0, 4), (slice(None), 7), (0, 0, 0, 0, 0), (Ellipsis, Ellipsis), 23, -24, ([0, 30],)]
    )
    def test_what_is_out_of_range(self, plain: Dataset, index: Any) -> None:
        with pytest.raises(IndexError):
            ARRAY[index]
        with pytest.raises(IndexError):
            plain.view("x.npy")[index]

    @pytest.mark.parametrize("name", ["sum", "min", "max", "any", "all", "mean", "var", "std"])
    @pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (1, 2), (0, 1, 2, 3)])
    def test_reductions(self, plain: Dataset, name: str, axis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.view.reductions.BATCH", 5)
        view = plain.view("x.npy")
        wanted = getattr(np, name)(ARRAY, axis=axis)
        for found in (getattr(view, name)(axis=axis), getattr(np, name)(view, axis=axis)):
            assert np.shape(found) == np.shape(wanted) and np.asarray(found).dtype == np.asarray(wanted).dtype
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
        part = view[2:19:3, 1:3, ::-1]
        np.testing.assert_allclose(getattr(part, name)(), getattr(np, name)(ARRAY[2:19:3, 1:3, ::-1]), rtol=1e-12)

    def test_what_is_refused(self, plain: Dataset) -> None:
        view = plain.view("x.npy")
        for use in (lambda: view + 1, lambda: 1 - view, lambda: -view, lambda: np.sqrt(view), lambda: view @ view):
            with pytest.raises(TypeError, match=r"would load all of it: take np\.asarray of what you need first"):
                use()
        with pytest.raises(TypeError, match="would load all of it"):
            view += 1
        with pytest.raises(IndexError, match=r"take np\.asarray of a slice first"):
            view[None]
        with pytest.raises(ValueError, match="always a copy"):
            np.array(view, copy=False)

    def test_comparisons(self, plain: Dataset) -> None:
        view, other = plain.view("x.npy"), ARRAY[::-1]
        for compare in (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal):
            assert np.array_equal(compare(view, 100), compare(ARRAY, 100))
            assert np.array_equal(compare(other, view), compare(other, ARRAY))
        assert np.array_equal(view == 3, ARRAY == 3) and np.array_equal(view[:, 1] > 3, ARRAY[:, 1] > 3)
        assert np.flatnonzero(plain.view("cls") == 3).tolist() == [i for i in range(TOTAL) if i % 5 == 3]
        assert (plain.view("txt") == "no 7").tolist() == [i == 7 for i in range(TOTAL)]
        assert (view[:0] == 3).shape == (0, 4, 5, 3)

    def test_membership(self, plain: Dataset) -> None:
        for value in (3, 199, 200, -1):
            assert (value in plain.view("x.npy")) == (value in ARRAY)
        assert 4 in plain.view("cls") and 5 not in plain.view("cls") and "no 22" in plain.view("txt")

    def test_truth_and_hash(self, plain: Dataset) -> None:
        for view in (plain.view("x.npy"), plain.view("cls")[:1], plain.view("cls")[:0]):
            with pytest.raises(ValueError, match="truth value is ambiguous: use len"):
                bool(view)
        with pytest.raises(TypeError, match="unhashable"):
            hash(plain.view("x.npy"))

    def test_functions_that_load_all(self, plain: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.view.array_like._PIECE", 200)
        view, labels = plain.view("x.npy"), plain.view("cls")
        assert np.array_equal(np.concatenate([view, ARRAY, view[:2]]), np.concatenate([ARRAY, ARRAY, ARRAY[:2]]))
        assert [part.tolist() for part in np.unique(labels, return_counts=True)] == [[0, 1, 2, 3, 4], [5, 5, 5, 4, 4]]
        assert np.array_equal(view.astype("f4"), ARRAY.astype("f4")) and view.astype("f4").dtype == np.float32
        assert view.tolist() == ARRAY.tolist() and plain.view("txt")[:2].tolist() == ["no 0", "no 1"]
        assert np.median(view) == np.median(ARRAY) and labels[:0].tolist() == []
        assert np.array_equal(np.sum(view, axis=0, keepdims=True), np.sum(ARRAY, axis=0, keepdims=True))

    @pytest.mark.parametrize("field", ["x.npy", "txt"])
    def test_what_is_too_large_for_that(self, plain: Dataset, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of text it is found out while it is loaded, a piece at a time."""
        monkeypatch.setattr("shardtools.view.array_like._PIECE", 100)
        monkeypatch.setattr("shardtools.view.array_like.LOAD_LIMIT", 200)
        view = plain.view(field)
        for use in (
            lambda: view == 3, lambda: np.unique(view), lambda: np.concatenate([view]), view.tolist,
            lambda: view.astype(object), lambda: np.median(view), lambda: np.full(view.shape, 3) != view,
        ):  # fmt: skip
            with pytest.raises(TypeError, match=r"would load more than 200 decoded bytes: take np\.asarray of"):
                use()
        assert 3 not in plain.view("txt") and len(np.asarray(view)) == TOTAL

    @pytest.mark.parametrize("part", [slice(None), slice(3, -2, 2), slice(None, None, -3), slice(0, 0)])
    def test_chunks_end_with_shards(self, plain: Dataset, part: slice) -> None:
        lazy = plain.view("x.npy")[part].to_dask(batch=7)
        assert np.array_equal(lazy.compute(), ARRAY[part])
        numbers = np.arange(TOTAL)[part]
        shard = np.searchsorted(np.cumsum(SIZES), numbers, side="right")
        at = 0
        for size in lazy.chunks[0]:
            assert size <= 7 and len(set(shard[at : at + size])) <= 1
            at += size
        assert at == len(numbers)

    def test_dask(self, plain: Dataset) -> None:
        lazy = plain.view("x.npy").to_dask(batch=5)
        assert lazy.shape == ARRAY.shape and sum(lazy.chunks[0]) == TOTAL
        assert np.array_equal(lazy[::2].sum(axis=0).compute(scheduler="threads"), ARRAY[::2].sum(axis=0))

    def test_pickle(self, plain: Dataset) -> None:
        view = plain.view("x.npy")[3:9, 1:]
        again = pickle.loads(pickle.dumps(view))
        assert np.array_equal(np.asarray(again), ARRAY[3:9, 1:]) and len(pickle.dumps(view)) < 4000


PHOTOS = [
    np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for i, (height, width) in enumerate([(9, 12), (12, 9), (7, 7), (9, 12), (20, 8), (8, 8)])
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FieldView:
    folder = tmp_path_factory.mktemp("photos")
    rows = [[{"key": f"{i}", "png": PHOTOS[i]} for i in part] for part in (range(4), range(4, 6))]
    written_dataset(folder, "in-@2.tar", rows)
    return shardtools.open(str(folder / "in-@2.tar")).view("png")


class TestPhotosOfDifferentSizes:
    """Each is cut before they are stacked."""

    @pytest.mark.parametrize(
        "cut",
        [
            np.s_[2:6, 1:7], np.s_[:7, :7], np.s_[:7, :7, 1], np.s_[..., :4, :4, :], np.s_[-3:, -2:], np.s_[3, 4],
            np.s_[6::-2, 5::-1], np.s_[1, :5, ::-1], np.s_[0, 0, 0], np.s_[..., 2, 2, 0], np.s_[None, :2, :2],
            np.s_[-1, -1], np.s_[:0, :0],
        ],
        ids=str,
    )  # fmt: skip
    @pytest.mark.parametrize("first", [slice(None), slice(1, 5), slice(None, None, -2), [3, 0, 3, -1]], ids=str)
    def test_cuts(self, photos: FieldView, first: Any, cut: Any) -> None:
        expected = np.stack([photo[cut] for photo in np.array(PHOTOS, object)[first]])
        if any(part is Ellipsis for part in cut) and not isinstance(first, slice):
            cut = cut[1:]
        view = photos[cut] if cut[0] is Ellipsis and first == slice(None) else photos[(first, *cut)]
        assert np.array_equal(np.asarray(view), expected) and view.shape == expected.shape
        assert np.array_equal(view.to_dask(batch=2).compute(), expected)
        assert all(map(np.array_equal, view, expected)) and np.array_equal(view[-1], expected[-1])
        assert all(map(np.array_equal, photos.ragged[(first, *cut)], expected))
        if expected.size:
            assert view.max() == expected.max() and view.mean() == pytest.approx(expected.mean())
            assert np.array_equal(view.sum(axis=0), expected.sum(axis=0))

    def test_cuts_that_still_differ(self, photos: FieldView) -> None:
        what = r"samples 0 and 1 have the shapes \(9, 2, 3\) and \(12, 2, 3\); use view.ragged, or resize"
        for use in (np.asarray, lambda view: view.mean(), np.unique):
            with pytest.raises(SampleError, match=what):
                use(photos[:, :, :2])
        assert [part.shape for part in photos.ragged[:, :, :2]] == [(len(photo), 2, 3) for photo in PHOTOS]
        assert photos[3, :, 5].shape == (9, 3) and photos.ragged[3, 2:].shape == (7, 12, 3)

    def test_samples_that_are_loaded_apart(self, photos: FieldView, monkeypatch: pytest.MonkeyPatch) -> None:
        """They must be alike as well, though no two of them are ever stacked."""
        monkeypatch.setattr("shardtools.view.reductions.BATCH", 1)
        monkeypatch.setattr("shardtools.view.array_like._PIECE", 1)
        what = r"samples 0 and 4 have the shapes \(9, 12, 3\) and \(20, 8, 3\); use view.ragged, or resize"
        view = photos[[0, 3, 4]]
        for use in (
            lambda: view.mean(), lambda: view.max(axis=(0, 1, 2, 3)), lambda: view.tolist(),
            lambda: view.to_dask(batch=1).mean().compute(),
        ):  # fmt: skip
            with pytest.raises(SampleError, match=what):
                use()
        assert photos.shape == (6, 9, 12, 3) and photos[4:].shape == (2, 20, 8, 3)

    def test_a_sample_that_has_no_such_part(self, photos: FieldView) -> None:
        with pytest.raises(IndexError, match="sample 2: index 8 is out of bounds"):
            np.asarray(photos[:, 8, :3])

    @pytest.mark.parametrize("index", [np.s_[3, :, [0, 1]], np.s_[3, [0, 1], :, [0, 1]], np.s_[3, [0, 1]]], ids=str)
    def test_lists_within_one_sample(self, photos: FieldView, index: Any) -> None:
        stacked = np.stack([PHOTOS[3]] * 4)
        assert np.array_equal(photos[index], stacked[index])


def test_what_is_larger_than_a_limit_can_be_asked_for(tmp_path: Path) -> None:
    """Few values are decoded at once, many in threads: the limits are those of the dataset."""
    points = np.zeros((40, 50, 3), np.uint8)
    written_dataset(tmp_path, "x-@1.tar", [[{"key": f"{i}", "png": points} for i in range(8)]])
    small = shardtools.open(f"{tmp_path}/x-@1.tar", limits=shardtools.Limits(value=5_999)).view("png")
    large = shardtools.open(f"{tmp_path}/x-@1.tar", limits=shardtools.Limits(value=6_000)).view("png")
    for index in (3, slice(0, 8)):
        with pytest.raises(ShardtoolsError, match="its value has more than 5,999 bytes"):
            np.asarray(small[index])
        assert not np.asarray(large[index]).any()


def test_a_table_that_the_cache_has_and_that_is_damaged_is_made_again(nginx: NginxServer, tmp_path: Path) -> None:
    write_shard(nginx.root / "x.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    spec = f"{nginx.url}x.tar"
    assert shardtools.open(spec, cache=f"{tmp_path}/cache")[1]["txt"] == b"2"
    [table] = (tmp_path / "cache" / "tables").iterdir()
    good = table.read_bytes()
    table.write_bytes(good[:100] + b"x" + good[101:])
    assert shardtools.open(spec, cache=f"{tmp_path}/cache")[1]["txt"] == b"2"
    assert table.read_bytes() == good
