"""The options that say what a command takes of its sources: which samples, and which of their fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from shardtools.cli.numbers import SampleShare, Whole
from shardtools.cli.options import Function, add_options, once, split_names
from shardtools.errors import JobError

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.sources.opening import Pairs

WHERE_OPTION = click.option(
    "--where",
    **once("join conditions by and"),
    metavar="CONDITION",
    help='Only samples for which a condition is true, such as "cls = 7 and json.width >= 512": an expression in '
    "DuckDB's SQL of fields, paths of JSON fields, key, row, shard, and size.FIELD.",
)
LIMIT_OPTION = click.option(
    "--limit", type=Whole(least=1), metavar="N", help="Only the first N of the samples that are chosen."
)
SAMPLE_OPTION = click.option(
    "--sample",
    type=SampleShare(),
    metavar="SHARE",
    help="Only this share of the samples, such as 0.01. It depends on --seed and their keys alone.",
)
SEED_OPTION = click.option("--seed", type=Whole(least=0), metavar="N", help="Seed of --sample.  [default: 0]")
CLASS_OPTION = click.option(
    "--class-from",
    **once("one field has the class"),
    metavar="FIELD",
    help="Make class numbers of the texts of a field, or at a path such as json.label, as the field cls. The manifest "
    "has the names of the classes, sorted.",
)
CHOICE_OPTIONS = [
    CLASS_OPTION,
    WHERE_OPTION,
    click.option(
        "-f",
        "--fields",
        "--field",
        "fields",
        multiple=True,
        metavar="FIELD,...",
        help="Only these fields, such as jpg,cls; may be repeated.",
    ),
    click.option("--drop", multiple=True, metavar="FIELD,...", help="Leave out these fields; may be repeated."),
    click.option(
        "--rename",
        multiple=True,
        metavar="OLD=NEW,...",
        help="Give fields other names, as in JPG=jpg,TXT=txt; may be repeated.",
    ),
    LIMIT_OPTION,
    SAMPLE_OPTION,
    SEED_OPTION,
]
"""What a command takes of its sources."""


@dataclass(frozen=True)
class ChoiceLine:
    """The options that say what a command takes of its sources, as they were typed."""

    where: str | None
    fields: tuple[str, ...]
    drop: tuple[str, ...]
    rename: tuple[str, ...]
    limit: int | None
    sample: float | str | None
    seed: int | None
    class_from: str | None = field(default=None, kw_only=True)

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return split_names(self.fields)

    def choice(self) -> Choice:
        """Return what is taken of the sources.

        Raises:
            JobError: it makes no sense.
        """
        from shardtools.programs.choosing import choice_of

        return choice_of(
            where=self.where,
            fields=self.field_names,
            drop=split_names(self.drop),
            rename=dict(split_pairs("--rename", "OLD=NEW", split_names(self.rename))),
            limit=self.limit,
            sample=self.sample if isinstance(self.sample, float) else None,
            seed=self.seed,
            class_from=self.class_from,
        )


def split_pairs(option: str, form: str, texts: Iterable[str]) -> Pairs:
    """Return what stands before and after the first = of each text.

    Raises:
        JobError: there is none, or nothing there.
    """
    pairs = []
    for text in texts:
        before, equals, after = text.partition("=")
        if not (before and equals and after):
            raise JobError(f"{option} {text}: not of the form {form}", fix=f"write it as {option} {form}")
        pairs.append((before, after))
    return tuple(pairs)


def choice_options(command: Function) -> Function:
    """Add the options that say what a command takes of its sources; it gets them as ``chosen``."""
    return add_options(command, "chosen", ChoiceLine, CHOICE_OPTIONS)
