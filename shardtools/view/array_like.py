"""numpy's functions and Python's operators on a view, whose samples are not loaded yet.

np.sum(view), 3 in view -> computed in batches, for views of any size
view == 3, np.unique(view), view.tolist(), view.astype(float) -> the view is loaded, up to `LOAD_LIMIT` decoded bytes
view + 1, np.sqrt(view) -> TypeError: the result would be as large as all samples
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

LOAD_LIMIT = 1 << 30
"""Decoded bytes up to which a view is loaded without a call of ``np.asarray``: 1 GiB."""

_PIECE = 1 << 26
"""About how many decoded bytes `ArrayLike.load` loads at a time."""

_BATCH = 256
"""Samples that ``in`` compares at a time."""

Array = npt.NDArray[Any]

_COMPARISONS = frozenset((np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal))
_ATTRIBUTES: dict[Any, str] = {np.shape: "shape", np.ndim: "ndim", np.size: "size"}
_REDUCTIONS: dict[Any, str] = {
    getattr(np, name): name for name in ("sum", "min", "max", "any", "all", "mean", "var", "std")
}


class ArrayLike(NDArrayOperatorsMixin):
    """The operators of a view. Those that load the view do so up to `LOAD_LIMIT`."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """The number of axes."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The bytes of all elements, decoded."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array: ...

    @abstractmethod
    def pieces(self, size: int) -> Iterator[ArrayLike]:
        """Yield the view in parts of ``size`` samples; an empty view as one empty part."""

    def load(self, what: str) -> Array:
        """Return the view as an array. ``what`` is the name of the operation, for the error.

        Raises:
            TypeError: the view is larger than `LOAD_LIMIT`.
        """
        nbytes = self.nbytes if len(self) else 0
        total, parts = 0, []
        if nbytes <= LOAD_LIMIT:
            for piece in self.pieces(max(1, _PIECE * len(self) // max(nbytes, 1))):
                parts.append(np.asarray(piece))
                total += _nbytes(parts[-1])  # for text and other objects the size is not known before
                if total > LOAD_LIMIT:
                    break
        if max(nbytes, total) > LOAD_LIMIT:
            raise TypeError(
                f"{what} would load more than {LOAD_LIMIT:,} decoded bytes: take np.asarray of what you need first"
            )
        return np.concatenate(parts)

    def tolist(self) -> list[Any]:
        """Return the view as a list, as numpy does.

        Raises:
            TypeError: the view is larger than `LOAD_LIMIT`.
        """
        loaded: list[Any] = self.load("tolist").tolist()
        return loaded

    def astype(self, dtype: Any, **options: Any) -> Array:
        """Return the view as an array of another type, as numpy does.

        Raises:
            TypeError: the view is larger than `LOAD_LIMIT`.
        """
        return self.load("astype").astype(dtype, **options)

    def __bool__(self) -> bool:
        """Raise, as numpy does.

        Raises:
            ValueError: always.
        """
        raise ValueError("the truth value is ambiguous: use len(), any() or all()")

    def __contains__(self, value: object) -> bool:
        """Return whether any element equals ``value``, as numpy does."""
        return any(bool(np.any(np.asarray(piece) == value)) for piece in self.pieces(_BATCH))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Run a reduction in batches; load the view for every other function, up to `LOAD_LIMIT`."""
        if args and args[0] is self:
            if func in _ATTRIBUTES:
                return getattr(self, _ATTRIBUTES[func])
            if func in _REDUCTIONS and len(args) < 3 and kwargs.keys() <= {"axis", "ddof"}:
                return getattr(self, _REDUCTIONS[func])(*args[1:], **kwargs)
        arguments, options = _loaded((args, kwargs), f"np.{func.__name__}")
        return func(*arguments, **options)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Load the view for a comparison, up to `LOAD_LIMIT`; raise for every other operation."""
        if ufunc not in _COMPARISONS or method != "__call__" or "out" in kwargs:
            raise TypeError(f"np.{ufunc.__name__} would load all of it: take np.asarray of what you need first")
        return ufunc(*_loaded(inputs, f"np.{ufunc.__name__}"), **kwargs)


def _loaded(value: Any, what: str) -> Any:
    """Return a value with its views loaded, also those inside tuples, lists and dicts."""
    if isinstance(value, ArrayLike):
        return value.load(what)
    if isinstance(value, tuple | list):
        return type(value)([_loaded(part, what) for part in value])
    return {name: _loaded(part, what) for name, part in value.items()} if isinstance(value, dict) else value


def _nbytes(array: Array) -> int:
    """Return about how many bytes an array takes, with the objects that it holds."""
    objects = array.flat if array.dtype == object else ()
    return array.nbytes + sum(len(value) for value in objects if isinstance(value, Sized))
