"""One field of all samples as a lazy array: only the samples that are used are fetched and decoded.

    view[...] -> indexes of samples, cuts of each sample -> bytes -> decoded and cut, in threads -> stacked

The first axis is the samples. Slices, lists of indexes and masks of the first axis, and basic indexing of the other
axes, return views. A single index of the first axis, and ``np.asarray``, return arrays. Samples are cut before they are
stacked, so that their shapes may differ if the shapes of the cuts do not.

An operation that needs all samples in memory is an error beyond a limit (see ``array_like.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.dataset.indexes import normalize
from shardtools.dataset.notebook import PICTURES, view_html
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import FieldError, SampleError
from shardtools.processors import processors
from shardtools.shards.fields import decode as decode_field
from shardtools.shards.fields import decode_by, extension, kind_of
from shardtools.shards.names import name_hint
from shardtools.storage import follow, using
from shardtools.types import Ints
from shardtools.view.index_parts import is_basic, is_full, is_mask
from shardtools.view.ragged import Ragged
from shardtools.view.reducible import Reducible
from shardtools.view.stacking import UnequalShapes, as_array, resized, stack

BATCH = 256
"""Samples that are fetched at a time by an iteration, and in a chunk of Dask."""

Array = npt.NDArray[Any]
Decode = Callable[[bytes], Any]


class FieldView(Reducible):
    """The field ``field`` of the samples of a dataset.

    ``decode`` is "auto", a function of bytes, or None for bytes. "auto" decodes by the field's extension: images, npy
    and numbers to arrays, JSON and text to objects. ``resize=(height, width)`` resizes all images. ``shape``, ``dtype``
    and ``ndim`` are those of the first sample, which is fetched for them. To read a sample of another shape raises
    `SampleError`.

    Comparisons such as ``view == 3``, numpy's functions such as ``np.unique(view)``, `tolist` and `astype` load the
    view, up to `array_like.LOAD_LIMIT` (1 GiB) of decoded bytes. ``3 in view`` and reductions such as `sum` work in
    batches, for views of any size.

    Raises:
        ValueError: ``decode`` or ``resize`` is not valid for this field.
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
            raise ValueError(f"decode must be 'auto', None or a function, not {decode!r}")
        if resize is not None and (decode != "auto" or kind_of(extension(field)) != "image"):
            raise ValueError("resize is for images that are decoded with decode='auto'")
        self.dataset = dataset
        self.field = field
        self._decode = decode
        self._resize = resize
        self._indexes: range | Ints = range(len(dataset))
        self._cut_by: tuple[Any, ...] = ()
        self._first: Array | None = None
        self._like: tuple[int, tuple[int, ...]] | None = None

    def _with(self, indexes: range | Ints, cut_by: tuple[Any, ...]) -> FieldView:
        view = FieldView.__new__(FieldView)
        view.__dict__.update(self.__dict__)
        view._indexes, view._cut_by = indexes, cut_by
        same_cut = cut_by == self._cut_by
        same_first = same_cut and len(indexes) > 0 and len(self._indexes) > 0 and indexes[0] == self._indexes[0]
        view._first = self._first if same_first else None
        view._like = self._like if same_cut else None
        return view

    def _alike(self) -> FieldView:
        """Return the view, with every part of it checked against the shape of the view's first sample."""
        view = self._with(self._indexes, self._cut_by)
        if len(self._indexes):
            view._like = int(self._indexes[0]), self._example().shape
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_first": None}

    # --- shape and type

    def _example(self) -> Array:
        """Return the first sample, from which the shape and type are known.

        Raises:
            IndexError: the dataset has no samples.
        """
        if self._first is None:
            if not len(self.dataset):
                raise IndexError("the shape is unknown: the dataset has no samples")
            indexes = self._indexes if len(self._indexes) else range(1)
            [self._first] = self._cuts(np.array([indexes[0]]))
        return self._first

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of samples, and the shape of the first sample."""
        return (len(self._indexes), *self._example().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the first sample."""
        return self._example().dtype

    @property
    def ndim(self) -> int:
        """The number of axes, with that of the samples."""
        return 1 + self._example().ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The bytes of all elements, decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._indexes)

    def __repr__(self) -> str:
        return f"<FieldView {self.field!r} of {len(self):,} samples of {self.dataset.shown_spec}>"

    def _repr_html_(self) -> str:
        facts = {"samples": f"{len(self):,}", "dataset": self.dataset.shown_spec}
        if self._first is not None:
            facts["first sample"] = f"{self._first.dtype}, shape {self._first.shape}"
        is_whole = self._decode == "auto" and not self._cut_by
        indexes = np.asarray(self._indexes[:PICTURES], np.int64)
        return view_html(self.dataset, f"FieldView {self.field!r}", facts, self.field if is_whole else None, indexes)

    # --- decoding

    def _fetch(self, indexes: Ints) -> list[Any]:
        """Return the decoded values of samples of the dataset.

        Raises:
            SampleError: a sample does not have the field.
            FieldError: a value cannot be decoded.
        """
        values = self.dataset.values(self.field, indexes)
        samples = indexes.tolist()
        if (missing := next((i for i, data in enumerate(values) if data is None), None)) is not None:
            key = self.dataset[samples[missing]]["key"]
            known = self.dataset.known_fields
            fix = "choose other samples" if self.field in known or not known else f"there are {', '.join(known)}"
            fix = name_hint(self.field, known) or fix
            raise SampleError(f"sample {samples[missing]:,} has no {self.field}", member=key, fix=fix)
        options = self.dataset.options
        if len(values) < 4:
            with using(options):
                return [self._value(data, index) for data, index in zip(values, samples, strict=True)]
        with ThreadPoolExecutor(processors(), "shardtools-decode", follow, (options,)) as pool:
            return list(pool.map(self._value, values, samples))

    def _value(self, data: bytes | None, index: int) -> Any:
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
            record = self.dataset[index]
            fix = error.fix or "correct the value, or choose other samples"
            raise FieldError(error.what, url=record.url, member=f"{record['key']}.{self.field}", fix=fix) from error

    def _cut(self, value: Any, index: int) -> Array:
        """Return the part of a sample that the view's indexing selects.

        Raises:
            IndexError: the sample has no such part.
        """
        array = as_array(value)
        for cut in self._cut_by:
            try:
                array = array[cut if any(part is Ellipsis for part in cut) else (*cut, ...)]
            except IndexError as error:
                raise IndexError(f"sample {index:,}: {error}") from error
        return array

    def _cuts(self, indexes: Ints) -> list[Array]:
        """Return the selected parts of samples of the dataset."""
        return [self._cut(value, index) for value, index in zip(self._fetch(indexes), indexes.tolist(), strict=True)]

    def _load(self, samples: range | Ints) -> Array:
        """Return samples of the dataset as one array.

        Raises:
            SampleError: their shapes differ.
        """
        indexes = np.asarray(samples, np.int64)
        if not len(indexes):
            example = self._example()
            return np.empty((0, *example.shape), example.dtype)
        unique, places = np.unique(indexes, return_inverse=True)
        try:
            loaded = stack(self._cuts(unique))
        except UnequalShapes as error:
            raise self._unequal(unique[error.first], unique[error.second], error.shapes) from None
        if self._like is not None and loaded.shape[1:] != self._like[1]:
            raise self._unequal(self._like[0], unique[0], (self._like[1], loaded.shape[1:]))
        return loaded if np.array_equal(unique, indexes) else loaded[places]

    def _unequal(self, one: int, other: int, shapes: tuple[Any, Any]) -> SampleError:
        what = f"samples {one:,} and {other:,} have the shapes {shapes[0]} and {shapes[1]}"
        fix = "use view.ragged, or resize=(height, width); with htarray --resize HxW"
        return SampleError(what, member=self.field, fix=fix)

    # --- indexing

    def __getitem__(self, index: Any) -> Any:
        """Return a view, a sample's value for a single index of the first axis, or an array for arrays of several axes.

        The result is that of numpy for the array of all samples, except that ``None`` is not allowed before the first
        axis.

        Raises:
            IndexError: an index is out of range, or not allowed.
        """
        parts = index if isinstance(index, tuple) else (index,)
        first, rest = self._part(parts)
        if isinstance(first, int | np.integer) and not isinstance(first, bool | np.bool_):
            return self._single(int(first), rest)
        if isinstance(first, slice):
            samples = self._indexes[first]
            if all(is_basic(part) for part in rest):
                return self._narrowed(samples, rest)
            return self._load(samples)[(slice(None), *rest)]
        indexes = normalize(first, len(self))
        if indexes.ndim == 1 and all(is_basic(part) for part in rest):
            return self._narrowed(np.asarray(self._indexes, np.int64)[indexes], rest)
        unique, places = np.unique(indexes, return_inverse=True)
        loaded = self._load(np.asarray(self._indexes, np.int64)[unique])
        return loaded[(places.reshape(indexes.shape), *rest)]

    def _part(self, parts: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Return the index of the first axis, and those of the other axes."""
        if not parts:
            return slice(None), ()
        if parts[0] is None:
            raise IndexError("None is not allowed before the axis of samples: take np.asarray of a slice first")
        if parts[0] is Ellipsis:
            if any(part is Ellipsis for part in parts[1:]):
                raise IndexError("an index can only have a single ellipsis ('...')")
            used = sum(1 if not is_mask(part) else np.ndim(part) for part in parts[1:] if part is not None)
            if used == self.ndim and parts[1:] and parts[1] is not None:
                return parts[1], parts[2:]
            if used > self.ndim - 1:
                raise IndexError(f"too many indices: the view has {self.ndim} axes")
            return slice(None), parts
        if is_mask(parts[0]) and np.ndim(parts[0]) != 1:
            raise IndexError("a mask over several axes would load all samples: take np.asarray of a slice first")
        return parts[0], parts[1:]

    def _single(self, index: int, rest: tuple[Any, ...]) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of bounds for axis 0 with size {len(self)}")
        sample = np.array([self._indexes[index]])
        if not rest and not self._cut_by:
            return self._fetch(sample)[0]
        [array] = self._cuts(sample)
        return array[np.newaxis][(0, *rest)] if rest else array[()]

    def _narrowed(self, samples: range | Ints, rest: tuple[Any, ...]) -> FieldView:
        if not any(not is_full(part) for part in rest):
            return self._with(samples, self._cut_by)
        example = self._example()
        # This raises IndexError as numpy does.
        np.broadcast_to(np.empty((), example.dtype), (1, *example.shape))[(slice(None), *rest)]
        return self._with(samples, (*self._cut_by, rest))

    # --- as arrays

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the view as a new array.

        Raises:
            SampleError: a sample does not have the field, or the shapes differ.
            FieldError: a value cannot be decoded.
            ValueError: ``copy`` is False.
        """
        if copy is False:
            raise ValueError("an array of a view is always a copy")
        loaded = self._load(self._indexes)
        return loaded if dtype is None else loaded.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        """Yield the value of each sample, fetched in batches."""
        for batch in self._batches():
            indexes = np.asarray(batch, np.int64)
            yield from self._fetch(indexes) if not self._cut_by else (array[()] for array in self._cuts(indexes))

    def pieces(self, size: int) -> Iterator[FieldView]:
        """Yield the view in parts of ``size`` samples, all of one shape; an empty view as one empty part."""
        view = self._alike()
        return (view._with(view._indexes[at : at + size], view._cut_by) for at in range(0, max(len(view), 1), size))

    def _batches(self) -> Iterator[range | Ints]:
        return (self._indexes[at : at + BATCH] for at in range(0, len(self), BATCH))

    @property
    def ragged(self) -> Ragged:
        """The same samples as lists instead of arrays, so that their shapes may differ."""
        return Ragged(self)

    def to_dask(self, batch: int = BATCH) -> Any:
        """Return a Dask array. Its chunks are fetched when they are computed.

        A chunk has at most ``batch`` samples. If the view is a slice, they are all of one shard.
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
        """Yield the start and stop of each chunk."""
        indexes, bounds = self._indexes, [0, len(self)]
        if isinstance(indexes, range) and indexes:
            ends = np.cumsum(self.dataset.counts or [])
            first, step = (indexes.start, indexes.step) if indexes.step > 0 else (indexes[-1], -indexes.step)
            # The number of the view's samples before each end of a shard.
            inside = np.clip(-((first - ends) // step), 0, len(indexes))
            inside = inside if indexes.step > 0 else len(indexes) - inside
            bounds = np.unique([0, *inside.tolist(), len(indexes)]).tolist()
        for start, stop in pairwise(bounds):
            yield from ((at, min(at + batch, stop)) for at in range(start, stop, batch))
