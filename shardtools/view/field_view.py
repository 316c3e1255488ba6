"""One field of all samples as something like a numpy array, of which only what is used is fetched and decoded.

    view[index] -> rows of the first axis, and cuts of each sample -> bytes -> decoded, in threads, and cut -> stacked

The first axis is that of samples. A view is lazy: slices, lists of numbers and masks of the first axis, and basic
indices of the others, give views; one number of the first axis, and ``np.asarray``, give arrays. Samples are cut before
they are stacked, so that they may differ in shape as long as the cuts do not.

What cannot be done without holding all of it is refused beyond some size, rather than done in secret (see
``array_like.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.dataset.notebook import PICTURES, view_html
from shardtools.dataset.sharded import ShardedDataset, normalize
from shardtools.errors import FieldError, SampleError
from shardtools.processors import processors
from shardtools.shards.fields import decode as decode_field
from shardtools.shards.fields import decode_by, extension, kind_of
from shardtools.shards.names import case_hint
from shardtools.storage import follow, using
from shardtools.types import Ints
from shardtools.view import reductions
from shardtools.view.array_like import ArrayLike
from shardtools.view.stacking import UnequalShapes, as_array, resized, stack

BATCH = 256
"""Samples that a reduction or an iteration fetches at a time."""

Array = npt.NDArray[Any]
Decode = Callable[[bytes], Any]


class FieldView(ArrayLike):
    """The field ``field`` of the samples of a dataset.

    ``decode`` is "auto" (by the field's extension: images, npy and numbers as arrays, json and text as objects), a
    function of bytes, or None for bytes. ``resize`` = (height, width) makes images of one size. ``shape``, ``dtype``
    and ``ndim`` are those of the first sample, and cost a look at it; a sample of another shape is an error when it
    comes.

    ``view == 3`` and other comparisons, ``np.unique(view)`` and numpy's other functions, `tolist` and `astype` load the
    view if it has no more than `array_like.LOAD_LIMIT` (1 GiB) of decoded bytes. ``3 in view``, sums and the like take
    any size.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        field: str,
        *,
        decode: str | Decode | None = "auto",
        resize: tuple[int, int] | None = None,
    ):
        if isinstance(decode, str) and decode != "auto":
            raise ValueError(f"decode is 'auto', None or a function, not {decode!r}")
        if resize is not None and (decode != "auto" or kind_of(extension(field)) != "image"):
            raise ValueError("resize is for images that are decoded by their extension")
        self.dataset = dataset
        self.field = field
        self._decode = decode
        self._resize = resize
        self._rows: range | Ints = range(len(dataset))
        self._inner: tuple[Any, ...] = ()
        self._first: Array | None = None
        self._like: tuple[int, tuple[int, ...]] | None = None

    def _with(self, rows: range | Ints, inner: tuple[Any, ...]) -> FieldView:
        view = FieldView.__new__(FieldView)
        view.__dict__.update(self.__dict__)
        view._rows, view._inner = rows, inner
        is_first = inner == self._inner and len(rows) > 0 and len(self._rows) > 0 and rows[0] == self._rows[0]
        view._first = self._first if is_first else None
        view._like = self._like if inner == self._inner else None
        return view

    def _alike(self) -> FieldView:
        """Return the view, all samples of which must have the shape of the first, also where parts of it are loaded."""
        view = self._with(self._rows, self._inner)
        if len(self._rows):
            view._like = int(self._rows[0]), self._example().shape
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_first": None}

    # --- what it is like

    def _example(self) -> Array:
        """Return the first sample, to learn the shape of all from."""
        if self._first is None:
            if not len(self.dataset):
                raise IndexError("the dataset has no samples, so that its shape is not known")
            rows = self._rows if len(self._rows) else range(1)
            [self._first] = self._cuts(np.array([rows[0]]))
        return self._first

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and the shape of the first."""
        return (len(self._rows), *self._example().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the first sample's numbers."""
        return self._example().dtype

    @property
    def ndim(self) -> int:
        """Number of axes, that of the samples included."""
        return 1 + self._example().ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<FieldView {self.field!r} of {len(self):,} samples of {self.dataset.shown_spec}>"

    def _repr_html_(self) -> str:
        facts = {"samples": f"{len(self):,}", "dataset": self.dataset.shown_spec}
        if self._first is not None:
            facts["first sample"] = f"{self._first.dtype}, shape {self._first.shape}"
        is_whole = self._decode == "auto" and not self._inner
        indexes = np.asarray(self._rows[:PICTURES], np.int64)
        return view_html(self.dataset, f"FieldView {self.field!r}", facts, self.field if is_whole else None, indexes)

    # --- decoding

    def _fetch(self, rows: Ints) -> list[Any]:
        """Return the decoded values of samples, by their numbers in the dataset."""
        found = self.dataset.values(self.field, rows)
        numbers = rows.tolist()
        if (lacking := next((i for i, data in enumerate(found) if data is None), None)) is not None:
            key = self.dataset[numbers[lacking]]["key"]
            fix = case_hint(self.field, self.dataset.known_fields) or "choose other samples"
            raise SampleError(f"sample {numbers[lacking]:,} has no {self.field}", member=key, fix=fix)
        options = self.dataset.options
        if len(found) < 4:
            with using(options):
                return [self._value(data, number) for data, number in zip(found, numbers, strict=True)]
        with ThreadPoolExecutor(processors(), "shardtools-decode", follow, (options,)) as pool:
            return list(pool.map(self._value, found, numbers))

    def _value(self, data: bytes | None, number: int) -> Any:
        assert data is not None
        if self._decode is None:
            return data
        if callable(self._decode):
            return self._decode(data)
        try:
            if self._resize is not None:
                return decode_by(partial(resized, size=self._resize), self.field, data)
            return decode_field(self.field, data)
        except FieldError as error:
            raise error.at(member=f"sample {number:,}") from error

    def _cut(self, value: Any, number: int) -> Array:
        """Return what was asked for of a sample.

        Raises:
            IndexError: it has no such part.
        """
        array = as_array(value)
        for index in self._inner:
            try:
                array = array[index if any(part is Ellipsis for part in index) else (*index, ...)]
            except IndexError as error:
                raise IndexError(f"sample {number:,}: {error}") from error
        return array

    def _cuts(self, numbers: Ints) -> list[Array]:
        """Return what was asked for of samples, by their numbers in the dataset."""
        return [self._cut(value, row) for value, row in zip(self._fetch(numbers), numbers.tolist(), strict=True)]

    def _load(self, rows: range | Ints) -> Array:
        """Return samples as one array."""
        numbers = np.asarray(rows, np.int64)
        if not len(numbers):
            example = self._example()
            return np.empty((0, *example.shape), example.dtype)
        unique, places = np.unique(numbers, return_inverse=True)
        try:
            loaded = stack(self._cuts(unique))
        except UnequalShapes as error:
            raise self._unequal(unique[error.first], unique[error.second], error.shapes) from None
        if self._like is not None and loaded.shape[1:] != self._like[1]:
            raise self._unequal(self._like[0], unique[0], (self._like[1], loaded.shape[1:]))
        return loaded if np.array_equal(unique, numbers) else loaded[places]

    def _unequal(self, one: int, other: int, shapes: tuple[Any, Any]) -> SampleError:
        what = f"samples {one:,} and {other:,} have the shapes {shapes[0]} and {shapes[1]}"
        return SampleError(what, member=self.field, fix="use view.ragged, or resize=(height, width)")

    # --- indexing

    def __getitem__(self, index: Any) -> Any:
        """Return a view; for one number of the first axis the sample's value, and for mixed arrays an array.

        The result is that of numpy for the array of all samples. ``None`` may not stand before the first axis.

        Raises:
            IndexError: as numpy does.
        """
        parts = index if isinstance(index, tuple) else (index,)
        first, rest = self._part(parts)
        if isinstance(first, int | np.integer) and not isinstance(first, bool | np.bool_):
            return self._single(int(first), rest)
        if isinstance(first, slice):
            rows = self._rows[first]
            if all(_is_basic(part) for part in rest):
                return self._narrowed(rows, rest)
            return self._load(rows)[(slice(None), *rest)]
        numbers = normalize(first, len(self))
        if numbers.ndim == 1 and all(_is_basic(part) for part in rest):
            return self._narrowed(np.asarray(self._rows, np.int64)[numbers], rest)
        unique, places = np.unique(numbers, return_inverse=True)
        loaded = self._load(np.asarray(self._rows, np.int64)[unique])
        return loaded[(places.reshape(numbers.shape), *rest)]

    def _part(self, parts: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Return what is for the first axis, and what is for the others."""
        if not parts:
            return slice(None), ()
        if parts[0] is None:
            raise IndexError("None before the axis of samples needs all of them: take np.asarray of a slice first")
        if parts[0] is Ellipsis:
            if any(part is Ellipsis for part in parts[1:]):
                raise IndexError("an index can only have a single ellipsis ('...')")
            used = sum(1 if not _is_mask(part) else np.ndim(part) for part in parts[1:] if part is not None)
            if used == self.ndim and parts[1:] and parts[1] is not None:
                return parts[1], parts[2:]
            if used > self.ndim - 1:
                raise IndexError(f"too many indices: the view has {self.ndim} axes")
            return slice(None), parts
        if _is_mask(parts[0]) and np.ndim(parts[0]) != 1:
            raise IndexError("a mask over several axes needs all samples: take np.asarray first")
        return parts[0], parts[1:]

    def _single(self, number: int, rest: tuple[Any, ...]) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(f"index {number} is out of bounds for axis 0 with size {len(self)}")
        row = np.array([self._rows[number]])
        if not rest and not self._inner:
            return self._fetch(row)[0]
        [array] = self._cuts(row)
        return array[np.newaxis][(0, *rest)] if rest else array[()]

    def _narrowed(self, rows: range | Ints, rest: tuple[Any, ...]) -> FieldView:
        if not any(not _is_full(part) for part in rest):
            return self._with(rows, self._inner)
        example = self._example()
        np.broadcast_to(np.empty((), example.dtype), (1, *example.shape))[(slice(None), *rest)]  # raises as numpy does
        return self._with(rows, (*self._inner, rest))

    # --- as arrays

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return all of it as an array, which is always a new one."""
        if copy is False:
            raise ValueError("an array of a view is always a copy")
        loaded = self._load(self._rows)
        return loaded if dtype is None else loaded.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        """Yield the value of each sample, some fetched at a time."""
        for rows in self._batches():
            numbers = np.asarray(rows, np.int64)
            yield from self._fetch(numbers) if not self._inner else (array[()] for array in self._cuts(numbers))

    def pieces(self, rows: int) -> Iterator[FieldView]:
        """Yield the view in parts of so many samples, all of one shape; an empty one as it is."""
        view = self._alike()
        return (view._with(view._rows[at : at + rows], view._inner) for at in range(0, max(len(view), 1), rows))

    def _batches(self) -> Iterator[range | Ints]:
        return (self._rows[at : at + BATCH] for at in range(0, len(self), BATCH))

    @property
    def ragged(self) -> Ragged:
        """The same samples, with lists in the place of arrays, so that they may differ in shape."""
        return Ragged(self)

    def to_dask(self, batch: int = BATCH) -> Any:
        """Return a Dask array, whose chunks are fetched when they are computed.

        A chunk holds at most ``batch`` samples, of one shard where the view is a slice.
        """
        import dask.array as da
        from dask import delayed

        shape, dtype, alike = self.shape, self.dtype, self._alike()
        parts = [
            da.from_delayed(delayed(np.asarray)(alike[start:stop]), (stop - start, *shape[1:]), dtype)
            for start, stop in self._chunks(batch)
        ]
        return da.concatenate(parts) if parts else da.empty(shape, dtype=dtype)

    def _chunks(self, batch: int) -> Iterator[tuple[int, int]]:
        """Yield the bounds of chunks."""
        rows, places = self._rows, [0, len(self)]
        if isinstance(rows, range) and rows:
            ends = np.cumsum(self.dataset.counts or [])
            first, step = (rows.start, rows.step) if rows.step > 0 else (rows[-1], -rows.step)
            inside = np.clip(-((first - ends) // step), 0, len(rows))  # samples of the slice before each end
            inside = inside if rows.step > 0 else len(rows) - inside
            places = np.unique([0, *inside.tolist(), len(rows)]).tolist()
        for start, stop in pairwise(places):
            yield from ((at, min(at + batch, stop)) for at in range(start, stop, batch))

    # --- reductions, which hold a few batches at a time

    def sum(self, axis: Any = None) -> Any:
        """Return the sum, as numpy computes it for the array of all samples."""
        return reductions.reduce(self, "sum", axis)

    def min(self, axis: Any = None) -> Any:
        """Return the least element."""
        return reductions.reduce(self, "min", axis)

    def max(self, axis: Any = None) -> Any:
        """Return the largest element."""
        return reductions.reduce(self, "max", axis)

    def any(self, axis: Any = None) -> Any:
        """Return whether any element is true."""
        return reductions.reduce(self, "any", axis)

    def all(self, axis: Any = None) -> Any:
        """Return whether all elements are true."""
        return reductions.reduce(self, "all", axis)

    def mean(self, axis: Any = None) -> Any:
        """Return the mean."""
        return reductions.moments(self, axis).mean

    def var(self, axis: Any = None, ddof: int = 0) -> Any:
        """Return the variance."""
        found = reductions.moments(self, axis)
        return found.squares / (found.count - ddof)

    def std(self, axis: Any = None, ddof: int = 0) -> Any:
        """Return the standard deviation."""
        return np.sqrt(self.var(axis, ddof))


class Ragged:
    """The samples of a view one by one: slices give lists."""

    def __init__(self, view: FieldView):
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._view)

    def __getitem__(self, index: Any) -> Any:
        """Return one value, or a list of some."""
        found = self._view[index]
        first = index[0] if isinstance(index, tuple) and index else index
        return found if isinstance(first, int | np.integer) else list(found)


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray | list) and np.asarray(part).dtype == bool and np.size(part) > 0


def _is_basic(part: Any) -> bool:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _is_full(part: Any) -> bool:
    return part is Ellipsis or (isinstance(part, slice) and part == slice(None))
