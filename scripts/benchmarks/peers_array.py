"""What others do with the same arrays. Nothing of shardtools is used here.

A library is two functions: one makes an array that is written by rows, the other opens one to read. Every other
function takes the benchmark's folder, the library's name and the array's layout, and yields the work to be measured.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.array_data import Layout, in_one_call, layout, made_once, one_by_one, some_rows
from benchmarks.model import Work
from benchmarks.server import serve


@dataclass(frozen=True)
class Library:
    """``make(path, layout)`` returns an array to write and what ends it; ``open(path or URL)`` one to read.

    ``rows(array, numbers)`` reads some rows in one call.
    """

    make: Callable[[str, Layout], tuple[Any, Callable[[], None]]]
    open: Callable[[str], Any]
    rows: Callable[[Any, list[int]], Any]
    same_as: str = ""


def nothing() -> None:
    """End nothing."""


def is_url(place: str) -> bool:
    return place.startswith("http:")


# --- zarr


def make_zarr(path: str, what: Layout) -> tuple[Any, Callable[[], None]]:
    import zarr

    packing: Any = "auto" if what.packed else None
    array = zarr.create_array(path, shape=what.shape, chunks=what.chunks, dtype="uint8", compressors=packing)
    return array, nothing


def open_zarr(place: str) -> Any:
    import zarr

    if not is_url(place):
        return zarr.open_array(place, mode="r")
    from obstore.store import HTTPStore
    from zarr.storage import ObjectStore

    store = HTTPStore.from_url(place, client_options={"allow_http": True})
    return zarr.open_array(ObjectStore(store, read_only=True), mode="r")


def zarr_rows(array: Any, numbers: list[int]) -> Any:
    return array.oindex[numbers]


# --- TensorStore, on arrays in zarr's format


def tensorstore_spec(place: str) -> dict[str, Any]:
    if is_url(place):
        return {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": place}}
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": place}}


def make_tensorstore(path: str, what: Layout) -> tuple[Any, Callable[[], None]]:
    import tensorstore

    codecs: list[dict[str, Any]] = [{"name": "bytes"}]
    codecs += [{"name": "zstd", "configuration": {"level": 0}}] if what.packed else []
    grid = {"name": "regular", "configuration": {"chunk_shape": what.chunks}}
    metadata = {"shape": what.shape, "data_type": "uint8", "chunk_grid": grid, "codecs": codecs}
    spec = {**tensorstore_spec(path), "metadata": metadata, "create": True}
    return tensorstore.open(spec).result(), nothing


def open_tensorstore(place: str) -> Any:
    import tensorstore

    return TensorStoreArray(tensorstore.open(tensorstore_spec(place), read=True).result())


class TensorStoreArray:
    """Reads at once, as the others do."""

    def __init__(self, array: Any):
        self.array = array

    def __getitem__(self, index: Any) -> Any:
        return self.array[index].read().result()


def plain_rows(array: Any, numbers: list[int]) -> Any:
    return array[numbers]


# --- Icechunk


def make_icechunk(path: str, what: Layout) -> tuple[Any, Callable[[], None]]:
    import icechunk
    import zarr

    session = icechunk.Repository.create(icechunk.local_filesystem_storage(path)).writable_session("main")
    packing: Any = "auto" if what.packed else None
    array = zarr.create_array(
        session.store, name="x", shape=what.shape, chunks=what.chunks, dtype="uint8", compressors=packing
    )
    return array, lambda: session.commit("all")


def open_icechunk(place: str) -> Any:
    import icechunk
    import zarr

    session = icechunk.Repository.open(icechunk.local_filesystem_storage(place)).readonly_session("main")
    return zarr.open_array(session.store, path="x", mode="r")


# --- HDF5


def make_h5py(path: str, what: Layout) -> tuple[Any, Callable[[], None]]:
    import h5py

    os.mkdir(path)
    file = h5py.File(os.path.join(path, "x.h5"), "w")
    return file.create_dataset("x", what.shape, "uint8", chunks=what.chunks), file.close


def open_h5py(place: str) -> Any:
    import h5py

    return h5py.File(os.path.join(place, "x.h5"), "r")["x"]


def sorted_rows(array: Any, numbers: list[int]) -> Any:
    return array[sorted(numbers)]


# --- Deep Lake


class DeepLakeColumn:
    """Appends, which is how Deep Lake is filled; a column is valid as long as its dataset is."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        return self.dataset["x"][index]

    def __setitem__(self, index: slice, values: Any) -> None:
        self.dataset.append({"x": values.copy()})  # which it may read later


def make_deeplake(path: str, what: Layout) -> tuple[Any, Callable[[], None]]:
    import deeplake

    dataset = deeplake.create(path)
    dataset.add_column("x", deeplake.types.Array("uint8", shape=list(what.chunk)))
    return DeepLakeColumn(dataset), lambda: dataset.commit("all")


def open_deeplake(place: str) -> Any:
    import deeplake

    return DeepLakeColumn(deeplake.open_read_only(place))


LIBRARIES = {
    "zarr": Library(make_zarr, open_zarr, zarr_rows),
    "tensorstore": Library(make_tensorstore, open_tensorstore, plain_rows, "zarr"),
    "icechunk": Library(make_icechunk, open_icechunk, zarr_rows),
    "h5py": Library(make_h5py, open_h5py, sorted_rows),
    "deeplake": Library(make_deeplake, open_deeplake, plain_rows),
}


def fill(library: Library, path: str, what: Layout) -> int:
    """Write an array, and return how many rows it has."""
    array, finish = library.make(path, what)
    for start, stop, values in what.blocks():
        array[start:stop] = values
    finish()
    return what.rows


def existing(root: str, library: str, what: Layout) -> str:
    """Return the folder, in that of the benchmark, of an array that is made if it is not there."""
    name = LIBRARIES[library].same_as or library
    made_once(root, f"{what.name}/{name}", lambda path: fill(LIBRARIES[name], path, what) and None)
    return f"{what.name}/{name}"


# --- what is measured


@contextmanager
def single(root: str, library: str, count: int, **what: Any) -> Iterator[Work]:
    """Read rows one by one, which were read before."""
    array = LIBRARIES[library].open(os.path.join(root, existing(root, library, layout(what))))
    yield one_by_one(array, what["rows"], count)


@contextmanager
def scattered(root: str, library: str, count: int, rounds: int, **what: Any) -> Iterator[Work]:
    """Read many rows in one call, once for each round."""
    used = LIBRARIES[library]
    array = used.open(os.path.join(root, existing(root, library, layout(what))))
    yield in_one_call(partial(used.rows, array), what["rows"], count, rounds)


@contextmanager
def scattered_http(root: str, library: str, count: int, **what: Any) -> Iterator[Work]:
    """Read many rows in one call from nginx."""
    used = LIBRARIES[library]
    folder = existing(root, library, layout(what))
    with serve(root) as base:
        array = used.open(f"{base}{folder}")
        array[0]
        yield lambda: len(used.rows(array, some_rows(what["rows"], count, 1)))


@contextmanager
def slice_http(root: str, library: str, count: int, **what: Any) -> Iterator[Work]:
    """Read neighbouring rows from nginx, for the second time, as `ours_array.slice_http` does."""
    folder = existing(root, library, layout(what))
    with serve(root) as base:
        array = LIBRARIES[library].open(f"{base}{folder}")
        array[:count]
        yield lambda: len(array[:count]) * layout(what).row_bytes // 1_000_000


@contextmanager
def curl(root: str, size: int, processes: int = 1) -> Iterator[Work]:
    """curl: as many bytes of a file, in each of some processes."""
    path = os.path.join(root, "output", "bytes")
    with open(path, "wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(bytes(1 << 20))
    with serve(root) as base:
        command = ["curl", "-sf", "-o", "/dev/null", "-r", f"0-{size - 1}", f"{base}output/bytes"]

        def work() -> int:
            running = [subprocess.Popen(command) for _ in range(processes)]
            if sum(process.wait() for process in running):
                raise RuntimeError("curl failed")
            return processes * size // 1_000_000

        yield work


@contextmanager
def write(root: str, library: str, sync: bool = False, **what: Any) -> Iterator[Work]:
    """Write an array; with ``sync``, all its files are then on the disk."""
    import numpy  # noqa: F401

    path = os.path.join(root, "output", "array")
    used = LIBRARIES[library]
    fill(used, path + "-warm", Layout(1, tuple(what["chunk"]), what["packed"], what["noise"]))
    blocks = layout(what)
    array, finish = used.make(path, blocks)

    def work() -> int:
        for start, stop, values in blocks.blocks():
            array[start:stop] = values
        finish()
        if sync:
            sync_files(path)
        return blocks.rows * blocks.row_bytes // 1_000_000

    yield work


def sync_files(path: str) -> None:
    """Bring all files of a folder to the disk."""
    for file in Path(path).rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
