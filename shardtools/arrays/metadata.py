"""What a ``zarr.json`` says: read and made by the zarr library, which knows grids, dtypes and codecs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import index
from typing import Any, Literal, NoReturn

import numpy as np

from shardtools.arrays.codecs import ChunkCodec, codec_of
from shardtools.errors import CorruptError, JobError, LimitError, NotFoundError
from shardtools.json_text import parse_json
from shardtools.limits import Limits

Shape = tuple[int, ...]

_CHUNK = 1 << 20
_LARGEST_ROW = 1 << 24

_MAX_SIZE = 2**63 - 1
"""The largest size of an axis, so that every position is an int64."""


class Attributes(dict[str, Any]):
    """The attributes of an array: a dict that raises a TypeError if it is changed, as nobody else would see it."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("attrs cannot be changed in place: use array.set_attrs({**array.attrs, NAME: VALUE})")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Attributes, (dict(self),)


@dataclass(frozen=True)
class ArrayMetadata:
    """What is known of an array: the bytes of its document, and what they say.

    ``chunks`` is the shape of what is stored under one key: with the sharding codec that of a Zarr shard.
    """

    document: bytes
    shape: Shape
    chunks: Shape
    dtype: np.dtype[Any]
    fill_value: Any
    attributes: Mapping[str, Any]
    dimension_names: tuple[str | None, ...] | None
    prefix: str
    separator: str

    @cached_property
    def codec(self) -> ChunkCodec:
        """How its chunks become bytes."""
        return codec_of(self.document, self.chunks, self.dtype)

    def check_chunk(self, limits: Limits, url: str, path: str) -> None:
        """Raise if a chunk is too large to be held in memory.

        Raises:
            LimitError: it has more bytes than a value may have.
        """
        nbytes = prod(self.chunks) * self.dtype.itemsize
        if nbytes > limits.value:
            what = f"a chunk of it has {nbytes:,} bytes, and {limits.value:,} is the limit"
            fix = "make smaller chunks, or raise the limit if it may be so large: limits=Limits(value=SIZE)"
            raise LimitError(what, url=url, member=path, fix=fix)

    @property
    def grid(self) -> Shape:
        """The number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def chunk_name(self, coordinates: Sequence[int]) -> str:
        """Return the name of a chunk below its array.

        >>> create_array((4, 6), (2, 3), "uint8").chunk_name((1, 0))
        'c/1/0'
        """
        return self.prefix + self.separator.join(map(str, coordinates))

    def coordinates(self, name: str) -> Shape | None:
        """Return the coordinates of a chunk by its name; None if it is no chunk of the grid."""
        if not name.startswith(self.prefix):
            return None
        text = name[len(self.prefix) :]
        parts = text.split(self.separator) if text else []
        if not self.shape and text in ("", "0"):
            return ()
        if len(parts) != len(self.shape) or not all(part.isdecimal() and str(int(part)) == part for part in parts):
            return None
        found = tuple(map(int, parts))
        return found if all(a < b for a, b in zip(found, self.grid, strict=True)) else None

    def with_shape(self, shape: Shape) -> ArrayMetadata:
        """Return the metadata of an array of another shape."""
        return self._changed(shape=list(_as_shape(shape)))

    def with_attributes(self, attributes: Mapping[str, Any]) -> ArrayMetadata:
        """Return the metadata of an array with other attributes."""
        return self._changed(attributes=_check_attributes(attributes))

    def _changed(self, **values: Any) -> ArrayMetadata:
        return parse_array(_dump({**json.loads(self.document), **values}), "zarr.json")


def create_array(
    shape: Sequence[int] | int,
    chunks: Sequence[int] | int | None,
    dtype: Any,
    *,
    fill_value: Any = None,
    attributes: Mapping[str, Any] | None = None,
    dimension_names: Sequence[str | None] | None = None,
    **options: Any,
) -> ArrayMetadata:
    """Return the metadata of a new array; ``options`` are those of `zarr.create_array`, such as ``compressors``.

    Raises:
        ValueError, TypeError: they contradict each other.
    """
    import zarr
    from zarr.storage import MemoryStore

    sizes = _as_shape(shape)
    _check_dtype(dtype)
    if attributes is not None:
        _dump(_check_attributes(attributes))
    options |= {} if fill_value is None else {"fill_value": fill_value}
    store = MemoryStore()
    with warnings.catch_warnings():  # of dtypes that other Zarr libraries may not know: the caller has named it
        warnings.simplefilter("ignore")
        zarr.create_array(
            store,
            shape=sizes,
            chunks=_default_chunks(sizes, dtype, options) if chunks is None else _as_chunks(chunks, len(sizes)),
            dtype=dtype,
            attributes=None if attributes is None else dict(attributes),
            dimension_names=None if dimension_names is None else list(dimension_names),
            zarr_format=3,
            **options,
        )
    body = json.loads(store._store_dict["zarr.json"].to_bytes())
    made = parse_array(_dump(body), "zarr.json")
    if made.dtype.kind == "T" and "transpose" in _codec_names(body["codecs"]):  # zarr 3.1 mixes up the elements
        raise ValueError("zarr cannot write texts of any length with the transpose codec: leave it out")
    return made


def _check_dtype(dtype: Any) -> None:
    try:
        known = np.dtype(dtype)
    except TypeError:  # zarr has names for some that numpy has not
        return
    if known.kind == "O":
        raise TypeError("an array of Python objects cannot be stored: use a type of numbers, or str for texts")


def _codec_names(codecs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of codecs, and of those of chunks within a chunk."""
    inner = [codec["configuration"]["codecs"] for codec in codecs if codec["name"] == "sharding_indexed"]
    return {codec["name"] for codec in codecs}.union(*map(_codec_names, inner))


def _as_shape(shape: Sequence[int] | int) -> Shape:
    try:
        sizes = tuple(map(index, shape)) if np.iterable(shape) else (index(shape),)
    except TypeError as error:
        fix = "to store values, call hub.array(NAME, like=VALUES) and hub.fill(NAME, VALUES)"
        shown = " ".join(f"{shape!r:.60}".split())
        raise TypeError(f"a shape must be an int or a tuple of ints, not {shown}: {fix}") from error
    if any(not 0 <= size <= _MAX_SIZE for size in sizes):
        raise ValueError(f"the sizes of axes must be from 0 to 2**63 - 1, not {sizes}")
    return sizes


def _default_chunks(shape: Shape, dtype: Any, options: Mapping[str, Any]) -> Shape | Literal["auto"]:
    """Return a shape of chunks: whole rows of about 1 MiB together, for arrays are read and written by rows.

    An array without rows gets chunks for those that will be appended.

    Where a row is larger than 16 MiB, or its size is unknown, zarr chooses.
    """
    try:
        itemsize = np.dtype(dtype).itemsize
    except TypeError:
        itemsize = 0
    row = prod(shape[1:]) * itemsize
    if not shape or not 0 < row <= _LARGEST_ROW or options.get("shards") is not None:
        return "auto"
    return (min(max(_CHUNK // row, 1), shape[0] or _CHUNK), *shape[1:])


def _as_chunks(chunks: Sequence[int] | int, ndim: int) -> Shape:
    sizes = tuple(map(index, chunks)) if np.iterable(chunks) else (index(chunks),) * ndim
    if any(size < 1 for size in sizes):
        raise ValueError(f"the sizes of chunks must be above zero, not {sizes}")
    return sizes


def _check_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
        raise JobError(f"attributes must be a dict with names: {attributes!r:.100}", fix="use a dict of texts to JSON")
    return dict(attributes)


def parse_array(document: bytes, url: str, member: str | None = None) -> ArrayMetadata:
    """Return the metadata of an array from the bytes of its document.

    Raises:
        CorruptError: they are none, or of an array that zarr cannot read.
        NotFoundError: they are of a group.
    """
    import zarr
    from zarr.storage import MemoryStore

    body = parse_node(document, url, member)
    if body["node_type"] != "array":
        raise NotFoundError("this is a group, not an array", url=url, member=member, fix="name an array in it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = zarr.open_array(MemoryStore({"zarr.json": _buffer(document)}, read_only=True), mode="r")
        encoding = body["chunk_key_encoding"]
        separator = encoding.get("configuration", {}).get("separator", "/" if encoding["name"] == "default" else ".")
        names = body.get("dimension_names")
        _as_shape(array.shape)
        _as_chunks(array.shards or array.chunks, array.ndim)
        return ArrayMetadata(
            document=document,
            shape=tuple(array.shape),
            chunks=tuple(array.shards or array.chunks),
            dtype=np.dtype(array.dtype),
            fill_value=array.fill_value,
            attributes=Attributes(body.get("attributes", {})),
            dimension_names=None if names is None else tuple(names),
            prefix=_prefix(encoding["name"], separator, len(array.shape)),
            separator=separator,
        )
    except Exception as error:  # zarr raises many kinds
        what = f"zarr cannot read this array: {type(error).__name__}: {error}"
        raise CorruptError(what, url=url, member=member, fix="see which zarr library wrote it") from error


def _prefix(encoding: str, separator: str, ndim: int) -> str:
    if encoding == "default":
        return f"c{separator}" if ndim else "c"
    if encoding == "v2":
        return "" if ndim else "0"
    raise ValueError(f"unknown chunk key encoding {encoding}")


def keeps_chunks(before: bytes, after: bytes | None) -> bool:
    """Return whether chunks mean the same with another document, None if it is removed.

    So they do if nothing but attributes differs and the shape is no smaller. A group has no chunks.

    >>> small, large = (create_array(rows, 2, "uint8").document for rows in (3, 9))
    >>> keeps_chunks(small, large), keeps_chunks(large, small), keeps_chunks(small, None)
    (True, False, False)
    """
    try:
        old = parse_json(before)
    except CorruptError:
        return False
    if not isinstance(old, dict) or old.get("node_type") != "array":
        return True
    if after is None:
        return False
    new = json.loads(after)
    shape, larger = (body.get("shape", ()) for body in (old, new))
    is_no_smaller = len(shape) == len(larger) and all(a <= b for a, b in zip(shape, larger, strict=True))
    return is_no_smaller and _layout(old) == _layout(new)


def _layout(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ("shape", "attributes", "dimension_names")}


def parse_node(document: bytes, url: str, member: str | None = None) -> dict[str, Any]:
    """Return the contents of the document of an array or a group.

    Raises:
        CorruptError: it is neither.
    """
    body = parse_json(document, url)
    fix = "see what wrote it"
    if not isinstance(body, dict) or body.get("zarr_format") != 3 or body.get("node_type") not in ("array", "group"):
        raise CorruptError("this is not the document of a Zarr array or group", url=url, member=member, fix=fix)
    return body


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the document of a group."""
    return _dump({"zarr_format": 3, "node_type": "group", "attributes": _check_attributes(attributes or {})})


def _dump(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise JobError(f"attributes must be JSON: {error}", fix="use texts, numbers, lists and dicts") from error


def _buffer(data: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)
