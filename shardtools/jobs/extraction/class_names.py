"""The names of the classes that the texts of a field are: a pass over this field of all chosen samples."""

from __future__ import annotations

from dataclasses import replace

from shardtools.errors import JobError
from shardtools.jobs.choice import Choice
from shardtools.jobs.classes import sorted_names
from shardtools.jobs.extraction.statistics import run_counts
from shardtools.jobs.options import RunOptions
from shardtools.storage.expansion import SourceSpecs, look_up
from shardtools.units import format_count


def find_classes(choice: Choice, sources: SourceSpecs, options: RunOptions) -> Choice:
    """Return a choice with the names of the classes that it makes of texts, if it makes any: all texts are read.

    Raises:
        JobError: a sample has no text, or there are too many.
        ShardtoolsError: a shard cannot be read.
    """
    if (field := choice.class_from) is None:
        return choice
    named = look_up(sources)
    if "-" in named.urls:
        raise JobError("standard input cannot be read twice, for --class-from", url="-", fix="give the path of a file")
    found = run_counts(named, field, choice=replace(choice, class_from=None), options=options)
    if found.missing:
        what = f"{found.missing:,} of {format_count(found.samples, 'sample')} have no {field}"
        raise JobError(what, fix=f'leave such samples out, as with --where "{field} is not null"')
    return replace(choice, classes=sorted_names(field, found.values))
