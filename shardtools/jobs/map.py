"""What htmapper would do: run a function of the user over every sample of a dataset.

sources, destination -> one MapTask for each shard -> Plan
sources -> the first samples, one after another -> what comes out, to look at
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shardtools import engine
from shardtools.errors import JobError, redact
from shardtools.jobs.choice import EVERYTHING, Choice, ShardChoice
from shardtools.jobs.choosing import check_names, choose
from shardtools.jobs.extraction.class_names import find_classes
from shardtools.jobs.functions import check_sendable
from shardtools.jobs.map_shard import MapTask, Out, map_shard, try_shard
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import look_at_outputs
from shardtools.jobs.run import Plan
from shardtools.jobs.script import Code, function
from shardtools.jobs.target import Counts, Target, targets
from shardtools.processors import processors
from shardtools.query.condition import Seen
from shardtools.shards.manifest import common_facts, find_manifests
from shardtools.spec import Destination
from shardtools.storage import using
from shardtools.storage.expansion import SourceSpecs, look_up
from shardtools.units import format_count


def try_map(sources: SourceSpecs, script: Code, options: RunOptions, choice: Choice, out: Out) -> Counts:
    """Map the first samples of what ``choice`` takes, in their order, and give what comes out to ``out`` alone.

    Nothing is written, and no shard is read after the last of these samples.

    Raises:
        SpecError: a spec is wrong.
        JobError: no sample has a field or column that the choice names.
        ScriptError: the script cannot be used.
        ShardtoolsError: a shard cannot be read; or a sample fails, unless the options say to skip such samples.
    """
    function(script, "process_sample", "process_samples")
    with using(options.storage):
        named = look_up(sources)
        check_names(choice, named, find_manifests(named), options)
        choice = find_classes(choice, named, options)
        chosen = choose(replace(choice, limit=None), named, options)
        counts, seen = Counts(), Seen()
        for url, part in zip(named.urls, chosen.shards, strict=True):
            left = None if choice.limit is None else choice.limit - counts.read
            if left == 0 or part.is_nothing:
                continue
            task = MapTask(url, Target("-"), script, options.on_error, chosen=replace(part, limit=left))
            more, fields = try_shard(task, out)
            counts, seen = counts + more, seen | fields
        replace(chosen, choice=choice).check(seen, counts.read)
    return counts


def plan_map(
    sources: SourceSpecs, destination: str, script: Code, options: RunOptions, choice: Choice = EVERYTHING
) -> Plan:
    """Return what a map would do to what ``choice`` takes, after every check that can be made before any work.

    Raises:
        SpecError: a spec is wrong.
        JobError: there are not as many outputs as inputs, an output is an input, or the options make no sense.
        OutputExistsError: an output exists, and the options allow neither to replace nor to resume; or there are shards
            that belong to no known dataset (see `look_at_outputs`).
        ScriptError: the script cannot be used, or not be sent to where tasks run.
    """
    function(script, "process_sample", "process_samples")
    check_sendable(options, script)
    with using(options.storage):
        named = look_up(sources)
        urls = named.urls
        target = Destination(destination).resolve(len(urls))
        if target.count != len(urls):
            raise JobError(
                f"{format_count(len(urls), 'input shard')} cannot be mapped to "
                f"{format_count(target.count or 0, 'output shard')}",
                url=target.spec,
                fix=f"ask for {len(urls)}, or use htshuffle to change the number of shards",
            )
        if "-" in (*urls, target.spec) and options.cluster != "threads":
            raise JobError("standard input and output cannot be used on a cluster", fix="leave out -c, or use URLs")
        existing, replaced = look_at_outputs(target, urls, options)
        manifests = {} if target.spec == "-" and choice.is_everything else find_manifests(named)
        check_names(choice, named, manifests, options)
        facts = {} if target.spec == "-" else common_facts(manifests)
        choice = find_classes(choice, named, options)
        facts = choice.facts_of(facts)
        chosen = None if choice.is_everything else choose(choice, named, options)
    ahead = len(urls) < (options.jobs or processors())
    parts: Sequence[ShardChoice | None] = [None] * len(urls) if chosen is None else chosen.shards
    outputs = targets(target, options, set(existing), replaced)
    tasks = [
        MapTask(source, shard, script, options.on_error, ahead, "classes" in facts, part)
        for source, shard, part in zip(urls, outputs, parts, strict=True)
    ]
    job = {
        "program": "htmapper",
        "sources": list(map(redact, named.specs)),
        **script.job(),
        **({} if chosen is None else {"choice": choice.facts()}),
    }
    runs = [engine.Task(map_shard, (task,), task.source, options.storage) for task in tasks]
    return Plan(target, runs, existing, job, replaced, urls, facts, chosen)
