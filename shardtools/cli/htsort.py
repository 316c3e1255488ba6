"""The htsort command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shardtools.cli.common import run_command
from shardtools.cli.exchanging import ExchangeLine, exchange, exchange_options
from shardtools.cli.options import CommandLine, arg_option, once

if TYPE_CHECKING:
    from shardtools.jobs.exchange.duplicates import Merge, OnConflict

EPILOG = """\b
Examples:
  htsort gs://bucket/Volume_@1000.tgz http://host/sorted-@2000.tgz
  htsort --by cls:int --reverse train-@100.tar by-class-@100.tar
  htsort --by json.score:float --reverse train-@100.tar best-first-@100.tar
  htsort --by key:natural train-@100.tar sorted-@100.tar       a9 before a10
  htsort -p length.py train-@100.tar by-length-@100.tar        by what sort_key(record) returns
  htsort --by cls -p count.py train-@100.tar counts-@1.tar     reduce_samples(key, records) for each class
  htsort --merge inner images-@100.tar labels-@10.tar both-@100.tar
  htsort --merge outer mixed-@100.tar whole-@100.tar           brings scattered members of a sample together

\b
The script has one or more of:
  def sort_key(record):                   # instead of --by
      return len(record["txt"])
  def reduce_samples(key, records):       # all records with one sort key -> records
      yield {"key": str(key), "json": {"n": sum(1 for record in records)}}
  def combine_samples(key, records):      # reduces parts of a group before they are brought together

The sort is global: shard i sorts before shard i + 1. It is stable: samples with the same sort key stay in the order of
SRC, and they are in one shard. With --merge, samples with the same key become one sample; each source is an argument of
its own.

Samples are read and written twice: from SRC to temporary data, see --spill, and from there to DST. A job that was
stopped continues with --resume.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option(
    "--by",
    **once("a script's sort_key(record) can return several values"),
    metavar="WHAT[:HOW]",
    help="Sort by 'key', by a field, or by a path of JSON such as json.score, read as HOW: text, int, float or "
    "natural.  [default: key]",
)
@click.option("--reverse", is_flag=True, help="Sort in descending order.")
@click.option(
    "-p", "--script", metavar="FILE", help="A Python script that defines sort_key, reduce_samples or combine_samples."
)
@arg_option("its functions")
@click.option(
    "--merge",
    type=click.Choice(["inner", "outer", "left"]),
    help="Join samples with the same key: for keys that every SRC has, that any SRC has, or that the first SRC has.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "first", "last"]),
    default="error",
    show_default=True,
    help="With --merge, if several samples have the same field: stop, or take the first or the last.",
)
@click.option("--unique", is_flag=True, help="Keep only the first of the samples with the same sort key.")
@exchange_options()
def main(
    line: CommandLine,
    own: ExchangeLine,
    by: str | None,
    reverse: bool,
    script: str | None,
    assignments: tuple[str, ...],
    merge: Merge | None,
    on_conflict: OnConflict,
    unique: bool,
) -> None:
    """Sort the samples of SRC into the shards DST; also join, group or reduce them."""

    def sort() -> int:
        from shardtools.jobs.script import read_script
        from shardtools.programs.sort import sort_exchange

        options = line.run_options(own.spill)
        what = sort_exchange(
            own.settings(),
            by=by,
            reverse=reverse,
            code=read_script(script, assignments) if script else None,
            merge=merge,
            on_conflict=on_conflict,
            unique=unique,
            on_error=options.on_error,
            chosen=own.choice(),
        )
        return exchange(what, line, options)

    run_command("htsort", line, sort)
