"""Options that would have no effect: refused in one place for all programs, by what else was typed.

what was typed -> the rules of the program -> an error in one line, which says what an option goes with
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import click
from click.core import ParameterSource

from shardtools.errors import JobError

Rules = Mapping[str, tuple[str, ...]]

ALL: Rules = {"wait": ("cluster",), "table_fields": ("table",), "dimensions": ("table",)}
"""The options of all programs that need one of others."""

NEEDS: Mapping[str, Rules] = {
    "htmapper": {"seed": ("sample",)},
    "htextract": {
        "assignments": ("script",),
        "bins": ("histogram",),
        "decode": ("stats",),
        "missing": ("fields",),
        "overwrite": ("output", "to"),
        "seed": ("sample",),
        "to": ("sample", "at"),
        "trust_index": ("sample", "at"),
    },
    "htsort": {"assignments": ("script",), "on_conflict": ("merge",), "seed": ("sample",)},
    "htupload": {"seed": ("shuffle", "split", "sample")},
    "htindex": {"fields": ("table",)},
    "htquery": {"overwrite": ("output",)},
    "htview": {"to": ("publish",), "overwrite": ("publish",)},
    "htarray tag": {"message": ("name",), "author": ("name",)},
    "htarray import": {"resize": ("field",), "cluster": ("field",), "jobs": ("field",)},
}
"""For each program, and each option of it that needs others: those of which one must be typed."""

USELESS: Mapping[str, Rules] = {
    "htextract": dict.fromkeys(("raw", "base64"), ("keys",)),
    "htview": {"port": ("publish",), "opens": ("publish",)},
}
"""For each program, and each option of it: the options beside which it has no effect."""


def check_options(program: str) -> None:
    """Raise if an option was typed that has no effect, for want of another one or beside it.

    Raises:
        JobError: one was.
    """
    context = click.get_current_context()
    command = f"{program} {context.info_name}" if context.parent else program
    typed = _typed(context)
    for name, others in {**ALL, **NEEDS.get(command, {})}.items():
        if name in typed and not typed & {*others}:
            needed = [_written(context, other) for other in others]
            *first, last = needed
            either = f"{', '.join(first)} or {last}" if first else last
            what = f"{_written(context, name)} needs {either}"
            raise JobError(what, fix=f"add {'it' if not first else 'one'}, or leave out {_written(context, name)}")
    for name, others in USELESS.get(command, {}).items():
        for other in others:
            refuse_beside(_written(context, other), {name} if other in typed else ())


def refuse_beside(what: str, names: Collection[str], fixes: Mapping[str, str] | None = None) -> None:
    """Raise if an option was typed, of those with these ``names``, that has no effect on ``what`` is done.

    ``fixes`` says what to do instead, for some of them.

    Raises:
        JobError: one was.
    """
    context = click.get_current_context()
    typed = _typed(context)
    for option in context.command.params:
        if (name := option.name or "") in typed and name in names:
            fix = (fixes or {}).get(name, "leave it out")
            raise JobError(f"{_written(context, name)} does not go with {what}", fix=fix)


def _typed(context: click.Context) -> set[str]:
    """Return the names of the options and arguments that were typed."""
    names = {name for name, value in context.params.items() if value is not None}
    return {name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _written(context: click.Context, name: str) -> str:
    """Return how an option is written; of an argument its name."""
    [option] = [option for option in context.command.params if option.name == name]
    return option.opts[0] if isinstance(option, click.Option) else option.human_readable_name
