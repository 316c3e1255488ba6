"""The htsort command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import run_command
from shardtools.cli.exchanging import exchange, exchange_options, limits

if TYPE_CHECKING:
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.script import Script

EPILOG = """\b
Examples:
  htsort gs://bucket/Volume_@1000.tgz http://host/sorted-@2000.tgz
  htsort --by cls:int --reverse train-@100.tar by-class-@100.tar
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
    metavar="WHAT[:HOW]",
    help="Sort by 'key' or by a field, read as HOW: text, int, float or natural.  [default: key]",
)
@click.option("--reverse", is_flag=True, help="Sort in descending order.")
@click.option(
    "-p", "--script", metavar="FILE", help="A Python script that defines sort_key, reduce_samples or combine_samples."
)
@click.option(
    "-a",
    "--arg",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A keyword argument for its functions; may be repeated.",
)
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
@exchange_options
def main(**given: Any) -> None:
    """Sort the samples of SRC into the shards DST; also join, group or reduce them."""
    run_command("htsort", given["verbose"], lambda: _sort(given))


def _sort(given: dict[str, Any]) -> int:
    from shardtools.errors import JobError
    from shardtools.jobs.exchange.duplicates import DuplicatePolicy
    from shardtools.jobs.exchange.keying import SORT_KEY
    from shardtools.jobs.exchange.plan import Exchange
    from shardtools.jobs.exchange.reduce import COMBINE, REDUCE
    from shardtools.jobs.script import defines, function, read_script

    script = read_script(given["script"], given["assignments"]) if given["script"] else None
    names = set() if script is None else defines(script, SORT_KEY, REDUCE, COMBINE)
    if script is not None and not names & {SORT_KEY, REDUCE}:
        function(script, SORT_KEY)  # which says what is missing
    if script is not None and REDUCE in names:
        function(script, REDUCE, positional=2)
    if script is not None and COMBINE in names:
        function(script, COMBINE, positional=2)
        if REDUCE not in names:
            raise JobError(f"the script defines {COMBINE} without {REDUCE}", fix=f"define {REDUCE} as well")
    keying = _keying(given, script if SORT_KEY in names else None)
    reduces = REDUCE in names
    if sum([bool(given["merge"]), given["unique"], reduces]) > 1:
        raise JobError(f"--merge, --unique and {REDUCE} cannot be used together", fix="choose one of them")
    if given["merge"] and (keying.kind != "key" or given["on_duplicate"] != "error"):
        raise JobError("--merge always joins samples by their key", fix="leave out --by, sort_key and --on-duplicate")
    policy = DuplicatePolicy(
        given["on_duplicate"],
        given["unique"],
        given["merge"] or "",
        given["on_conflict"],
        script if reduces else None,
        keying if reduces else None,
        given["on_error"],
    )
    by = SORT_KEY if keying.kind == "script" else given["by"] or "key"
    what = Exchange("htsort", keying, policy, **limits(given), combine=COMBINE in names, job={"by": by})
    return exchange("htsort", given, what)


def _keying(given: dict[str, Any], script: Script | None) -> Keying:
    from shardtools.errors import JobError
    from shardtools.jobs.exchange.keying import SORT_KEY, Keying
    from shardtools.jobs.exchange.order import READINGS

    if script is not None:
        if given["by"]:
            raise JobError(f"--by and {SORT_KEY} cannot be used together", fix="choose one of them")
        return Keying("script", script=script, reverse=given["reverse"])
    what, colon, how = (given["by"] or "key").partition(":")
    if not what or (colon and how not in READINGS):
        raise JobError(
            f"--by {given['by']}: not of the form WHAT or WHAT:HOW", fix=f"HOW is one of {', '.join(READINGS)}"
        )
    if what == "key":
        return Keying("key", reading=how or "text", reverse=given["reverse"])
    return Keying("field", field=what, reading=how or "text", reverse=given["reverse"])
