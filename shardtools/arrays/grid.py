"""Which chunks an index selects, and which part of each: numpy's indexing on a regular grid.

    index, shape -> Selection: for each axis a range or a list of positions, and how the result is shaped
    Selection, chunks -> ChunkPiece: the coordinates of a chunk, the part of it, and the part of the result

Axes are independent of each other (orthogonal indexing). With at most one list or mask this is numpy's indexing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.types import Ints

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Part = slice | Ints


@dataclass(frozen=True)
class AxisPiece:
    """The part of one axis that lies in one chunk: ``inner`` of the chunk is ``outer`` of the block.

    ``whole`` says that it is all of the chunk that lies in the array.
    """

    chunk: int
    inner: Part
    outer: Part
    whole: bool


@dataclass(frozen=True)
class ChunkPiece:
    """The part of a chunk that an index selects, and where in the block it goes.

    ``target`` is that place in the block, if the chunk may be read right to it.
    """

    coordinates: Shape
    inner: tuple[Any, ...]
    outer: tuple[Any, ...]
    whole: bool
    target: Array | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Selection:
    """What an index selects: of each axis a range that rises, or a list of positions.

    Together they make a block with all axes of the array. ``index`` is that of numpy which makes the result of it:
    reversed, without the axes of single integers, with new axes. ``front`` is the axis that numpy puts first, and
    ``lists`` are the shapes of index arrays that do not have one axis, by axis.
    """

    axes: tuple[range | Ints, ...]
    index: tuple[Any, ...]
    front: int | None = None
    lists: tuple[tuple[int, Shape], ...] = ()

    @property
    def block(self) -> Shape:
        """The shape of the block."""
        return tuple(map(len, self.axes))

    def result(self, block: Array) -> Array:
        """Return the result, which shares the memory of the block."""
        found: Array = block[(*self.index, ...)]
        if self.front is not None:
            found = np.moveaxis(found, self.front, 0)
        for axis, shape in self.lists:
            found = found.reshape(*found.shape[:axis], *shape, *found.shape[axis + 1 :])
        return found

    def spread(self, values: Array) -> Array:
        """Return values that numpy can assign to the result, as a block.

        Raises:
            ValueError: their shape does not fit.
        """
        template = np.broadcast_to(np.empty((), np.bool_), self.block)
        full = _broadcast(values, self.result(template).shape)
        for axis, shape in reversed(self.lists):
            full = full.reshape(*full.shape[:axis], prod(shape), *full.shape[axis + len(shape) :])
        if self.front is not None:
            full = np.moveaxis(full, 0, self.front)
        reverse: list[Any] = []
        for part in self.index:
            if part is None:
                reverse.append(0)
            else:
                reverse.append(None if isinstance(part, int) else part)
        reversed_block: Array = full[(*reverse, ...)]
        return reversed_block


def _broadcast(values: Array, shape: Shape) -> Array:
    """Return values in a shape, as numpy does in an assignment: it takes no notice of leading axes of one element."""
    extra = max(values.ndim - len(shape), 0)
    fitting = values.reshape(values.shape[extra:]) if set(values.shape[:extra]) <= {1} else values
    try:
        return np.broadcast_to(fitting, shape)
    except ValueError:
        what = f"could not broadcast input array from shape {values.shape} into shape {shape}"
        raise ValueError(what) from None


@dataclass(frozen=True)
class PointSelection:
    """Some points: ``positions`` has a row for each axis, ``shape`` is that of the result."""

    positions: Ints
    shape: Shape

    @property
    def block(self) -> Shape:
        """The shape of the block: the points in one row."""
        return self.positions.shape[1:]

    def result(self, block: Array) -> Array:
        """Return the result, which shares the memory of the block."""
        return block.reshape(self.shape)

    def spread(self, values: Array) -> Array:
        """Return values that numpy can assign to the result, as a block.

        Raises:
            ValueError: their shape does not fit.
        """
        return _broadcast(values, self.shape).reshape(-1)


Selected = Selection | PointSelection


def select(index: Any, shape: Shape) -> Selected:
    """Return what numpy's index selects from an array of this shape.

    Several lists must be for all axes: they are points. So is a mask of all axes.

    Raises:
        IndexError: it is out of range, or not allowed.

    >>> select((slice(None, None, -2), 1), (6, 3))
    Selection(axes=(range(1, 7, 2), range(1, 2)), index=(slice(None, None, -1), 0), front=None, lists=())
    """
    if _is_mask(index, shape):
        return select_points(index, shape)
    parts = _expand(index, len(shape))
    if sum(map(_is_list, parts)) > 1:
        if any(part is None or isinstance(part, slice) for part in parts):
            raise IndexError("several lists of indices and a slice: use .oindex[...] for each axis by itself")
        return select_points(tuple(parts), shape)
    return _selection(parts, shape, move=True)


def select_points(index: Any, shape: Shape) -> PointSelection:
    """Return the points that a mask selects, or lists of positions for all axes, which are broadcast to each other.

    Raises:
        IndexError: it is out of range, or not allowed.
    """
    if _is_mask(index, shape):
        if index.shape != shape:
            what = "boolean index did not match indexed array"
            raise IndexError(f"{what}; its shape is {shape} but the mask has the shape {index.shape}")
        index = np.nonzero(index)
    parts = list(map(_as_index, index)) if isinstance(index, tuple) else [_as_index(index)]
    if len(parts) != len(shape):
        raise IndexError(f"points of {len(shape)} axes need as many lists, not {len(parts)}")
    each = [
        _positions(part, axis, size) if _is_list(part) else np.array(_single(part, axis, size)[0])
        for axis, (part, size) in enumerate(zip(parts, shape, strict=True))
    ]
    try:
        places = np.broadcast_arrays(*each)
    except ValueError:
        shapes = " ".join(str(part.shape) for part in each)
        what = f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes}"
        raise IndexError(what) from None
    found = places[0].shape if places else ()
    return PointSelection(np.array(places, np.int64).reshape(len(shape), prod(found)), found)


def select_orthogonal(index: Any, shape: Shape) -> Selection:
    """Return what an index selects, each axis by itself.

    Raises:
        IndexError: it is out of range, or not allowed.
    """
    return _selection(_expand(index, len(shape)), shape, move=False)


def _selection(parts: list[Any], shape: Shape, *, move: bool) -> Selection:
    axes: list[range | Ints] = []
    made: list[Any] = []
    lists: list[tuple[int, Shape]] = []
    fancy: list[tuple[int, int | None]] = []  # parts that numpy counts as lists, and which axis of the result they are
    result_axis = 0
    for place, part in enumerate(parts):
        if part is None:
            made.append(None)
            result_axis += 1
            continue
        axis = len(axes)
        size = shape[axis]
        if isinstance(part, slice):
            positions = range(*part.indices(size))
            axes.append(positions if positions.step > 0 else positions[::-1])
            made.append(slice(None) if positions.step > 0 else slice(None, None, -1))
            result_axis += 1
        elif _is_list(part):
            found = _positions(part, axis, size)
            axes.append(found.reshape(-1))
            made.append(slice(None))
            fancy.append((place, result_axis))
            if found.ndim != 1:
                lists.append((result_axis, found.shape))
            result_axis += 1
        else:
            axes.append(_single(part, axis, size))
            made.append(0)
            fancy.append((place, None))
    front = None
    wanted = [axis for _, axis in fancy if axis is not None]
    if move and wanted and fancy[-1][0] - fancy[0][0] >= len(fancy):  # numpy: separated by a slice
        front = wanted[0] or None
        lists = [(0, some) for _, some in lists]
    return Selection(tuple(axes), tuple(made), front, tuple(reversed(lists)))


def _expand(index: Any, ndim: int) -> list[Any]:
    """Return an index of as many parts as there are axes, and those that are None."""
    parts = list(map(_as_index, index)) if isinstance(index, tuple) else [_as_index(index)]
    used = sum(part is not None and part is not Ellipsis for part in parts)
    places = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(places) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if used > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, but {used} were indexed")
    place = places[0] if places else len(parts)
    parts[place : place + 1] = [slice(None)] * (ndim - used)
    return parts


def _as_index(part: Any) -> Any:
    """Return a part of an index, as an array if it is something like one."""
    return np.asarray(part) if hasattr(part, "__array__") and not isinstance(part, np.ndarray | np.generic) else part


def _is_list(part: Any) -> bool:
    return isinstance(part, list | tuple | range) or (isinstance(part, np.ndarray) and part.ndim > 0)


def _is_mask(index: Any, shape: Shape) -> bool:
    """Return whether an index is a mask of all axes."""
    return isinstance(index, np.ndarray) and index.dtype == np.bool_ and index.ndim == len(shape) > 1


def _single(part: Any, axis: int, size: int) -> range:
    try:
        number = part.__index__() if not isinstance(part, bool | np.bool_) else None
    except (AttributeError, TypeError):
        number = None
    if number is None:
        what = "only integers, slices (':'), ellipsis ('...'), None, and lists or arrays of integers or booleans"
        raise IndexError(f"{what} are valid indices, not {type(part).__name__}")
    if not -size <= number < size:
        raise IndexError(f"index {number} is out of bounds for axis {axis} with size {size}")
    return range(number % size, number % size + 1)


def _positions(part: Any, axis: int, size: int) -> Ints:
    found = np.asarray(part)
    if found.dtype == np.bool_:
        if found.shape != (size,):
            what = f"boolean index did not match indexed array along axis {axis}"
            raise IndexError(f"{what}; size of axis is {size} but the mask has the shape {found.shape}")
        return np.flatnonzero(found)
    if found.size == 0 and not isinstance(part, np.ndarray):
        return found.astype(np.int64)
    if found.dtype.kind not in "iu":
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    if found.size and (int(found.min()) < -size or int(found.max()) >= size):
        bad = int(found.min()) if int(found.min()) < -size else int(found.max())
        raise IndexError(f"index {bad} is out of bounds for axis {axis} with size {size}")
    found = found.astype(np.int64)
    return np.where(found < 0, found + size, found)


def pieces(selection: Selected, shape: Shape, chunks: Shape) -> Iterator[ChunkPiece]:
    """Yield the part of each chunk that is selected, in the order of the grid."""
    if isinstance(selection, PointSelection):
        yield from _point_pieces(selection.positions, chunks)
        return
    each = [list(_axis_pieces(*axis)) for axis in zip(selection.axes, shape, chunks, strict=True)]
    lists = sum(not isinstance(positions, range) for positions in selection.axes) > 1
    for combination in product(*each):
        inner: tuple[Any, ...] = tuple(piece.inner for piece in combination)
        outer: tuple[Any, ...] = tuple(piece.outer for piece in combination)
        if lists:
            inner, outer = _outer_index(inner, chunks), _outer_index(outer, selection.block)
        whole = all(piece.whole for piece in combination)
        yield ChunkPiece(tuple(piece.chunk for piece in combination), inner, outer, whole)


def _point_pieces(positions: Ints, chunks: Shape) -> Iterator[ChunkPiece]:
    sizes = np.array(chunks, np.int64)[:, None]
    numbers = positions // sizes
    order = np.lexsort(numbers[::-1]) if len(numbers) else np.arange(positions.shape[1])
    numbers, inside = numbers[:, order], (positions % sizes)[:, order]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(numbers) != 0).any(axis=0)])[: len(order)])
    for start, stop in pairwise([*starts.tolist(), len(order)]):
        yield ChunkPiece(tuple(numbers[:, start].tolist()), tuple(inside[:, start:stop]), (order[start:stop],), False)


def _axis_pieces(positions: range | Ints, size: int, chunk: int) -> Iterator[AxisPiece]:
    if isinstance(positions, range):
        yield from _range_pieces(positions, size, chunk)
        return
    order = np.argsort(positions, kind="stable")
    inside = positions[order]
    numbers = inside // chunk
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(numbers)]):
        number = int(numbers[start])
        inner = inside[start:stop] - number * chunk
        outer: Part = order[start:stop]
        width = min(chunk, size - number * chunk)
        if stop - start == 1:  # slices, which numpy takes several times as fast
            at, to = int(inner[0]), int(order[start])
            yield AxisPiece(number, slice(at, at + 1), slice(to, to + 1), width == 1)
        else:
            yield AxisPiece(number, inner, outer, len(np.unique(inner)) == width)


def _range_pieces(positions: range, size: int, chunk: int) -> Iterator[AxisPiece]:
    if not positions:
        return
    start, step = positions.start, positions.step
    at = 0
    while at < len(positions):
        first = start + at * step
        number = first // chunk
        end = (number + 1) * chunk
        count = min(-(-(end - first) // step), len(positions) - at)
        low = first - number * chunk
        inner = slice(low, low + (count - 1) * step + 1, step)
        yield AxisPiece(number, inner, slice(at, at + count), count == min(chunk, size - number * chunk))
        at += count


def _outer_index(parts: Sequence[Part], shape: Shape) -> tuple[Any, ...]:
    def numbers(part: Part, size: int) -> Ints:
        return np.arange(*part.indices(size)) if isinstance(part, slice) else part

    return np.ix_(*map(numbers, parts, shape))
