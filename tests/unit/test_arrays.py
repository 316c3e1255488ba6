"""Arrays by name and version, on a local disk."""

from __future__ import annotations

import pickle
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

import shardtools as st
from shardtools.errors import ConflictError, CorruptError, ExistsError, JobError, NotFoundError, SpecError
from shardtools.log.log import Log

Array = npt.NDArray[Any]

POINTS = ([1, 2], [3, 4], [0, 1])
INDEXES: list[Any] = [
    0,
    -1,
    slice(3, 40, 7),
    slice(None, None, -3),
    slice(5, 5),
    (slice(0, 10), slice(5, 20)),
    [3, 1, 49],
    (0, ..., 0),
    (slice(None), [0, 5, 5]),
    (0, slice(None), [0, 2, 2]),
    (0, None, [1, 2]),
    (slice(None), 3, [1, 2]),
    np.arange(50) % 7 == 0,
    (..., None),
    POINTS,
    np.array([[1, 2], [3, 4]]),
    ...,
]


def place_of(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "hub"))


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    return place_of(tmp_path)


def random(*shape: int) -> Array:
    return np.random.default_rng(7).integers(0, 255, shape, np.uint8)


@pytest.fixture
def filled(hub: st.Hub) -> tuple[st.HubArray, Array]:
    """An array and what it holds; some chunks were never written."""
    array = hub.array("a/x", shape=(50, 28, 3), chunks=(8, 10, 3), dtype="uint8", fill_value=9)
    expected = np.full((50, 28, 3), 9, np.uint8)
    array[3:30] = expected[3:30] = random(27, 28, 3)
    array[40, 25] = expected[40, 25] = (1, 2, 3)
    return array, expected


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_indexing_is_that_of_numpy(filled: tuple[st.HubArray, Array], index: Any) -> None:
    array, expected = filled
    np.testing.assert_array_equal(array[index], expected[index], strict=True)


@pytest.mark.parametrize("index", INDEXES, ids=str)
@pytest.mark.parametrize("dtype", ["<i4", ">i4", "bool", "complex128"])
def test_whole_chunks_are_read_in_place(hub: st.Hub, index: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.arrays.chunks.LARGE", 1)
    array = hub.array("x", shape=(50, 28, 3), chunks=(7, 28, 3), dtype=dtype, fill_value=1, compressors=None)
    expected = np.full((50, 28, 3), 1, dtype)
    array[7:] = expected[7:] = random(43, 28, 3)
    np.testing.assert_array_equal(array[index], expected[index])


@pytest.mark.parametrize("index", [index for index in INDEXES if index is not POINTS], ids=str)
def test_assigning_is_that_of_numpy(filled: tuple[st.HubArray, Array], index: Any) -> None:
    array, expected = filled
    array[index] = expected[index] = 77
    values = np.arange(expected[index].size, dtype=np.uint8).reshape(expected[index].shape)
    array[index] = expected[index] = values
    np.testing.assert_array_equal(array[...], expected)


def test_versions(hub: st.Hub) -> None:
    array = hub.array("x:v0", shape=4, chunks=2, dtype="int32")
    array[:] = [1, 2, 3, 4]
    hub.tag("first", "v0")
    array[0] = 10
    assert hub.load("x:first")[:].tolist() == [1, 2, 3, 4]
    assert hub.load("x:v0@1")[:].tolist() == [1, 2, 3, 4]
    assert hub.load("x:v0")[:].tolist() == [10, 2, 3, 4]
    assert (hub.branches(), hub.tags(), hub.list("v0"), hub.list("first")) == (["main", "v0"], ["first"], ["x"], ["x"])
    messages = [write.message for commit in hub.history("v0") for write in commit.writes]
    assert messages == ["write x", "write x", "create x"]


def test_a_reader_sees_one_commit_until_it_is_refreshed(hub: st.Hub) -> None:
    array = hub.array("x", shape=4, chunks=2, dtype="int32")
    reader = hub.load("x")
    array[:] = 1
    assert reader[:].tolist() == [0, 0, 0, 0]
    assert reader.refresh()[:].tolist() == [1, 1, 1, 1]


def test_an_array_to_append_to_is_opened_whatever_was_appended(hub: st.Hub) -> None:
    for number in range(3):
        array = hub.array("x", shape=(0, 2), dtype="int32")
        array.append(np.full((2, 2), number))
    assert array[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert array.chunks == (131072, 2)
    shapes: list[Any] = [(0, 3), 0, (0, 2, 1), (5, 2)]
    for shape in shapes:
        with pytest.raises(ExistsError, match="there is x already, and its shape is"):
            hub.array("x", shape=shape, dtype="int32")
    hub.array("scalar", shape=(), dtype="int32")
    with pytest.raises(ExistsError):
        hub.array("scalar", shape=0, dtype="int32")


def test_errors_say_in_which_branch_it_is(hub: st.Hub) -> None:
    hub.array("x:v0", shape=2)
    fix = r"it is in v0: hub.load\('x:v0'\), or hub.transaction\(version='v0'\) to write"
    with pytest.raises(NotFoundError, match=rf"there is no array x in main; {fix}"):
        hub.load("x")
    with pytest.raises(NotFoundError, match=rf"there is no array x in main; {fix}"), hub.transaction() as t:
        t["x"][0] = 1
    with pytest.raises(JobError, match=r"no commit yet in main that .*; name another version, hub.tag\('v1', 'v0'\)"):
        hub.tag("v1")
    with pytest.raises(NotFoundError, match="there is no array y in v0; there is x"):
        hub.load("y:v0")


def test_numbers_are_no_names_of_tags_or_branches(hub: st.Hub) -> None:
    hub.array("x", shape=2)
    for name in (lambda: hub.tag("17"), lambda: hub.branch("17"), lambda: hub.array("x:17", shape=2)):
        with pytest.raises(JobError, match=r"17 cannot be the name of a tag or a branch: .* @17 names; .* such as v17"):
            name()
    hub.tag("17a")
    assert (hub.branches(), hub.tags()) == (["main"], ["17a"])
    with pytest.raises(NotFoundError, match="there is no version 17; there is main, 17a, and @N for a commit"):
        hub.load("x:17")
    Log.open(hub.url).tag("17", hub.snapshot())  # as it may be at a place that is older
    assert hub.load("x:17").shape == (2,)


def test_a_tag_cannot_be_written(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")
    hub.tag("v1")
    with pytest.raises(JobError, match=r"v1 is a tag, which stays as it is; make a branch .*hub\.branch\(NAME, 'v1'\)"):
        hub.load("x:v1")[0] = 1


def test_writers_of_one_chunk_collide(hub: st.Hub) -> None:
    array = hub.array("x", shape=4, chunks=2, dtype="int32")
    other = hub.load("x")
    array[0] = 1
    other[2] = 2
    with pytest.raises(ConflictError, match=r"commit 2 of main has changed x\[2:4\]; read it again"):
        array[3] = 3
    assert array.refresh()[:].tolist() == [1, 0, 2, 0]


def test_a_transaction_is_one_commit_or_none(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")
    with hub.transaction("both", author="me") as t:
        t["x"][1] = 5
        t.array("g/y", shape=3, chunks=3, dtype="uint8")[:] = [1, 2, 3]
        assert t["x"][:].tolist() == [0, 5, 0, 0]
        assert t["g/y"][1] == 2
        assert hub.load("x")[1] == 0
    assert hub.load("x")[1] == 5
    assert hub.load("g/y")[:].tolist() == [1, 2, 3]
    [commit, _] = hub.history()
    assert [(write.message, write.author) for write in commit.writes] == [("both", "me")]
    with pytest.raises(ZeroDivisionError), hub.transaction() as t:
        t["x"][0] = 1 / 0
    assert len(list(hub.history())) == 2


def test_moving_removing_and_resizing(hub: st.Hub) -> None:
    array = hub.array("g/x", shape=10, chunks=3, dtype="int32")
    array[:] = range(10)
    array.append([10, 11])
    assert array[:].tolist() == list(range(12))
    array.resize([4])
    array.resize([8])
    assert array[:].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
    hub.move("g/x", "h/y")
    assert hub.list() == ["h/y"]
    assert hub.load("h/y")[:4].tolist() == [0, 1, 2, 3]
    del hub["h"]
    assert hub.list() == []
    assert hub.load("g/x@1")[:].tolist() == list(range(10))


def test_other_tar_programs_make_a_directory_that_zarr_opens(filled: tuple[st.HubArray, Array], tmp_path: Path) -> None:
    array, expected = filled
    out = tmp_path / "out"
    out.mkdir()
    for commit in [*array.hub.history()][::-1]:
        for write in commit.writes:
            for shard in sorted((tmp_path / "hub" / "data" / write.id).glob("*.tar")):
                subprocess.run(["tar", "-xf", shard, "-C", out], check=True)
    np.testing.assert_array_equal(zarr.open_group(str(out), mode="r")["a/x"][...], expected)


def test_an_array_travels(filled: tuple[st.HubArray, Array]) -> None:
    array, expected = filled
    copy = pickle.loads(pickle.dumps(array))
    array[0] = 1
    np.testing.assert_array_equal(copy[...], expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "chunks"),
    [
        ((50_000, 28, 28, 1), "uint8", (1337, 28, 28, 1)),
        ((10_000_000_000, 512, 512, 3), "uint8", (1, 512, 512, 3)),
        ((10, 3), "int32", (10, 3)),
        ((1_000_000,), "float64", (131_072,)),
    ],
)
def test_chunks_are_whole_rows_by_default(
    hub: st.Hub, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]
) -> None:
    assert hub.array("x", shape=shape, dtype=dtype).chunks == chunks


def test_a_huge_array_costs_nothing(hub: st.Hub) -> None:
    big = hub.array("big", shape=(10_000_000_000, 512, 512, 3), chunks=(1, 512, 512, 3), dtype="uint8")
    big[9_999_999_999, 5, 5] = 3
    assert big[-1, 5, 4:7].tolist() == [[0, 0, 0], [3, 3, 3], [0, 0, 0]]


@pytest.mark.parametrize("name", ["", "a//b", "../a", "a/..", "a\\b", "x" * 300, "a\0", "zarr.json", "__a", "x:"])
def test_names_that_cannot_be(hub: st.Hub, name: str) -> None:
    with pytest.raises(SpecError):
        hub.array(name, shape=4, chunks=2, dtype="int32")


def test_what_there_is_not(hub: st.Hub) -> None:
    with pytest.raises(NotFoundError, match="there are no arrays here; check the URL, or create an array"):
        hub.load("x")
    hub.array("größe/x", shape=4, chunks=2, dtype="int32")
    with pytest.raises(NotFoundError, match="there is no array y in main; there is größe/x"):
        hub.load("y")
    with pytest.raises(NotFoundError, match="there is no version v7; there is main, and @N for a commit"):
        hub.load("größe/x:v7")
    with pytest.raises(ExistsError, match=r"its shape is \(4,\), not \(5,\)"):
        hub.array("größe/x", shape=5, chunks=2, dtype="int32")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_chunk_that_is_damaged_or_gone_is_an_error(
    hub: st.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    if in_place:
        monkeypatch.setattr("shardtools.arrays.chunks.LARGE", 1)
    array = hub.array("a/x", shape=(50, 28, 3), chunks=(1, 28, 3), dtype="uint8", compressors=None)
    array[:2] = random(2, 28, 3)
    [entry] = array.snapshot.find(["a/x/c/0/0/0"]).values()
    shard, at = tmp_path / "hub" / entry.name, entry.offset
    whole = shard.read_bytes()
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CorruptError, match=r"\[a/x/c/0/0/0\]: it is damaged"):
        place_of(tmp_path).load("a/x")[0]
    shard.write_bytes(whole[:300])
    with pytest.raises(CorruptError, match="the data shard is shorter"):
        place_of(tmp_path).load("a/x")[0]
    shard.unlink()
    with pytest.raises(CorruptError, match="a data shard is gone"):
        place_of(tmp_path).load("a/x")[0]


def test_what_a_thread_writes_at_the_end_of_a_transaction_is_not_lost_silently(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")
    t = hub.transaction().begin()
    array = t["x"]
    array[0] = 1
    t.commit()
    with pytest.raises(JobError, match="the transaction has ended; begin another one"):
        array[1] = 2
    assert array[0] == 1
    with t:
        pass
    assert hub.load("x")[:].tolist() == [1, 0, 0, 0]


def test_a_transaction_outside_of_its_context_cannot_be_written(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")
    t = hub.transaction()
    assert t["x"][:].tolist() == [0] * 4
    for write in (
        lambda: t["x"].__setitem__(0, 1),
        lambda: t["x"].append([1]),
        lambda: t.array("y", 2),
        lambda: t.group("g"),
        lambda: t.move("x", "y"),
        lambda: t.__delitem__("x"),
        lambda: zarr.create_array(t.store(), name="y", shape=2, dtype="int32"),
        lambda: pickle.dumps(t["x"]),
        lambda: t.commit(),
    ):
        with pytest.raises(
            JobError, match=r"has not begun, .*: …; or call t\.begin\(\) before and t\.commit\(\) after"
        ):
            write()
    t.begin()["x"][0] = 1
    t.commit()
    assert hub.load("x")[:].tolist() == [1, 0, 0, 0]
    assert hub.list() == ["x"]


def test_a_transaction_that_failed_cannot_be_read(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")
    t = hub.transaction().begin()
    array = t["x"]
    with pytest.raises(ZeroDivisionError), t:
        array[:] = 1 / 0
    with pytest.raises(JobError, match="the transaction has ended without a commit; begin another one"):
        array[0]


def test_the_version_of_an_array_names_the_same_commit_of_others(hub: st.Hub) -> None:
    hub.array("labels", shape=2, dtype="int32")[:] = 1
    hub.array("images:try", shape=2)
    images = hub.load("images:try")
    hub.load("labels:try")[:] = 2
    hub.load("labels")[:] = 3
    assert hub.load(f"labels:{images.version}")[:].tolist() == [1, 1]
    assert hub.load("labels:try")[:].tolist() == [2, 2]


def test_a_transaction_shows_its_state(hub: st.Hub) -> None:
    hub.array("x", shape=2)
    left, failed = hub.transaction(), hub.transaction()
    assert repr(left) == f"<Transaction not begun, of {hub.url}, on main@0>"
    with left:
        assert repr(left) == f"<Transaction open, of {hub.url}, on main@0>"
        left["x"][0] = 1
    with pytest.raises(ZeroDivisionError), failed:
        failed["x"][0] = 1 / 0
    assert repr(left).startswith("<Transaction committed,")
    assert repr(failed).startswith("<Transaction ended,")


def test_attributes_cannot_be_changed_in_place(hub: st.Hub) -> None:
    array = hub.array("x", shape=2, attributes={"unit": "m"})
    for change in (lambda: array.attrs.update(a=1), lambda: array.attrs.__setitem__("a", 1), array.attrs.clear):
        with pytest.raises(TypeError, match=r"attrs cannot be changed in place: use array\.set_attrs\("):
            change()
    assert pickle.loads(pickle.dumps(array.attrs)) == array.attrs == {"unit": "m"}
    array.set_attrs({**array.attrs, "a": 1})
    assert array.attrs == {"unit": "m", "a": 1}


@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], np.ones((2, 2)), "12", 1.5])
def test_values_are_no_shape(hub: st.Hub, values: Any) -> None:
    with pytest.raises(TypeError, match=r"a shape must be an int or a tuple of ints, not .*like=VALUES"):
        hub.array("x", values)


def test_what_there_is_not_cannot_be_removed_or_moved(hub: st.Hub, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no arrays here"):
        del hub["x"]
    assert not (tmp_path / "hub").exists()
    hub.array("x", shape=4, chunks=2, dtype="int32")
    with pytest.raises(NotFoundError, match="there is no version typo"):
        del hub["x:typo"]
    with pytest.raises(NotFoundError, match="there is no version typo"):
        hub.move("x:typo", "y")
    assert hub.branches() == ["main"]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (50, 3)], ids=str)
def test_reductions_are_those_of_numpy(hub: st.Hub, shape: tuple[int, ...], dtype: str) -> None:
    expected = random(*shape).astype(dtype)
    array = hub.transaction().begin().array("x", shape=shape, chunks=tuple(min(n, 7) or 1 for n in shape), dtype=dtype)
    array[...] = expected
    with np.errstate(all="ignore"), pytest.warns() if expected.size < 2 else nullcontext():
        for axis in (None, *range(len(shape))):
            for name in ("sum", "any", "all", "mean", "var", "std"):
                np.testing.assert_allclose(getattr(array, name)(axis), getattr(expected, name)(axis), rtol=1e-5)
        np.testing.assert_allclose(array.var(ddof=1), expected.var(ddof=1), rtol=1e-5)
        if expected.size:
            assert (array.min(), array.max()) == (expected.min(), expected.max())
        else:
            with pytest.raises(ValueError, match="zero-size array"):
                array.min()


def test_points_are_written_as_by_numpy(filled: tuple[st.HubArray, Array]) -> None:
    array, expected = filled
    array[POINTS] = expected[POINTS] = [7, 8]
    array.vindex[[5, 5], [6, 6], [1, 1]] = expected[[5, 5], [6, 6], [1, 1]] = [1, 2]
    array[expected > 200] = expected[expected > 200] = 0
    np.testing.assert_array_equal(array[...], expected)
