"""Slices and writes of arrays are those of numpy: for any shape, chunks, type, codec and index."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Callable
from operator import getitem, setitem
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_numpy
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

import shardtools as st

Array = npt.NDArray[Any]
Draw = some.DrawFn

BAD_VALUE = (TypeError, ValueError)
"""What numpy raises for a value of a wrong shape: which of them depends on the kind of index, with no system."""

QUICK = settings(deadline=None, max_examples=60, report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate])

NUMBERS = ["?", "i1", "u1", "<i2", ">u2", "<i4", ">i4", "<u4", "<i8", ">u8", "<f2", ">f4", "<f8", "<c8", ">c16"]
OTHERS = ["M8[s]", "m8[ms]", "U5", ">U3", "S4", "V3", "struct", "string"]
FILLS = {"f": [0, np.nan, -np.inf, 1.5], "c": [0, complex(np.nan, 1)], "i": [0, -7], "u": [0, 9], "b": [False, True]}


@some.composite
def shapes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of an array of up to 4 axes, some of them empty, and that of its chunks, which may be larger."""
    shape = tuple(draw(some.lists(some.integers(0, 9), max_size=4)))
    return shape, tuple(draw(some.integers(1, 12)) for _ in shape)


@some.composite
def codecs(draw: Draw, ndim: int, chunks: tuple[int, ...]) -> dict[str, Any]:
    """Options of an array: how its chunks are packed."""
    options: dict[str, Any] = {}
    packings = [ZstdCodec(), GzipCodec(), BloscCodec(typesize=1), Crc32cCodec(), ZstdCodec(level=1, checksum=True)]
    if draw(some.booleans()):
        options["compressors"] = draw(some.lists(some.sampled_from(packings), max_size=2))
    if ndim and draw(some.integers(0, 4)) == 0:
        options["filters"] = [TransposeCodec(order=draw(some.permutations(range(ndim))))]
    if ndim and draw(some.integers(0, 4)) == 0:
        options["shards"] = tuple(size * draw(some.integers(1, 3)) for size in chunks)
    return options


@some.composite
def values_of(draw: Draw, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array of a type."""
    numbers = np.random.default_rng(draw(some.integers(0, 99))).integers(0, 99, shape)
    if dtype.kind == "T":
        return np.array([f"ä{n}" * (n % 4) for n in numbers.ravel()], dtype).reshape(shape)
    if dtype.names:
        filled = np.empty(shape, dtype)
        filled["a"], filled["b"] = numbers, numbers / 2
        return filled
    if dtype.kind == "V":
        return np.frombuffer(numbers.astype("<u4").tobytes(), "V4").reshape(shape).astype(dtype)
    if dtype.kind in "US":
        return numbers.astype(dtype)
    values = numbers.astype(dtype)
    if dtype.kind in "fc" and values.size and draw(some.booleans()):
        values.flat[0] = np.nan
    return values


def dtype_of(name: str) -> np.dtype[Any]:
    if name == "struct":
        return np.dtype([("a", "<i4"), ("b", "<f8")])
    return np.dtypes.StringDType() if name == "string" else np.dtype(name)


@some.composite
def lists_of(draw: Draw, size: int) -> Any:
    """A list of positions, some of them negative or out of range, or a mask."""
    if draw(some.integers(0, 2)) == 0:
        return draw(some_numpy.arrays(np.bool_, size if draw(some.integers(0, 9)) else size + 1))
    positions = draw(some.lists(some.integers(-size, size - 1), max_size=6) if size else some.just([]))
    if draw(some.integers(0, 19)) == 0:
        positions.append(size)
    kinds: list[Callable[[Any], Any]] = [list, lambda x: np.array(x, np.int64), lambda x: np.array(x, np.int64)[None]]
    return draw(some.sampled_from(kinds))(positions)


@some.composite
def indexes(draw: Draw, shape: tuple[int, ...]) -> Any:
    """An index that numpy may or may not take: of slices, integers, one list at most, None and an ellipsis."""
    basic = some_numpy.basic_indices(shape, min_dims=0, max_dims=6, allow_newaxis=True, allow_ellipsis=True)
    kind = draw(some.integers(0, 5))
    if kind == 0 or not shape:
        return draw(basic)
    if kind == 1:
        return draw(some.sampled_from([..., (), None, (0,) * (len(shape) + 1), (..., ...), 1.5, 2j, [0.5], 99, -99]))
    if kind == 2 and len(shape) > 1:
        return draw(points(shape))
    parts = [draw(axis_indexes(size)) for size in shape]
    at = draw(some.integers(0, len(shape) - 1))
    parts[at] = draw(lists_of(shape[at]))
    if draw(some.booleans()):
        parts.insert(draw(some.integers(0, len(parts))), None)
    return tuple(parts)


@some.composite
def points(draw: Draw, shape: tuple[int, ...]) -> Any:
    """Lists for all axes, or a mask of all of them."""
    if draw(some.booleans()):
        return draw(some_numpy.arrays(np.bool_, shape))
    assume(0 not in shape)
    count = draw(some.integers(0, 5))
    lists = [np.array(draw(some.lists(some.integers(-n, n - 1), min_size=count, max_size=count)), int) for n in shape]
    parts: list[Any] = [draw(some.sampled_from([part, part[:, None]])) for part in lists]
    if len(parts) > 2 and draw(some.booleans()):
        parts[0] = draw(some.integers(0, shape[0] - 1))
    return tuple(parts)


def axis_indexes(size: int) -> some.SearchStrategy[Any]:
    whole = some.slices(size) if size else some.just(slice(None))
    return whole | some.integers(-size, size - 1) | some.just(slice(None)) if size else whole


@some.composite
def cases(draw: Draw) -> dict[str, Any]:
    """The options of an array."""
    shape, chunks = draw(shapes())
    dtype = dtype_of(draw(some.sampled_from(NUMBERS) if draw(some.integers(0, 3)) else some.sampled_from(OTHERS)))
    options = draw(codecs(len(shape), chunks))
    options |= {"shape": shape, "chunks": chunks, "dtype": dtype}
    if dtype.kind == "V":  # zarr's sharding codec cannot pack these
        options.pop("shards", None)
    if dtype.kind == "T":  # nor texts of any length after its transpose codec
        options.pop("filters", None)
    return options | {"fill_value": draw(some.sampled_from([None, *FILLS.get(dtype.kind, [])]))}


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or the class of its exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*arguments)
        except Exception as error:
            return type(error)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, type | tuple):
        assert isinstance(found, type) and issubclass(found, expected), (found, expected)
        return
    assert not isinstance(found, type), found
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray | np.generic):
        assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> st.Hub:
    hub = st.hub(str(tmp_path_factory.mktemp("hub")))
    hub.array("other", shape=1, chunks=1)
    return hub


def is_mask(index: Any) -> bool:
    """Return whether an index has a mask alone, to which numpy assigns one axis of values and nothing else."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray) and part.dtype == np.bool_ for part in parts)


def shape_of(array: Array, index: Any) -> tuple[int, ...]:
    return np.shape(array[index])


@QUICK
@given(options=cases(), data=some.data())
def test_an_array_is_written_and_read_as_one_of_numpy(hub: st.Hub, options: dict[str, Any], data: Any) -> None:
    array = hub.transaction().begin().array("x", **options)
    expected = np.full(array.shape, array.fill_value, array.dtype)
    for _ in range(data.draw(some.integers(0, 3))):
        index = data.draw(indexes(expected.shape))
        values = outcome(shape_of, expected, index)
        shape = values if isinstance(values, tuple) else ()
        if shape and not is_mask(index) and data.draw(some.booleans()):
            shape = data.draw(some.sampled_from([shape[1:], (1, *shape), (*shape[:-1], 1), (*shape, 2)]))
        new = data.draw(values_of(expected.dtype, shape))
        fits = not isinstance(values, tuple) or len(shape) <= len(
            values
        )  # numpy takes an array of more axes, but no list
        if fits and new.dtype.kind not in "TV" and data.draw(some.integers(0, 3)) == 0:
            new = new.tolist()
        wrong = outcome(setitem, expected, index, new)
        assert_same(outcome(setitem, array, index, new), BAD_VALUE if wrong in BAD_VALUE else wrong)
    for _ in range(3):
        index = data.draw(indexes(expected.shape))
        assert_same(outcome(getitem, array, index), outcome(getitem, expected, index))
    assert_same(np.asarray(array), expected)


@settings(QUICK, max_examples=8)
@given(options=cases(), data=some.data())
def test_zarr_reads_what_tar_extracts(options: dict[str, Any], data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hub = st.hub(f"{folder}/hub")
        with hub.transaction() as t:
            array = t.array("x", **options)
            expected = np.full(array.shape, array.fill_value, array.dtype)
            for _ in range(2):
                index = data.draw(some_numpy.basic_indices(expected.shape, allow_ellipsis=False))
                array[index] = expected[index] = data.draw(values_of(expected.dtype, np.shape(expected[index])))
        assert_same(np.asarray(hub.load("x")), expected)
        for shard in sorted(Path(folder).glob("hub/data/*/*.tar")):
            subprocess.run(["tar", "-xf", shard, "-C", folder], check=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = zarr.open_array(f"{folder}/x", mode="r")[...]
            assert_same(np.asarray(found, expected.dtype), expected)  # without axes it is a scalar
