"""The arrays of a hub, for the page: their names, their history, and slices small enough to be drawn."""

from __future__ import annotations

import json
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.viewer.answers import BYTES, AskedError, HttpAnswer, Parameters
from shardtools.viewer.neuroglancer import neuroglancer_state, why_not
from shardtools.viewer.zarr_keys import ZarrVersions, fixed_version, zarr_path

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

ARRAYS = 10_000
"""Arrays that are listed at most."""

COMMITS = 200
"""Commits that are listed at most."""

LARGEST = 256 << 20
"""Bytes of the chunks that are unpacked for one slice at most."""

_DRAWN = frozenset({"uint8", "bool", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"})


class ShownHub:
    """The arrays of a hub."""

    def __init__(self, hub: Hub):
        self.hub = hub
        self.zarr = ZarrVersions(hub)

    def tree(self, asked: Parameters) -> list[dict[str, Any]]:
        """Return path, shape, type and chunks of each array of a ``version``.

        Raises:
            StorageError: the hub cannot be read.
        """
        hub = self.hub
        snapshot = hub.snapshot(asked.text("version") or None)
        found = []
        for path, document in islice(hub.documents(snapshot), ARRAYS):
            body = json.loads(document) if hub.is_array(document, path) else None
            if body is not None:
                chunks = body.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
                found.append({"path": path, "shape": body["shape"], "dtype": str(body["data_type"]), "chunks": chunks})
        return found

    def history(self, asked: Parameters) -> list[dict[str, Any]]:
        """Return the newest commits of a ``version``, the newest first.

        Raises:
            StorageError: the hub cannot be read.
        """
        found = []
        for commit in islice(self.hub.history(asked.text("version") or None), COMMITS):
            write = commit.writes[-1] if commit.writes else None
            found.append(
                {
                    "version": f"{commit.branch}@{commit.number}",
                    "time": write.time if write else None,
                    "message": "; ".join(one.message for one in commit.writes if one.message),
                    "author": write.author if write else None,
                }
            )
        return found

    def versions(self, asked: Parameters) -> dict[str, Any]:
        """Return the names of branches and tags.

        Raises:
            StorageError: the hub cannot be read.
        """
        return {"branches": list(self.hub.branches()), "tags": list(self.hub.tags())}

    def slice(self, asked: Parameters) -> HttpAnswer:
        """Return the elements with an ``index`` on the leading axes, every n-th so that no side is over ``max``.

        Raises:
            AskedError: the index does not fit, or too many chunks would have to be read.
            StorageError: the array cannot be read.
        """
        most = asked.number("max", 1024, 1, 4096)
        array = self.hub.load(_named(asked.required("path"), asked.text("version")))
        index = asked.numbers("index")
        if len(index) > array.ndim or any(not -size <= at < size for at, size in zip(index, array.shape, strict=False)):
            raise AskedError(f"the index {index} does not fit the shape {array.shape}")
        kept = array.shape[len(index) :]
        if len(kept) > 3:
            raise AskedError(f"an index of {array.ndim - 3} axes at least is needed, of an array with {array.ndim}")
        touched = prod(-(-size // chunk) * chunk for size, chunk in zip(kept, array.chunks[len(index) :], strict=True))
        touched *= prod(array.chunks[: len(index)]) * array.dtype.itemsize
        if touched > LARGEST:
            what = f"the slice is in chunks of {touched:,} bytes"
            raise AskedError(what, 413, fix=f"take an array with smaller chunks; {LARGEST:,} are read at most")
        steps = tuple(slice(None, None, max(1, -(-size // most))) for size in kept)
        found = np.asarray(array[(*index, *steps)])
        if str(found.dtype) not in _DRAWN:
            found = found.astype(np.float64) if found.dtype.kind in "iuf" else _refuse(found)
        data = np.ascontiguousarray(found, found.dtype.newbyteorder("<")).tobytes()
        headers = {"X-Shape": ",".join(map(str, found.shape)), "X-Dtype": str(found.dtype)}
        return HttpAnswer(data, BYTES, headers=headers)

    def elsewhere(self, asked: Parameters, root: str) -> dict[str, Any]:
        """Return where a version of an array is a Zarr array below ``root``, and Neuroglancer's state for it.

        Raises:
            StorageError: the array cannot be read.
        """
        path = asked.required("path")
        snapshot = self.hub.snapshot(asked.text("version") or None)
        body = json.loads(self.hub.read_array(snapshot, path).document)
        refused = why_not(body)
        return {
            "zarr": root + zarr_path(fixed_version(snapshot), path),
            "state": None if refused else neuroglancer_state(body, path.rpartition("/")[2]),
            "refused": refused,
        }


def _named(path: str, version: str) -> str:
    """Return the name of an array in a version, a commit such as ``@3`` or ``main@3``, or the newest one.

    >>> _named("x", "main@3"), _named("x", "@3"), _named("x", "")
    ('x:main@3', 'x@3', 'x')
    """
    return f"{path}{version}" if not version or version.startswith("@") else f"{path}:{version}"


def _refuse(found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raise AskedError(f"elements of the type {found.dtype} are not drawn", 422)
