"""The types of columns: what a column of one shard holds, and of what type it is when several shards have it.

``bool``, ``int`` (64 bits), ``huge`` (an integer that needs more), ``float`` and ``text``. A column that holds several
of these is a float if it has only numbers, and text otherwise. A float would change integers beyond 2**53, so a column
that has these and floats is text, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["bool", "int", "huge", "float", "text"]

SQL_TYPES: dict[Kind, str] = {
    "bool": "BOOLEAN",
    "int": "BIGINT",
    "huge": "DECIMAL(38, 0)",
    "float": "DOUBLE",
    "text": "VARCHAR",
}
"""The type of each kind in SQL."""

EXACT = 1 << 53
"""Up to here a float holds every integer."""


@dataclass(frozen=True)
class Kinds:
    """The kinds of values that a column has; ``wide`` if it has integers that a float does not hold."""

    found: frozenset[Kind] = frozenset()
    wide: bool = False

    @property
    def kind(self) -> Kind:
        """The kind of the whole column; text if it has no values.

        >>> [Kinds(frozenset(kinds)).kind for kinds in (["int"], ["int", "float"], ["int", "text"], [])]
        ['int', 'float', 'text', 'text']
        >>> Kinds(frozenset(["int", "float"]), wide=True).kind
        'text'
        """
        found = self.found
        if len(found) == 1:
            return next(iter(found))
        if found and found <= {"int", "huge"}:
            return "huge"
        if found and found <= {"int", "huge", "float"}:
            return "text" if self.wide else "float"
        return "text"

    @classmethod
    def of_integers(cls, low: int, high: int) -> Kinds:
        """Return the kinds of a column of integers from ``low`` to ``high``.

        >>> Kinds.of_integers(0, 255).kind, Kinds.of_integers(0, 1 << 63).kind
        ('int', 'huge')
        """
        kind: Kind = "int" if low >= -(1 << 63) and high < 1 << 63 else "huge"
        return cls(frozenset((kind,)), wide=max(-low, high) > EXACT)

    @classmethod
    def join(cls, parts: Iterable[Kinds]) -> Kinds:
        """Return the kinds of a column whose parts have these."""
        parts = list(parts)
        return cls(frozenset[Kind]().union(*(part.found for part in parts)), any(part.wide for part in parts))
