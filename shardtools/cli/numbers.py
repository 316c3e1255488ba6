"""The types of options that are numbers: errors say what is accepted."""

from __future__ import annotations

import re
from typing import Any

import click


class Whole(click.ParamType[int]):
    """A whole number, of ``least`` or more, and ``most`` or less."""

    name = "whole number"

    def __init__(self, least: int | None = None, most: int | None = None):
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        least, most = self._least, self._most
        bounds = "" if least is None else f" of {least} or more" if most is None else f" from {least} to {most}"
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or (least is not None and number < least) or (most is not None and number > most):
            self.fail(f"{value} is not a whole number{bounds}.", param, ctx)
        return number


class Seconds(click.ParamType[float]):
    """A number of seconds; 0 only with ``zero``."""

    name = "seconds"

    def __init__(self, *, zero: bool = False):
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not (number > 0 or (number == 0 and self._zero)):
            self.fail(f"{value} is not a number of seconds, such as 0.5 or 60.", param, ctx)
        return number


class SampleShare(click.ParamType[float]):
    """A share of samples: more than 0, and at most 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            self.fail(f"{value} is not a share, which is a number from 0 to 1, such as 0.01.", param, ctx)
        return number


class ShareOrKey(click.ParamType[float | str]):
    """A share, written with a decimal point, or a key, the last part of which has no point. ``50%`` is neither."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return a number for a share, and a text for a key."""
        if isinstance(value, str) and not re.fullmatch(r"[0-9]*\.[0-9]+|[0-9.]+%", value):
            return value
        return SampleShare().convert(value, param, ctx)
