"""What an exchange will do: its inputs in groups, its destination, its spill; every check before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from shardtools.errors import AccessError, JobError, LimitError, NotFoundError, ShardError, SpecError, redact
from shardtools.jobs.choice import EVERYTHING, Choice, ChosenShards
from shardtools.jobs.choosing import check_each, check_names, choose, fields_of_each
from shardtools.jobs.exchange.cost import LOCAL, SERVICES, Services, Shape
from shardtools.jobs.exchange.duplicates import DuplicatePolicy
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.run import Run
from shardtools.jobs.exchange.spill import spill_of
from shardtools.jobs.exchange.workers import LEAST_BUDGET, Workers, expected_workers, find_workers
from shardtools.jobs.extraction.class_names import find_classes
from shardtools.jobs.functions import check_sendable
from shardtools.jobs.inputs import Input, look_at
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import NOTHING_REPLACED, Replaced, look_at_outputs
from shardtools.jobs.target import digest
from shardtools.json_text import parse_json
from shardtools.query.json_values import fields_of
from shardtools.query.names import find_source
from shardtools.shards.manifest import Manifest, common_facts, find_manifests, read_manifest
from shardtools.shards.reader import BLOCK_SIZE
from shardtools.shards.tar import RECORD
from shardtools.spec import MAX_SHARDS, Destination
from shardtools.storage import using
from shardtools.storage.expansion import Sources, SourceSpecs, look_up
from shardtools.storage.limited import read_limited
from shardtools.urls import identity, scheme_of

FORMAT = 2
"""Increased when the same job would write other bytes than before."""

DEFAULT_MEMORY = 1 << 30


@dataclass(frozen=True)
class Exchange:
    """What to do: the order, the policy for samples with the same key, and the number of outputs.

    ``memory`` is about how many bytes of samples all tasks of a process hold together. ``spill`` is a URL for the data
    between the passes. With ``@auto``, an output has at most ``shard_size`` bytes of tar file, or ``shard_count``
    samples; without both there are as many outputs as inputs. ``job`` describes the job in the manifest. ``choice`` is
    what it takes of its sources.
    """

    program: str
    keying: Keying
    policy: DuplicatePolicy = DuplicatePolicy()  # noqa: RUF009 - it is frozen
    memory: int = DEFAULT_MEMORY
    spill: str | None = None
    shard_size: int | None = None
    shard_count: int | None = None
    combine: bool = False
    job: dict[str, Any] = field(default_factory=dict)
    choice: Choice = EVERYTHING


@dataclass(frozen=True)
class ExchangePlan:
    """What `run_exchange` will do: ``inputs`` in ``groups`` of ``group_size`` bytes, to ``destination``.

    ``sources`` are the specs that name the inputs, as the manifest has them.
    It goes through ``spill``. ``budget`` is how many bytes of samples all tasks of a process hold together, ``share``
    how many each holds, about.
    ``collected`` is the fingerprint of the first pass, ``fingerprint`` that of the whole job. ``existing`` are the
    outputs that exist, ``replaced`` what is removed at the end. ``facts`` are what all sources say of the samples; they
    are empty if a script makes new samples. ``chosen`` is what is taken of each input; None if that is all.
    """

    exchange: Exchange
    sources: tuple[str, ...]
    destination: Destination
    inputs: tuple[Input, ...]
    groups: tuple[tuple[int, ...], ...]
    group_size: int
    spill: str
    budget: int
    share: int
    collected: str
    fingerprint: str
    existing: tuple[str, ...]
    replaced: Replaced = NOTHING_REPLACED
    facts: Mapping[str, Any] = field(default_factory=dict)
    chosen: ChosenShards | None = None

    @property
    def size(self) -> int:
        """Bytes of all inputs as tar files, about."""
        return sum(entry.tar_size for entry in self.inputs)

    def shape(self, runs: Sequence[Run] | None = None) -> Shape:
        """Return how large the exchange is, as far as that is known before its ``runs`` are."""
        known = [entry.samples for entry in self.inputs if entry.samples is not None]
        samples = sum(known) if len(known) == len(self.inputs) else None
        count, size = self._expected_runs(), self.size
        if runs is not None:
            samples, count, size = sum(run.count for run in runs), len(runs), sum(run.data_bytes for run in runs)
        outputs = self.destination.count or len(self.inputs)
        batch = max(self.share // 2, LEAST_BUDGET)
        return Shape(len(self.inputs), size, samples, len(self.groups), count, outputs, batch)

    def _expected_runs(self) -> int:
        """Return how many runs there will be; one is written when the next block of an input does not fit into it."""
        sizes = (sum(self.inputs[index].tar_size for index in group) for group in self.groups)
        return sum(max(1, -(-size // max(self.share, BLOCK_SIZE))) for size in sizes)

    def services(self) -> Services:
        """Return what the storage of inputs, spill and outputs asks for."""
        places = (self.inputs[0].url if self.inputs else "", self.spill, self.destination.spec)
        return Services(*(SERVICES.get(scheme_of(place), LOCAL) for place in places))


def plan_exchange(sources: SourceSpecs, destination: str, exchange: Exchange, options: RunOptions) -> ExchangePlan:
    """Return what would be done, after every check that can be made before any work.

    Raises:
        SpecError: a spec is wrong.
        JobError: an output is an input, no input has the field to sort by, or the options make no sense.
        ScriptError: functions cannot be sent to where tasks run.
        OutputExistsError: an output exists, and the options allow neither to replace nor to resume.
    """
    check_sendable(options, exchange.keying.script, exchange.policy.reduce)
    with using(options.storage):
        named = look_up(sources)
        manifests = find_manifests(named)
        inputs = _look_at(named, manifests, destination, exchange, options)
        target = _destination(destination, exchange, inputs)
        existing, replaced = look_at_destination(_expected(target, exchange, inputs, options), inputs, options)
        exchange = replace(exchange, choice=find_classes(exchange.choice, named, options))
        chosen = None if exchange.choice.is_everything else choose(exchange.choice, named, options)
        collected, fingerprint = _fingerprints(exchange, inputs, chosen)
        inputs = _without_unread(inputs, chosen)
        workers, budget = expected_workers(options), max(exchange.memory * 3 // 4, LEAST_BUDGET)
        group_size = _group_size(inputs, budget, workers)
        return ExchangePlan(
            exchange=exchange,
            sources=tuple(map(redact, named.specs)),
            destination=target,
            inputs=inputs,
            groups=_groups(inputs, group_size),
            group_size=group_size,
            spill=spill_of(destination, exchange.spill, options),
            budget=budget,
            share=workers.share(budget),
            collected=collected,
            fingerprint=fingerprint,
            existing=existing,
            replaced=replaced,
            facts=_facts(exchange, manifests),
            chosen=chosen,
        )


def _look_at(
    named: Sources,
    manifests: Mapping[str, Manifest | None],
    destination: str,
    exchange: Exchange,
    options: RunOptions,
) -> tuple[Input, ...]:
    """Return what is known of each input, after checking that they have what is asked for."""
    if any(part.spec == "-" for part in named.parts):
        raise JobError("standard input cannot be put in another order", fix="name shards")
    needs_sizes = exchange.shard_size is not None and Destination(destination).is_auto
    inputs = look_at(named, manifests, options, exact=needs_sizes)
    check_names(exchange.choice, named, manifests, options)
    check_each(exchange.choice, fields_of_each(named, inputs))
    if exchange.policy.merge in ("inner", "left") and len({entry.source for entry in inputs}) == 1:
        what = f"--merge {exchange.policy.merge} needs several sources, and this is one"
        raise JobError(what, fix="name each source as an argument of its own, not joined by ::; or --merge outer")
    if exchange.keying.kind == "field":
        _check_field(exchange.keying.field, exchange.choice, inputs, named, options)
    return inputs


def _fingerprints(exchange: Exchange, inputs: Sequence[Input], chosen: ChosenShards | None) -> tuple[str, str]:
    """Return the fingerprints of the first pass, and of the whole job."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "inputs": [[identity(entry.url), entry.source, entry.size, entry.validator] for entry in inputs],
        "order": exchange.keying.facts(),
        "combine": exchange.policy.facts() if exchange.combine else None,
    }
    if chosen is not None:
        facts["chosen"] = chosen.facts()
    return digest(facts), digest({"job": exchange.program, "same": exchange.policy.facts(), **facts})


def _without_unread(inputs: tuple[Input, ...], chosen: ChosenShards | None) -> tuple[Input, ...]:
    """Return the inputs; one of which nothing is wanted is not read, and takes no memory."""
    if chosen is None:
        return inputs
    pairs = zip(inputs, chosen.shards, strict=True)
    return tuple(replace(entry, tar_size=0) if part.is_nothing else entry for entry, part in pairs)


def _facts(exchange: Exchange, manifests: Mapping[str, Manifest | None]) -> dict[str, Any]:
    """Return what all sources say of the samples, as far as it is true of the outputs."""
    return {} if exchange.policy.reduce else exchange.choice.facts_of(common_facts(manifests))


def fit_workers(plan: ExchangePlan, options: RunOptions) -> ExchangePlan:
    """Return a plan with groups for the workers that a cluster has now, or those of the job that it continues.

    Raises:
        SchedulerError: no scheduler answers.
    """
    with using(options.storage):
        workers = find_workers(options)
        size = _group_size(plan.inputs, plan.budget, workers)
        if options.resume:
            with suppress(NotFoundError, ShardError, LimitError):
                noted = _read_spilt_job(plan.spill).get("group_size")
                size = noted if type(noted) is int and noted > 0 else size
        groups = _groups(plan.inputs, size)
        return replace(plan, groups=groups, group_size=size, share=workers.share(plan.budget))


def _group_size(inputs: Sequence[Input], budget: int, workers: Workers) -> int:
    """Return how many bytes of inputs a task collects, so that every thread has some, and its share of memory."""
    return min(workers.share(budget), max(sum(entry.tar_size for entry in inputs) // workers.threads, 1))


def look_at_destination(
    destination: Destination, inputs: Sequence[Input], options: RunOptions
) -> tuple[tuple[str, ...], Replaced]:
    """Return what `look_at_outputs` does; nothing for ``@auto``, whose outputs are not known."""
    if destination.is_auto:
        return (), NOTHING_REPLACED
    return look_at_outputs(destination, [entry.url for entry in inputs], options)


def _expected(target: Destination, exchange: Exchange, inputs: Sequence[Input], options: RunOptions) -> Destination:
    """Return the destination with the number of outputs in place of ``@auto``, if that is known before any work."""
    samples = [entry.samples for entry in inputs if entry.samples is not None]
    unknown = exchange.combine or options.on_error == "skip" or not exchange.choice.is_everything
    if not target.is_auto or len(samples) < len(inputs) or unknown:
        return target
    return target.resolve(count_outputs(exchange, sum(samples), sum(entry.tar_size for entry in inputs)))


def count_outputs(exchange: Exchange, samples: int, size: int) -> int:
    """Return how many outputs ``@auto`` stands for, given the number of samples and the bytes of all their spans.

    Raises:
        SpecError: they are too many.
    """
    if exchange.shard_count:
        count = -(-samples // exchange.shard_count)
    else:
        count = -(-size // max((exchange.shard_size or 1) - RECORD, 1))
    if count > MAX_SHARDS:
        raise SpecError("there would be too many shards", fix="make the shards larger")
    return max(count, 1)


def earlier_seed(destination: str, spill: str | None, options: RunOptions) -> int | None:
    """Return the seed of an interrupted or complete job to this destination; None if there was none."""
    with using(options.storage):
        for read in (_spilt_job, _written_job):
            try:
                seed = read(destination, spill, options).get("seed")
            except (NotFoundError, AccessError, ShardError, LimitError):
                continue
            if type(seed) is int and seed >= 0:
                return seed
    return None


def _spilt_job(destination: str, spill: str | None, options: RunOptions) -> Mapping[str, Any]:
    """Return what the spill of an interrupted job says of it."""
    return _read_spilt_job(spill_of(destination, spill, options))


def _read_spilt_job(place: str) -> Mapping[str, Any]:
    url = f"{place}job.json"
    job = parse_json(read_limited(url, "manifest"), url)
    return job if isinstance(job, dict) else {}


def _written_job(destination: str, spill: str | None, options: RunOptions) -> Mapping[str, Any]:
    """Return what the manifest of a complete job says of it."""
    return read_manifest(_manifest(destination)).job


def _manifest(destination: str) -> str:
    target = Destination(destination)
    return target.spec if target.is_auto else target.manifest


def _check_field(field: str, choice: Choice, inputs: Sequence[Input], sources: Sources, options: RunOptions) -> None:
    """Raise if no input has the field to sort by, or to look into, by their sidecars.

    What manifests say is looked up there.

    Raises:
        JobError: none has.
    """
    known = {*choice.names_of(_fields(inputs))}
    wanted = {*fields_of(field)}
    if known and not known & wanted:
        known = {*choice.names_of(_fields(look_at(sources, {}, options)))}
    if known and not known & wanted:
        fix = f"the fields are {', '.join(sorted(known))}"
        if find_source(field, [*known]) is not None or " " in field.strip():
            fix = f"{fix}; a script's sort_key(record) can sort by anything else"
        raise JobError(f"no sample has the field {field} to sort by", fix=fix)


def _fields(inputs: Sequence[Input]) -> list[str]:
    """Return the names of all fields; none if those of a shard are not known."""
    known: set[str] = set()
    for entry in inputs:
        if entry.fields is None:
            return []
        known.update(entry.fields)
    return sorted(known)


def _destination(spec: str, exchange: Exchange, inputs: Sequence[Input]) -> Destination:
    target = Destination(spec)
    if target.spec == "-":
        raise JobError("standard output cannot be written by several tasks", url="-", fix="name shards")
    if not target.is_auto:
        if exchange.shard_size or exchange.shard_count:
            fix = "use @auto with --shard-size or --shard-count, or @N without"
            raise SpecError("the number of shards is given twice", url=spec, fix=fix)
        return target
    return target if exchange.shard_size or exchange.shard_count else target.resolve(len(inputs))


def _groups(inputs: Sequence[Input], size: int) -> tuple[tuple[int, ...], ...]:
    """Return the indexes of the inputs, in groups of at most ``size`` bytes, or of one input."""
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    total = 0
    for index, entry in enumerate(inputs):
        if current and total + entry.tar_size > size:
            groups.append(tuple(current))
            current, total = [], 0
        current.append(index)
        total += entry.tar_size
    if current:
        groups.append(tuple(current))
    return tuple(groups)
