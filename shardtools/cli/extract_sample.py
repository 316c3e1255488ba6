"""What htextract --sample and --at show: one sample, or its fields as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardtools.cli.common import tell
from shardtools.cli.extracting import ExtractLine, write_lines
from shardtools.cli.options import CommandLine
from shardtools.errors import JobError, redact
from shardtools.units import format_count

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions
    from shardtools.shards.samples import Record


def show_sample(line: CommandLine, own: ExtractLine, options: RunOptions) -> int:
    """Show a sample, or write its fields; return the exit status."""
    from shardtools.jobs.extraction.terminal import for_terminal
    from shardtools.storage import get_storage, using

    record = _find(line, own, options)
    there = [name for name in record if name != "key"]
    names = own.field_names or tuple(there)
    if lacking := [name for name in names if name not in there]:
        fix = f"its fields are {', '.join(sorted(there))}"
        raise JobError(f"the sample has no field {lacking[0]}", url=record.url, member=record["key"], fix=fix)
    if own.to:
        _write_files(own.to, line, options, record, names)
    elif own.fields:
        if len(names) > 1:
            raise JobError(
                "only one field can be written to standard output", fix="give one with -f, or a folder with --to"
            )
        with using(options.storage), get_storage(own.destination).create(own.destination) as sink:
            for_terminal(sink, own.destination).write(record[names[0]])
    else:
        write_lines(own.destination, options, _described(record))
    return 0


def _find(line: CommandLine, own: ExtractLine, options: RunOptions) -> Record:
    """Return the sample that is asked for.

    Raises:
        JobError: there is none.
    """
    from shardtools.dataset.sharded import ShardedDataset

    dataset = ShardedDataset(line.sources, options.storage, trust_index=own.trust_index)
    wanted = own.at if own.at is not None else own.key or ""
    try:
        record: Record = dataset[wanted]
        return record
    except IndexError:
        what = f"index {wanted} is out of range: the dataset has {format_count(len(dataset), 'sample')}"
        raise JobError(what, fix="the first sample has index 0") from None
    except KeyError:
        raise JobError(f"no sample has the key {wanted}", fix="htextract --keys lists them all") from None


def _write_files(folder: str, line: CommandLine, options: RunOptions, record: Record, names: Sequence[str]) -> None:
    from shardtools.jobs.extraction.extract import refuse
    from shardtools.jobs.extraction.files import place_in
    from shardtools.storage import get_storage, using

    urls = {name: place_in(folder, record["key"], name, url=record.url) for name in names}
    with using(options.storage):
        for url in urls.values():
            refuse(url, options)
        for name, url in urls.items():
            with get_storage(url).create(url) as sink:
                sink.write(record[name])
            if not line.quiet:
                tell(url)


def _described(record: Record) -> list[str]:
    """Return lines that say what a sample consists of."""
    from shardtools.cli.tables import field_lines

    fields = {name: data for name, data in record.items() if name != "key"}
    return [f"{record['key']}: sample {record.index} of {redact(record.url)}", *field_lines(fields)]
