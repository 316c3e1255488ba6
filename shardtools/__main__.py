"""``python -m shardtools`` lists the programs, ``python -m shardtools htmapper …`` runs one."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from shardtools import __version__
from shardtools.cli.common import USAGE, tell

PROGRAMS = (
    "htmapper",
    "htextract",
    "htshuffle",
    "htsort",
    "htupload",
    "htindex",
    "htquery",
    "htinfo",
    "htview",
    "htcp",
    "htrm",
    "htarray",
)


def main() -> None:
    """Show the name of each program, and what it does; or run the one that is asked for."""
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        tell(f"shardtools {__version__}. Each program has --help:")
        for name in PROGRAMS:
            tell(f"  {name:<10} {_command(name).get_short_help_str(100)}")
    elif sys.argv[1] in PROGRAMS:
        _command(sys.argv[1]).main(sys.argv[2:], prog_name=sys.argv[1])
    else:
        tell(f"shardtools: error: there is no program {sys.argv[1]}; give one of {', '.join(PROGRAMS)}", err=True)
        sys.exit(USAGE)


def _command(name: str) -> click.Command:
    command: click.Command = import_module(f"shardtools.cli.{name}").main
    return command


if __name__ == "__main__":
    main()
