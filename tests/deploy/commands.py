"""Command lines as they are written in pages, YAML and scripts, parsed by the programs that they name."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from distributed.cli import dask_scheduler, dask_worker

PROGRAMS = sorted(path.stem for path in (Path(__file__).parents[2] / "shardtools" / "cli").glob("ht*.py"))
_DASK = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
_OPERATORS = {"|", "||", "&", "&&", ";", "<", ">", ">>", "(", ")"}


def parse(words: Sequence[str]) -> None:
    """Parse a command line of one of `PROGRAMS`, or of ``dask scheduler`` or ``dask worker``, without running it.

    Raises:
        click.UsageError: it has an option that the program does not have, or an option lacks its value.
    """
    program, arguments = words[0], list(words[1:])
    if program == "dask":
        command = _DASK[arguments.pop(0)]
    elif program in PROGRAMS:
        command = importlib.import_module(f"shardtools.cli.{program}").main
    else:
        raise click.UsageError(f"{program} is no program of ours")
    command.make_parser(click.Context(command, info_name=program)).parse_args(arguments)


def find_commands(shell: str) -> Iterator[list[str]]:
    r"""Yield the command lines of our programs, and of Dask's, in lines of shell, wherever they are in a line.

    >>> list(find_commands("docker run job htindex -v \\\n  a.tar  # once\ndask worker h:1 & pip install dask"))
    [['htindex', '-v', 'a.tar'], ['dask', 'worker', 'h:1']]
    """
    for line in shell.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(_spaced(line), comments=True), ";"]:
            if word in _OPERATORS:
                if words and (words[0] != "dask" or (len(words) > 1 and words[1] in _DASK)):
                    yield words
                words = []
            elif words or word in PROGRAMS or word == "dask":
                words.append(word)


def _spaced(line: str) -> str:
    """Return a line with spaces around operators that stand at the end of a word."""
    return re.sub(r"([^\s&|;])([;&])(\s|$)", r"\1 \2 \3", line)


def code_blocks(page: Path, language: str = "sh") -> str:
    """Return the lines of a page that are code in a language."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))
