"""The htextract command."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import SKIPPED, run_command, silence_stdout, tell
from shardtools.cli.options import reading_options, run_options
from shardtools.cli.progress import Progress, format_count

if TYPE_CHECKING:
    from shardtools.jobs.extraction.formats import Binary, RowFormat
    from shardtools.jobs.extraction.statistics import ValueCounts
    from shardtools.jobs.extraction.where import Condition
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import Skipped
    from shardtools.shards.samples import Record

EPILOG = """\b
Examples:
  htextract train-@1000.tgz -f cls                      the key and the class of each sample
  htextract train-@1000.tgz --keys > keys.txt
  htextract train-@1000.tgz -f cls -f json -o all.parquet
  htextract train-@1000.tgz -f txt --where 'cls == 7' --limit 10
  htextract train-@1000.tgz -p sizes.py -o sizes.csv    what the script's extract_sample(record) returns

\b
  htextract train-@1000.tgz --stats                     samples, fields and their sizes
  htextract train-@1000.tgz --stats --decode            also the widths and heights of images
  htextract train-@1000.tgz --count cls                 how often each value occurs
  htextract train-@1000.tgz --histogram score           how numbers are distributed

\b
  htextract train-@1000.tgz --index 712345              the members of one sample
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

_ENDINGS = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".npy": "npy",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option("-f", "--field", "fields", multiple=True, metavar="FIELD", help="A field to write; may be repeated.")
@click.option("--keys", is_flag=True, help="Write only the keys.")
@click.option("-p", "--script", metavar="FILE", help="A Python script that defines extract_sample(record).")
@click.option(
    "-a",
    "--arg",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A keyword argument for the function; may be repeated.",
)
@click.option("-o", "--output", metavar="FILE", help="The path or URL to write to.  [default: standard output]")
@click.option(
    "--format",
    type=click.Choice(["tsv", "csv", "jsonl", "parquet", "npy"]),
    help="The format of the output.  [default: by the extension of its name, else tsv]",
)
@click.option(
    "--header", is_flag=True, help="Write the names of the columns as the first line of a tsv. A csv always has them."
)
@click.option("--raw", is_flag=True, help="Write binary data as it is; in Parquet, all fields as bytes.")
@click.option("--base64", is_flag=True, help="Write binary data as base64.")
@click.option(
    "--missing",
    type=click.Choice(["empty", "skip", "error"]),
    default="empty",
    show_default=True,
    help="If a sample lacks a field: leave the field empty, skip the sample, or stop.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Only samples for which FIELD OP VALUE is true, such as 'cls == 7'. OP is one of == != < <= > >=.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N rows.")
@click.option("--stats", is_flag=True, help="Show the number of samples, and the fields with their sizes.")
@click.option("--decode", is_flag=True, help="With --stats: also show the widths and heights of images.")
@click.option("--count", metavar="FIELD", help="Show how often each value of a field occurs, the most frequent first.")
@click.option("--histogram", metavar="FIELD", help="Show how the numbers in a field are distributed.")
@click.option(
    "--bins", type=click.IntRange(min=1), default=20, metavar="N", show_default=True, help="Bars of the histogram."
)
@click.option("--sample", metavar="KEY", help="Show the sample with this key.")
@click.option("--index", type=int, metavar="N", help="Show the sample with this number, counted from 0.")
@click.option(
    "--to", metavar="DIR", help="With --sample or --index: write the sample's fields as files into this folder."
)
@click.option(
    "--trust-index",
    is_flag=True,
    help="With --sample or --index: let an index (SRC.json) name shards outside of its own folder or server.",
)
@reading_options
def main(**given: Any) -> None:
    """Write fields, keys or statistics of the samples in SRC to standard output or a file."""
    run_command("htextract", given["verbose"], lambda: _extract(given), resumes=False)


def _extract(given: dict[str, Any]) -> int:
    from shardtools.errors import StorageError
    from shardtools.storage.files import stream_number

    mode = _mode(given)
    if given["output"] and stream_number(given["output"]) == 1:
        given["output"] = "-"  # so that nothing else is written between the rows
    options = run_options(given)
    try:
        job = {"rows": _rows, "stats": _stats, "count": _count, "histogram": _histogram, "sample": _sample}[mode]
        return job(given, options)
    except StorageError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            raise
        silence_stdout()  # whoever reads has enough
        return 0


_OF_ROWS = ("fields", "keys", "script", "raw", "base64", "header", "limit", "where")
_TAKES = {
    "rows": (*_OF_ROWS, "output", "format"),
    "stats": ("decode", "output", "format"),
    "count": ("where", "output", "format"),
    "histogram": ("where", "output"),
    "sample": ("fields", "to", "output"),
}


def _mode(given: dict[str, Any]) -> str:
    """Return what is asked for.

    Raises:
        JobError: several things, or options that do not go with it.
    """
    from shardtools.errors import JobError

    asked = [name for name in ("stats", "count", "histogram") if given[name]]
    asked += ["sample"] * (given["sample"] is not None or given["index"] is not None)
    if len(asked) > 1 or (given["sample"] is not None and given["index"] is not None):
        what = "--sample and --index" if len(asked) == 1 else " and ".join(f"--{name}" for name in asked)
        raise JobError(f"{what} cannot be used together", fix="ask for one thing at a time")
    mode = asked[0] if asked else "rows"
    names = (
        "fields",
        "keys",
        "script",
        "output",
        "format",
        "header",
        "raw",
        "base64",
        "where",
        "limit",
        "decode",
        "to",
    )
    if stray := next((name for name in names if given[name] and name not in _TAKES[mode]), None):
        option = {"fields": "-f", "script": "-p", "output": "-o"}.get(stray, f"--{stray}")
        what = "--sample or --index" if mode == "sample" else f"--{mode}"
        raise JobError(f"{option} does not go with {'rows' if mode == 'rows' else what}", fix="leave it out")
    return mode


def _row_format(given: dict[str, Any]) -> RowFormat:
    from shardtools.errors import JobError
    from shardtools.jobs.extraction.formats import RowFormat
    from shardtools.urls import name_of

    if given["raw"] and given["base64"]:
        raise JobError("--raw and --base64 cannot be used together", fix="give one of them")
    chosen = given["format"]
    if chosen is None:
        name = name_of(given["output"] or "-").lower()
        chosen = next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), "tsv")
    if given["raw"] and chosen in ("csv", "jsonl"):
        raise JobError(f"--raw does not go with {chosen}", fix="use --base64, or parquet")
    binary: Binary = "raw" if given["raw"] else "base64" if given["base64"] else "describe"
    return RowFormat(chosen, binary, header=given["header"] or chosen == "csv")


def _where(given: dict[str, Any]) -> Condition | None:
    from shardtools.jobs.extraction.where import parse_condition

    return None if given["where"] is None else parse_condition(given["where"])


def _rows(given: dict[str, Any], options: RunOptions) -> int:
    from shardtools.errors import JobError
    from shardtools.jobs.extraction.extract import run_extract
    from shardtools.jobs.extraction.extract_shard import ExtractOptions
    from shardtools.jobs.script import read_script

    if sum(bool(given[name]) for name in ("fields", "keys", "script")) > 1:
        raise JobError("-f, --keys and -p cannot be used together", fix="choose one of them")
    if len(set(given["fields"])) < len(given["fields"]):
        raise JobError("a field is given twice with -f", fix="give each field once")
    script = read_script(given["script"], given["assignments"]) if given["script"] else None
    what = ExtractOptions(given["fields"], script, _where(given), given["missing"], given["limit"], _row_format(given))
    output = given["output"] or "-"
    with _progress(given, options, shows=output == "-") as progress:
        summary = run_extract(
            given["sources"], what, output, options, lambda found: progress.advance(found.samples, found.size)
        )
    if output != "-" and not given["quiet"]:
        tell(f"{output}: {format_count(summary.rows, 'row')} of {format_count(summary.samples, 'sample')}")
    counts = {"shards": summary.shards, "samples": summary.samples, "rows": summary.rows}
    return _end(given, counts, summary.skipped)


def _progress(given: dict[str, Any], options: RunOptions, *, shows: bool) -> Progress:
    """Return a progress bar, which keeps silent where rows appear on the same terminal."""
    from shardtools.storage import using
    from shardtools.storage.expansion import expand_sources
    from shardtools.storage.pipe import results

    with using(options.storage):
        shards = len(expand_sources(given["sources"]))
    stream = results()
    return Progress(shards, given["quiet"] or (shows and stream is not None and stream.isatty()))


def _stats(given: dict[str, Any], options: RunOptions) -> int:
    from shardtools.cli.tables import statistics_table
    from shardtools.jobs.extraction.statistics import run_statistics
    from shardtools.shards.names import case_warnings

    with _progress(given, options, shows=False) as progress:
        found = run_statistics(
            given["sources"],
            decode=given["decode"],
            options=options,
            on_shard=lambda part: progress.advance(sum(part.samples), part.filesize),
        )
    if _row_format(given).name == "jsonl":
        _write(given, options, [json.dumps(found.as_json(), ensure_ascii=False)])
    else:
        _write(given, options, statistics_table(found))
    for warning in case_warnings(found.fields):
        tell(f"htextract: {warning}", err=True)
    return _end(given, {"shards": len(found.samples), "samples": sum(found.samples)}, found.skipped)


def _count(given: dict[str, Any], options: RunOptions) -> int:
    from shardtools.jobs.extraction.formats import RowFormat, encoder
    from shardtools.jobs.extraction.row_batches import RowBatch
    from shardtools.jobs.extraction.statistics import run_counts

    row_format = _row_format(given)
    with _progress(given, options, shows=False) as progress:
        found = run_counts(
            given["sources"],
            given["count"],
            where=_where(given),
            options=options,
            on_shard=lambda part: progress.advance(part.samples, 0),
        )
    ordered = sorted(found.values.items(), key=lambda item: (-item[1], item[0]))
    if row_format.name == "jsonl":
        lines = [json.dumps(_counted(found, value, count), ensure_ascii=False) for value, count in ordered]
    else:
        columns = {"value": [value for value, _ in ordered]}
        if found.classes is not None:
            columns["name"] = [found.name_of(value) for value, _ in ordered]
        rows = RowBatch("", [str(count) for _, count in ordered], columns)
        head = [",".join(["count", *columns])] if row_format.name == "csv" else []
        text = encoder(RowFormat("csv" if row_format.name == "csv" else "tsv")).encode(rows)
        lines = head + text.decode("utf-8", "surrogateescape").split("\n")[:-1]
    _write(given, options, lines)
    return _end(given, {"samples": found.samples, "missing": found.missing}, found.skipped)


def _counted(found: ValueCounts, value: str, count: int) -> dict[str, Any]:
    """Return how often a value occurs as JSON data, with the name of its class if it has one."""
    name = found.name_of(value)
    return {"value": value, **({"name": name} if name else {}), "count": count}


def _histogram(given: dict[str, Any], options: RunOptions) -> int:
    from shardtools.cli.tables import histogram
    from shardtools.jobs.extraction.statistics import run_counts

    with _progress(given, options, shows=False) as progress:
        found = run_counts(
            given["sources"],
            given["histogram"],
            numbers=True,
            where=_where(given),
            options=options,
            on_shard=lambda part: progress.advance(part.samples, 0),
        )
    if found.values:
        _write(given, options, histogram(found.values, _columns(), given["bins"]))
    return _end(given, {"samples": found.samples, "missing": found.missing}, found.skipped)


def _columns() -> int:
    """Return how many columns the terminal has that shows the results, or what the variable COLUMNS says."""
    from shardtools.storage.pipe import results

    try:
        size = os.get_terminal_size(stream.fileno()) if (stream := results()) else os.terminal_size((80, 24))
    except (OSError, ValueError, AttributeError):  # it is no terminal
        size = os.terminal_size((80, 24))
    return shutil.get_terminal_size(size).columns


def _write(given: dict[str, Any], options: RunOptions, lines: Sequence[str]) -> None:
    from shardtools.jobs.extraction.extract import refuse
    from shardtools.jobs.extraction.terminal import for_terminal
    from shardtools.storage import get_storage, using

    output = given["output"] or "-"
    with using(options.storage):
        refuse(output, options)
        with get_storage(output).create(output) as sink:
            for_terminal(sink, output).write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _sample(given: dict[str, Any], options: RunOptions) -> int:
    from shardtools.errors import JobError
    from shardtools.jobs.extraction.terminal import for_terminal
    from shardtools.storage import get_storage, using

    record = _find(given, options)
    there = [name for name in record if name != "key"]
    names = given["fields"] or tuple(there)
    if lacking := [name for name in names if name not in there]:
        fix = f"its fields are {', '.join(sorted(there))}"
        raise JobError(f"the sample has no field {lacking[0]}", url=record.url, member=record["key"], fix=fix)
    if given["to"]:
        _write_files(given, options, record, names)
    elif given["fields"]:
        if len(names) > 1:
            raise JobError(
                "only one field can be written to standard output", fix="give one with -f, or a folder with --to"
            )
        output = given["output"] or "-"
        with using(options.storage), get_storage(output).create(output) as sink:
            for_terminal(sink, output).write(record[names[0]])
    else:
        _write(given, options, _described(record))
    return 0


def _find(given: dict[str, Any], options: RunOptions) -> Record:
    """Return the sample that is asked for.

    Raises:
        JobError: there is none.
    """
    from shardtools.dataset.sharded import ShardedDataset
    from shardtools.errors import JobError

    dataset = ShardedDataset(given["sources"], options.storage, trust_index=given["trust_index"])
    key, index = given["sample"], given["index"]
    try:
        record: Record = dataset[index] if key is None else dataset[key]
        return record
    except IndexError:
        what = f"index {index} is out of range: the dataset has {format_count(len(dataset), 'sample')}"
        raise JobError(what, fix="the first sample has index 0") from None
    except KeyError:
        raise JobError(f"no sample has the key {key}", fix="htextract --keys lists them all") from None


def _write_files(given: dict[str, Any], options: RunOptions, record: Record, names: Sequence[str]) -> None:
    from shardtools.jobs.extraction.extract import refuse
    from shardtools.jobs.extraction.files import place_in
    from shardtools.storage import get_storage, using

    urls = {name: place_in(given["to"], record["key"], name, url=record.url) for name in names}
    with using(options.storage):
        for url in urls.values():
            refuse(url, options)
        for name, url in urls.items():
            with get_storage(url).create(url) as sink:
                sink.write(record[name])
            if not given["quiet"]:
                tell(url)


def _described(record: Record) -> list[str]:
    """Return lines that say what a sample consists of."""
    from shardtools.cli.tables import aligned
    from shardtools.errors import redact
    from shardtools.jobs.extraction.formats import is_binary, show

    lines = [f"{record['key']}: sample {record.index} of {redact(record.url)}"]
    rows = []
    for name, data in sorted(item for item in record.items() if item[0] != "key"):
        text = "" if is_binary(name) else show(data[:1000])
        short = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
        rows.append([f"  {name}", format_count(len(data), "byte"), short if len(short) <= 60 else f"{short[:59]}…"])
    places = aligned([row[:2] for row in rows])
    return lines + [f"{place}   {row[2]}".rstrip() for place, row in zip(places, rows, strict=True)]


def _end(given: dict[str, Any], counts: dict[str, int], skipped: Sequence[Skipped]) -> int:
    """Write the report, say what was skipped, and return the exit status."""
    from shardtools.errors import redact
    from shardtools.jobs.report import write_summary

    if given["report"]:
        job = {"program": "htextract", "sources": [redact(spec) for spec in given["sources"]]}
        write_summary(given["report"], job, counts, skipped)
    for entry in skipped[:5]:
        text = entry.reason if entry.key is None else f"{entry.shard} [{entry.key}]: {entry.reason}"
        tell(f"htextract: skipped: {text}", err=True)
    if len(skipped) > 5:
        more = f"see {given['report']}" if given["report"] else "--report FILE lists them all"
        tell(f"htextract: skipped: {len(skipped) - 5:,} more; {more}", err=True)
    return SKIPPED if skipped else 0
