"""``python -m shardtools`` lists the programs."""

from __future__ import annotations

from importlib import import_module

from shardtools import __version__
from shardtools.cli.common import tell

PROGRAMS = ("htmapper", "htextract", "htshuffle", "htsort", "htupload", "htindex")


def main() -> None:
    """Show the name of each program, and what it does."""
    tell(f"shardtools {__version__}. Each program has --help:")
    for name in PROGRAMS:
        command = import_module(f"shardtools.cli.{name}").main
        tell(f"  {name:<10} {command.get_short_help_str(100)}")


if __name__ == "__main__":
    main()
