"""What functions take of their sources: the keywords of a choice, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TypedDict

from shardtools.errors import JobError
from shardtools.jobs.choice import Choice
from shardtools.shards.names import is_field, names_of


class ChoiceKeywords(TypedDict, total=False):
    """Which samples and fields a function takes of its sources.

    ``where``: only samples for which this condition is true, a boolean expression in DuckDB's SQL, as
    ``"cls = 7 and json.width >= 512"``.
    ``fields``, ``drop``: only these fields, or all but these. A sample that has none of them is left out.
    ``rename``: new names of fields by their old ones.
    ``sample``: only this share of the samples, such as 0.01; which, depends on ``seed`` and their keys alone.
    ``limit``: only the first so many of the samples that are chosen.
    ``class_from``: the texts of this field, or at this path of JSON, become class numbers, as the field cls. The names
    of the classes, which are sorted, are in the manifest.
    """

    where: str | None
    fields: str | Sequence[str]
    drop: str | Sequence[str]
    rename: Mapping[str, str] | None
    limit: int | None
    sample: float | None
    class_from: str | None


def choice_of(
    *,
    where: str | None = None,
    fields: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    limit: int | None = None,
    sample: float | None = None,
    seed: int | None = None,
    class_from: str | None = None,
) -> Choice:
    """Return what is taken of the sources.

    Raises:
        JobError: it makes no sense.

    >>> choice_of(fields="jpg", rename={"JPG": "jpg"}, limit=3).facts()
    {'fields': ['jpg'], 'rename': [['JPG', 'jpg']], 'limit': 3}
    """
    from shardtools.programs.running import at_least, pairs_of

    if sample is not None and (not isinstance(sample, Real) or isinstance(sample, bool) or not 0 < sample <= 1):
        raise JobError(f"--sample {sample}: not a share", fix="give a number from 0 to 1, such as 0.01")
    at_least("limit", limit, 1)
    at_least("seed", seed, 0)
    kept, dropped, pairs = names_of(fields), names_of(drop), pairs_of("rename", rename)
    if both := {*kept} & {*dropped}:
        raise JobError(f"the field {min(both)} is kept and dropped", fix="name it with --fields or --drop")
    if len({old for old, _ in pairs}) < len(pairs) or len({new for _, new in pairs}) < len(pairs):
        raise JobError("--rename names a field twice", fix="give each field one name of its own")
    for _, name in pairs:
        if not is_field(name):
            raise JobError(f"--rename: {name!r} is not a valid name of a field", fix="name fields like png or seg.png")
    if where is not None and not isinstance(where, str):
        raise JobError(f"where is of type {type(where).__name__}", fix="give a condition as text")
    condition = None
    if where is not None:
        from shardtools.query.condition import parse_condition

        condition = parse_condition(where)
    share = None if sample is None else float(sample)
    return Choice(condition, kept, dropped, pairs, limit, share, seed or 0, class_from)
