"""What numpy's functions and Python's operators do with a view, which is no array yet.

np.sum(view), 3 in view -> some samples at a time, whatever the size
view == 3, np.unique(view), view.tolist(), view.astype(float) -> loaded, up to `LOAD_LIMIT` decoded bytes
view + 1, np.sqrt(view) -> refused: the result would be as large again
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sized
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

LOAD_LIMIT = 1 << 30
"""Decoded bytes up to which a view is loaded where that was not asked for by ``np.asarray``: 1 GiB."""

_PIECE = 1 << 26
"""About how many decoded bytes are loaded at a time, until it is known that all are not too many."""

_ROWS = 256
"""Samples that are looked through at a time."""

Array = npt.NDArray[Any]

_COMPARISONS = frozenset((np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal))
_KNOWN: dict[Any, str] = {np.shape: "shape", np.ndim: "ndim", np.size: "size"}
_STREAMED: dict[Any, str] = {
    getattr(np, name): name for name in ("sum", "min", "max", "any", "all", "mean", "var", "std")
}


class ArrayLike(NDArrayOperatorsMixin):
    """A view's operators, of which those that load all of it do so up to `LOAD_LIMIT`."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """The number of axes."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all elements, decoded."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array: ...

    @abstractmethod
    def pieces(self, rows: int) -> Iterator[Self]:
        """Yield the view in parts of so many samples, at least one."""

    def load(self, what: str) -> Array:
        """Return all of it as an array, which ``what`` is done with.

        Raises:
            TypeError: it is larger than `LOAD_LIMIT`.
        """
        size = self.nbytes if len(self) else 0
        rows = max(1, _PIECE * len(self) // max(size, 1))
        total, parts = 0, []
        if size <= LOAD_LIMIT:
            for piece in self.pieces(rows):
                parts.append(np.asarray(piece))
                total += _nbytes(parts[-1])  # of text and other objects it is not known before
                if total > LOAD_LIMIT:
                    break
        if max(size, total) > LOAD_LIMIT:
            raise TypeError(
                f"{what} would load more than {LOAD_LIMIT:,} decoded bytes: take np.asarray of what you need first"
            )
        return np.concatenate(parts)

    def tolist(self) -> list[Any]:
        """Return all of it as a list, as numpy does.

        Raises:
            TypeError: it is larger than `LOAD_LIMIT`.
        """
        loaded: list[Any] = self.load("tolist").tolist()
        return loaded

    def astype(self, dtype: Any, **options: Any) -> Array:
        """Return all of it as an array of another type, as numpy does.

        Raises:
            TypeError: it is larger than `LOAD_LIMIT`.
        """
        return self.load("astype").astype(dtype, **options)

    def __bool__(self) -> bool:
        """Raise, as numpy does.

        Raises:
            ValueError: always.
        """
        raise ValueError("a view is neither true nor false: ask for len(view), view.any() or view.all()")

    def __contains__(self, value: object) -> bool:
        """Return whether any element is ``value``, as numpy does."""
        return any(bool(np.any(np.asarray(piece) == value)) for piece in self.pieces(_ROWS))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Do what can be done in a stream, and all else with the view loaded, if it is not too large."""
        if args and args[0] is self:
            if func in _KNOWN:
                return getattr(self, _KNOWN[func])
            if func in _STREAMED and len(args) < 3 and kwargs.keys() <= {"axis", "ddof"}:
                return getattr(self, _STREAMED[func])(*args[1:], **kwargs)
        given, named = _loaded((args, kwargs), f"np.{func.__name__}")
        return func(*given, **named)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Compare with the view loaded, if it is not too large; refuse all else."""
        if ufunc not in _COMPARISONS or method != "__call__" or "out" in kwargs:
            raise TypeError(f"np.{ufunc.__name__} would load all samples: take np.asarray of what you need first")
        return ufunc(*_loaded(inputs, f"np.{ufunc.__name__}"), **kwargs)


def _loaded(given: Any, what: str) -> Any:
    """Return arguments with arrays in the place of views, those in tuples, lists and dicts, too."""
    if isinstance(given, ArrayLike):
        return given.load(what)
    if isinstance(given, tuple | list):
        return type(given)([_loaded(part, what) for part in given])
    return {name: _loaded(part, what) for name, part in given.items()} if isinstance(given, dict) else given


def _nbytes(array: Array) -> int:
    """Return about how many bytes an array takes, with the objects in it."""
    objects = array.flat if array.dtype == object else ()
    return array.nbytes + sum(len(value) for value in objects if isinstance(value, Sized))
