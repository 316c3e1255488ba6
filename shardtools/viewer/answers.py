"""What the server answers: bytes with a type, JSON, or an error as one line; and the parameters of requests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardtools.errors import (
    AccessError,
    FieldError,
    JobError,
    LimitError,
    NotFoundError,
    ShardtoolsError,
    SpecError,
)

JSON = "application/json; charset=utf-8"
BYTES = "application/octet-stream"

_EXACT = 1 << 53  # integers up to which JavaScript is exact


class AskedError(ShardtoolsError):
    """A request cannot be answered: ``status`` is that of HTTP."""

    def __init__(self, what: str, status: int = 400, fix: str | None = None):
        super().__init__(what, fix=fix)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.status, self.fix)


@dataclass(frozen=True)
class HttpAnswer:
    """The ``body`` of an answer, its media type, status and further headers."""

    body: bytes
    type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_json(value: object, status: int = 200) -> HttpAnswer:
    """Return a value as JSON that every browser reads: without NaN, and without halves of characters."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return HttpAnswer(text.encode("utf-8", "replace"), status=status)


def answer_error(error: ShardtoolsError) -> HttpAnswer:
    """Return an error as one line, with its status."""
    return answer_json({"error": str(error)}, status_of(error))


def status_of(error: ShardtoolsError) -> int:
    """Return the status of an error.

    >>> status_of(NotFoundError("there is none")), status_of(LimitError("too large"))
    (404, 413)
    """
    if isinstance(error, AskedError):
        return error.status
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return 502


_STATUSES: Sequence[tuple[type[ShardtoolsError], int]] = (
    (NotFoundError, 404),
    (AccessError, 403),
    (LimitError, 413),
    (FieldError, 422),
    (SpecError, 400),
    (JobError, 400),
)


def plain(value: Any) -> Any:
    """Return a value as JSON can have it. Integers that JavaScript would round are texts, and what is no number null.

    >>> plain({"a": [1, 2**60, float("nan")], "b": b"ab"})
    {'a': [1, '1152921504606846976', None], 'b': 'ab'}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -_EXACT < value < _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request. A missing or empty one has the default, one that is not valid is an error."""

    values: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        return self.values.get(name) or default

    def required(self, name: str) -> str:
        """Return a text that must be there.

        Raises:
            AskedError: it is not.
        """
        if not (found := self.text(name)):
            raise AskedError(f"the parameter {name} is missing")
        return found

    def number(
        self, name: str, default: int | None = None, low: int = 0, high: int = (1 << 62), *, last: int | None = None
    ) -> int:
        """Return a whole number from ``low`` to ``high``; without a default it must be there.

        An error says ``last``, if it is not None, for the highest number that makes sense.

        Raises:
            AskedError: it is none.
        """
        text = self.text(name)
        if not text and default is not None:
            return default
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and low <= int(text) <= high):
            raise AskedError(f"{name} must be a number from {low:,} to {high if last is None else last:,}")
        return int(text)

    def numbers(self, name: str) -> list[int]:
        """Return whole numbers that commas separate.

        Raises:
            AskedError: they are none.
        """
        parts = [part for part in self.text(name).split(",") if part]
        return [Parameters({name: part}).number(name, low=-(1 << 40), high=1 << 40) for part in parts]
