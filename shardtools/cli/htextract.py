"""The htextract command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from shardtools.cli.choice_line import CHOICE_OPTIONS, CLASS_OPTION, SAMPLE_OPTION
from shardtools.cli.common import as_long_as_it_is_read, run_command, tell
from shardtools.cli.companions import refuse_beside
from shardtools.cli.extracting import ExtractLine, count_up, end
from shardtools.cli.numbers import ShareOrKey, Whole
from shardtools.cli.options import CommandLine, Function, add_options, arg_option, once, reading_options
from shardtools.engine import current_incidents
from shardtools.engine.incidents import describe
from shardtools.errors import JobError
from shardtools.units import format_count

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions

EPILOG = """\b
Examples:
  htextract train-@1000.tgz -f cls                      the key and the class of each sample
  htextract train-@1000.tgz --keys > keys.txt
  htextract train-@1000.tgz -f cls,json -o all.parquet
  htextract train-@1000.tgz -f txt --where 'cls = 7' --limit 10
  htextract train-@1000.tgz -p sizes.py -o sizes.csv    what the script's extract_sample(record) returns

\b
  htextract train-@1000.tgz --stats                     samples, fields and their sizes
  htextract train-@1000.tgz --stats --decode            also the widths and heights of images
  htextract train-@1000.tgz --count cls                 how often each value occurs
  htextract train-@1000.tgz --histogram json.score      how numbers are distributed

\b
  htextract train-@1000.tgz --at 712345                 the members of one sample
  htextract train-@1000.tgz --sample a/0017 --to DIR    its fields as files
  htextract train-@1000.tgz --sample a/0017 -f jpg > 0017.jpg

\b
The script:
  def extract_sample(record):
      return {"bytes": len(record["jpg"]), "label": int(record["cls"])}

Rows are in the order of the shards and samples. Text is shown as text, with tabs and ends of lines as \\t and \\n.
Binary data is shown as its size and CRC-32, unless --raw or --base64 is given. If shards have sidecars, keys, sizes and
CRC-32 are taken from them without reading the shards, and fields are read by ranges.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


_CHOICE_OPTIONS = [option for option in CHOICE_OPTIONS if option not in (SAMPLE_OPTION, CLASS_OPTION)]
_OPTIONS = [
    click.option("--keys", is_flag=True, help="Write only the keys."),
    click.option("-p", "--script", metavar="FILE", help="A Python script that defines extract_sample(record)."),
    arg_option("the function"),
    click.option("-o", "--output", metavar="FILE", help="The path or URL to write to.  [default: standard output]"),
    click.option(
        "--format",
        type=click.Choice(["tsv", "csv", "jsonl", "parquet", "npy"]),
        help="The format of the output.  [default: by the extension of the output's name, tsv without one]",
    ),
    click.option(
        "--header",
        is_flag=True,
        help="Write the names of the columns as the first line of a tsv. A csv always has them.",
    ),
    click.option("--raw", is_flag=True, help="Write binary data as it is; in Parquet, all fields as bytes."),
    click.option("--base64", is_flag=True, help="Write binary data as base64."),
    click.option(
        "--missing",
        type=click.Choice(["empty", "skip", "error"]),
        default="empty",
        show_default=True,
        help="If a sample lacks a field: leave the field empty, skip the sample, or stop.",
    ),
    click.option("--stats", is_flag=True, help="Show the number of samples, and the fields with their sizes."),
    click.option("--decode", is_flag=True, help="With --stats: also show the widths and heights of images."),
    click.option(
        "--count",
        **once("count one field at a time"),
        metavar="FIELD",
        help="Show how often each value of a field, or of a path such as json.label, occurs, the most frequent first.",
    ),
    click.option(
        "--histogram",
        **once("ask for one field at a time"),
        metavar="FIELD",
        help="Show how the numbers in a field, or at a path such as json.score, are distributed.",
    ),
    click.option(
        "--bins", type=Whole(least=1), default=20, metavar="N", show_default=True, help="With --histogram: its bars."
    ),
    click.option(
        "--sample",
        type=ShareOrKey(),
        metavar="KEY|SHARE",
        help="Show the sample with this key. Or, since no key has a dot: take only this share of the samples, such as "
        "0.01, which depends on --seed and their keys alone.",
    ),
    click.option(
        "--at",
        **once("ask for one sample at a time"),
        type=Whole(),
        metavar="N",
        help="Show the sample with this number, counted from 0.",
    ),
    click.option(
        "--to", metavar="DIR", help="With --sample or --at: write the sample's fields as files into this folder."
    ),
    click.option(
        "--trust-index",
        is_flag=True,
        help="With --sample or --at: let an index (SRC.json) name shards outside of its own folder or server.",
    ),
]


def _extract_options(command: Function) -> Function:
    return reading_options(add_options(command, "own", ExtractLine, _CHOICE_OPTIONS, _OPTIONS))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_extract_options
def main(line: CommandLine, own: ExtractLine) -> None:
    """Write fields, keys or statistics of the samples in SRC to standard output or a file."""
    run_command("htextract", line, lambda: _extract(line, own), resumes=False)


def _extract(line: CommandLine, own: ExtractLine) -> int:
    do = _what(_mode(own))
    options = line.run_options(own.output, own.to)
    return as_long_as_it_is_read(lambda: do(line, own, options))


def _what(mode: str) -> Callable[[CommandLine, ExtractLine, RunOptions], int]:
    if mode == "rows":
        return _rows
    if mode == "--sample KEY or --at":
        from shardtools.cli.extract_sample import show_sample

        return show_sample
    from shardtools.cli import extract_statistics

    return {
        "--stats": extract_statistics.show_statistics,
        "--count": extract_statistics.show_counts,
        "--histogram": extract_statistics.show_histogram,
    }[mode]


_PICKS = ("where", "limit", "sample", "seed")
_OF_ROWS = ("fields", "drop", "rename", "keys", "script", "assignments", "missing", "raw", "base64", "header", *_PICKS)
_OF_JOBS = ("cluster", "wait", "jobs", "on_error", "report", "format", "output")
_TAKES = {
    "rows": (*_OF_JOBS, *_OF_ROWS),
    "--stats": (*_OF_JOBS, "decode"),
    "--count": (*_OF_JOBS, *_PICKS),
    "--histogram": (*_OF_JOBS, *_PICKS, "bins"),
    "--sample KEY or --at": ("sample", "fields", "to", "output", "trust_index"),
}
"""The options that go with what may be asked for, of those that do not go with all of it."""

_QUERY = 'ask htquery, as in: htquery SRC "select count(*), sum(size.jpg) from samples where cls = 7"'


def _mode(own: ExtractLine) -> str:
    """Return what is asked for.

    Raises:
        JobError: several things, or options that do not go with it.
    """
    asked = [name for name in ("stats", "count", "histogram") if getattr(own, name)]
    asked += ["sample"] * (own.key is not None or own.at is not None)
    if len(asked) > 1 or (own.sample is not None and own.at is not None):
        what = "--sample and --at" if len(asked) == 1 else " and ".join(f"--{name}" for name in asked)
        raise JobError(f"{what} cannot be used together", fix="ask for one thing at a time")
    mode = "rows" if not asked else "--sample KEY or --at" if asked == ["sample"] else f"--{asked[0]}"
    stray = {name for names in _TAKES.values() for name in names} - {*_TAKES[mode]}
    refuse_beside(mode, stray, dict.fromkeys(_PICKS, _QUERY) if mode == "--stats" else {})
    return mode


def _rows(line: CommandLine, own: ExtractLine, options: RunOptions) -> int:
    from shardtools.jobs.script import read_script
    from shardtools.programs.extract import carry_out, extract_options
    from shardtools.programs.running import named_by

    if own.keys and (own.fields or own.script):
        raise JobError("-f, --keys and -p cannot be used together", fix="choose one of them")
    code = read_script(own.script, own.assignments) if own.script else None
    what = extract_options(own.choice(), code, own.missing, own.row_format())
    named = named_by(line.sources, options)
    with count_up(line, named, shows=own.destination == "-") as progress:
        result = carry_out(named, what, own.destination, options, progress)
    if own.destination != "-" and not line.quiet:
        rows = f"{format_count(result.rows, 'row')} of {format_count(result.samples, 'sample')}"
        tell(f"{own.output}: {', '.join([rows, *describe(current_incidents().counts())])}")
    counts = {"shards": result.shards, "samples": result.samples, "rows": result.rows}
    return end(line, counts, result.skipped)
