"""Arrays in the npy format: what numpy writes is read as numpy reads it, by many threads at once too."""

from __future__ import annotations

import gc
import io
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from shardtools.shards.npy import load_npy, load_npz, read_header


def saved(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


PLAIN = arrays.scalar_dtypes()
DTYPES = PLAIN | arrays.array_dtypes(PLAIN) | arrays.nested_dtypes(PLAIN)


@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_an_array_comes_back(array: np.ndarray[Any, Any]) -> None:
    for given_array in (array, np.asfortranarray(array), array[..., ::-1] if array.ndim else array):
        data = saved(given_array, version=(3, 0))
        found = load_npy(data)
        expected = np.lib.format.read_array(io.BytesIO(data))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.strides == expected.strides or not found.size
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3), (2, 0, 3), (1, 1, 1, 1, 1)])
def test_each_version_is_read(version: tuple[int, int], shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=">i2").reshape(shape)
    assert np.array_equal(load_npy(saved(array, version=version)), array)


def test_many_arrays_come_back_by_name() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(5), **{"b/c": np.zeros((2, 2), "f4")})
    found = load_npz(file.getvalue())
    assert sorted(found) == ["a", "b/c"] and found["a"].tolist() == [0, 1, 2, 3, 4] and found["b/c"].shape == (2, 2)


def test_objects_and_damage_are_refused() -> None:
    data = saved(np.arange(5))
    with pytest.raises(ValueError, match="ends too early"):
        load_npy(data[:-1])
    with pytest.raises(ValueError, match="1 bytes follow"):
        load_npy(data + b"x")
    with pytest.raises(ValueError, match="only pickle"):
        load_npy(saved(np.array([None])))
    for bad in (b"", b"\x93NUMPY\x09\0", data.replace(b"'descr'", b"'dexcr'"), data.replace(b"(5,)", b"(-5)")):
        with pytest.raises(ValueError):
            load_npy(bad)


def test_threads_that_read_heads_do_not_disturb_each_other() -> None:
    """They do where heads are parsed as Python, and something else runs in the middle (python/cpython#106905)."""
    heads = [saved(np.zeros(3)), saved(np.zeros(2, [("a", "i4"), ("b", "f8", 2)]))]
    failures: list[BaseException] = []

    def collected(phase: str, _info: dict[str, int]) -> None:
        for _ in range(200):
            pass

    def read() -> None:
        try:
            for _ in range(500):
                for head in heads:
                    read_header(io.BytesIO(head))
        except BaseException as error:
            failures.append(error)

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-5)
    gc.set_threshold(50)
    gc.callbacks.append(collected)
    try:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not failures
