"""One field of all samples as something like a numpy array, of which only what is used is fetched and decoded.

    view[index] -> rows of the first axis, and what is left for numpy -> bytes -> decoded, in threads -> array or view

The first axis is that of samples. A view is lazy: slices, lists of numbers and masks of the first axis, and basic
indices of the others, give views; one number of the first axis, and ``np.asarray``, give arrays. Whatever cannot be
done without holding all of it is refused, rather than done in secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.dataset import ShardedDataset, normalize
from shardtools.errors import FieldError, SampleError
from shardtools.processors import processors
from shardtools.shards.fields import decode as decode_field
from shardtools.shards.fields import decode_by, extension
from shardtools.shards.tar import Ints
from shardtools.view import reductions
from shardtools.view.stacking import UnequalShapes, resized, stack

BATCH = 256
"""Samples that a reduction or an iteration fetches at a time."""

_IMAGES = frozenset(("png", "jpg", "jpeg", "webp", "bmp", "ppm", "pgm", "tif", "tiff"))

Array = npt.NDArray[Any]
Decode = Callable[[bytes], Any]


class FieldView:
    """The field ``field`` of the samples of a dataset.

    ``decode`` is "auto" (by the field's extension: images, npy and numbers as arrays, json and text as objects), a
    function of bytes, or None for bytes. ``resize`` = (height, width) makes images of one size. ``shape``, ``dtype``
    and ``ndim`` are those of the first sample, and cost a look at it; a sample of another shape is an error when it
    comes.
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
        if resize is not None and (decode != "auto" or extension(field) not in _IMAGES):
            raise ValueError("resize is for images that are decoded by their extension")
        self.dataset = dataset
        self.field = field
        self._decode = decode
        self._resize = resize
        self._rows: range | Ints = range(len(dataset))
        self._inner: tuple[Any, ...] = ()
        self._first: Array | None = None

    def _with(self, rows: range | Ints, inner: tuple[Any, ...]) -> FieldView:
        view = FieldView.__new__(FieldView)
        view.__dict__.update(self.__dict__)
        view._rows, view._inner = rows, inner
        view._first = self._first if inner == self._inner else None
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
            self._first = self._apply(self._fetch(np.array([rows[0]])))[0]
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
        return f"<FieldView {self.field!r} of {len(self):,} samples of {self.dataset.spec!r}>"

    # --- decoding

    def _fetch(self, rows: Ints) -> list[Any]:
        """Return the decoded values of samples, by their numbers in the dataset."""
        found = self.dataset.values(self.field, rows)
        numbers = rows.tolist()
        if (lacking := next((i for i, data in enumerate(found) if data is None), None)) is not None:
            key = self.dataset[numbers[lacking]]["key"]
            raise SampleError(
                f"sample {numbers[lacking]:,} has no {self.field}", member=key, fix="choose other samples"
            )
        if len(found) < 4:
            return [self._value(data, number) for data, number in zip(found, numbers, strict=True)]
        with ThreadPoolExecutor(processors(), "shardtools-decode") as pool:
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

    def _apply(self, values: Sequence[Any]) -> Array:
        """Return values as one array, and what was asked for of it."""
        stacked = stack(values)
        for index in self._inner:
            stacked = stacked[(slice(None), *index)]
        return stacked

    def _load(self, rows: range | Ints) -> Array:
        """Return samples as one array."""
        numbers = np.asarray(rows, np.int64)
        if not len(numbers):
            example = self._example()
            return np.empty((0, *example.shape), example.dtype)
        unique, places = np.unique(numbers, return_inverse=True)
        try:
            loaded = self._apply(self._fetch(unique))
        except UnequalShapes as error:
            a, b = unique[error.first], unique[error.second]
            what = f"samples {a:,} and {b:,} have the shapes {error.shapes[0]} and {error.shapes[1]}"
            raise SampleError(what, member=self.field, fix="use view.ragged, or resize=(height, width)") from None
        return loaded if np.array_equal(unique, numbers) else loaded[places]

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
        if numbers.ndim == 1 and all(_is_full(part) for part in rest):
            return self._narrowed(np.asarray(self._rows, np.int64)[numbers], ())
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
        [value] = self._fetch(np.array([self._rows[number]]))
        if not rest and not self._inner:
            return value
        array = self._apply([value])[0]
        return array[rest] if rest else array

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
            values = self._fetch(np.asarray(rows, np.int64))
            yield from values if not self._inner else (self._apply([value])[0] for value in values)

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

        shape, dtype = self.shape, self.dtype
        parts = [
            da.from_delayed(delayed(np.asarray)(self[start:stop]), (stop - start, *shape[1:]), dtype)
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

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Do what can be done in a stream; refuse what would load all samples without saying so."""
        if func in _KNOWN and args and args[0] is self:
            return getattr(self, _KNOWN[func])
        name = _STREAMED.get(func)
        if name is None or not args or args[0] is not self:
            raise TypeError(f"np.{func.__name__} would load all samples: take np.asarray of what you need first")
        return getattr(self, name)(*args[1:], **kwargs)

    __array_ufunc__ = None  # arithmetic would load all samples, too


_KNOWN: dict[Any, str] = {np.shape: "shape", np.ndim: "ndim", np.size: "size"}
_STREAMED: dict[Any, str] = {
    getattr(np, name): name for name in ("sum", "min", "max", "any", "all", "mean", "var", "std")
}


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
        if isinstance(index, int | np.integer):
            return self._view[index]
        return list(self._view[index])


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray | list) and np.asarray(part).dtype == bool and np.size(part) > 0


def _is_basic(part: Any) -> bool:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _is_full(part: Any) -> bool:
    return part is Ellipsis or (isinstance(part, slice) and part == slice(None))
