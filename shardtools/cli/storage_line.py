"""The options of commands that run no tasks: how they use storage, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from shardtools import __version__
from shardtools.cli.options import INDEX_OPTION, PATIENCE_OPTIONS

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions

CACHE_OPTION = click.option(
    "--cache", metavar="DIR[:SIZE]", help="A local folder that keeps what is read from servers."
)
STORAGE_OPTIONS = [*PATIENCE_OPTIONS, CACHE_OPTION, INDEX_OPTION]
"""How a command that only reads uses storage."""

VERBOSE_OPTION = click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of errors.")
VERSION_OPTION = click.version_option(__version__, "--version", prog_name="shardtools")


@dataclass(frozen=True, kw_only=True)
class StorageLine:
    """What was typed of these options. A command may lack those that have defaults."""

    retries: int
    timeout: float
    verbose: bool
    quiet: bool = False
    cache: str | None = None
    index: str | None = None

    @property
    def named(self) -> tuple[str | tuple[str, ...] | None, ...]:
        """What the user has named: specs, and other URLs."""
        raise NotImplementedError

    def run_options(self) -> RunOptions:
        """Return the options of storage, for a user who has named this."""
        from shardtools.programs.running import naming, run_options

        options = run_options(retries=self.retries, timeout=self.timeout, cache=self.cache, index=self.index)
        return naming(options, *self.named)
