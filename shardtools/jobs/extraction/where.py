"""A condition on one field of a sample: ``cls == 7``, ``json.size < 0.5``, ``key >= train/5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shardtools.errors import JobError

_FORM = re.compile(r"\s*([^\s=!<>]+)\s*(==|!=|<=|>=|<|>)\s*(.*?)\s*", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """The comparison ``field compare value``; the field may be ``"key"``. A number is compared with numbers only."""

    field: str
    compare: str
    value: str | float

    def holds(self, data: bytes) -> bool:
        """Return whether the condition is true of the field's bytes; comparing text with a number gives False.

        >>> parse_condition("cls >= 7").holds(b"10"), parse_condition("cls >= 7").holds(b"cat")
        (True, False)
        """
        found: str | float
        try:
            found = data.decode().strip()
            if isinstance(self.value, float):
                found = float(found)
        except ValueError:
            return False
        return _COMPARE[self.compare](found, self.value)


def parse_condition(text: str) -> Condition:
    """Return the condition that is written as ``FIELD OP VALUE``, with OP one of ``== != < <= > >=``.

    A VALUE in quotes is text, even one that looks like a number.

    Raises:
        JobError: it is not written like that.

    >>> parse_condition("cls == 7"), parse_condition("txt != '7'")
    (Condition(field='cls', compare='==', value=7.0), Condition(field='txt', compare='!=', value='7'))
    """
    match = _FORM.fullmatch(text)
    if match is None or not match[3]:
        raise JobError(f"{text!r} is not a condition", fix="write it as in 'cls == 7' or 'txt != cat'")
    field, compare, value = match.groups()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return Condition(field, compare, value[1:-1])
    try:
        return Condition(field, compare, float(value))
    except ValueError:
        return Condition(field, compare, value)
