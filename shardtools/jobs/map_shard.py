"""The task of htmapper: one shard in, one shard out.

ShardReader -> blocks -> what is chosen -> records -> process_sample -> Composer -> ShardWriter -> commit -> sidecar
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any, Protocol

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import DuplicateKeyError, SampleError, ShardError, ShardtoolsError, StorageError
from shardtools.jobs.choice import ShardChoice
from shardtools.jobs.choosing import ChosenBlocks
from shardtools.jobs.options import OnError
from shardtools.jobs.script import Code, failure, function
from shardtools.jobs.target import (
    Counts,
    ShardResult,
    Target,
    digest,
    earlier_sidecar,
    is_own,
    shard_result,
    write_target,
)
from shardtools.query.condition import Seen
from shardtools.shards.manifest import CLASS_FIELD
from shardtools.shards.reader import Block, ShardReader, repeated_key
from shardtools.shards.samples import Composer, Members, Record, records
from shardtools.shards.writer import ShardWriter
from shardtools.storage import Stat, get_storage
from shardtools.urls import identity

FORMAT = 2
"""Increased when the same job would write other bytes than before, so that ``--resume`` does not mix the two."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapTask:
    """What one task does: map ``source`` to ``target`` by ``script``; ``ahead`` reads in a thread of its own.

    ``has_classes`` says that the numbers in the field ``cls`` have names, so that it matters whether they change.
    ``chosen`` is what it takes of the source; None for all of it.
    """

    source: str
    target: Target
    script: Code
    on_error: OnError = "fail"
    ahead: bool = False
    has_classes: bool = False
    chosen: ShardChoice | None = None


class Out(Protocol):
    """What takes the samples that come out, such as a `ShardWriter`."""

    def add(self, key: str, members: Members) -> None:
        """Take a sample."""


class _SourceError(Exception):
    """Carries an error in reading the source past the code that writes the target."""

    def __init__(self, error: ShardtoolsError):
        super().__init__(str(error))
        self.error = error


def map_shard(task: MapTask) -> ShardResult:
    """Map one shard and return what became of it.

    Raises:
        ShardtoolsError: the source cannot be read, a sample fails, or the target cannot be written.
        OutputExistsError: the job is resumed, but another job has written the target.
    """
    try:
        if (done := _completed(task)) is not None:
            return done
        if task.chosen is not None and task.chosen.is_nothing:
            return _map_nothing(task)
        with _reading(task) as reader:
            return _map(task, reader)
    except _SourceError as failed:
        error = failed.error
    if task.on_error == "fail":
        raise error
    return ShardResult(task.source, task.target.url, failure=str(error))


def _reading(task: MapTask) -> ShardReader:
    try:
        return ShardReader(task.source, ahead=task.ahead)
    except (StorageError, ShardError) as error:
        raise _SourceError(error) from error


def fingerprint(task: MapTask, source: Stat) -> str:
    """Return a text that is equal for tasks that write the same shard from the same source, and only for these."""
    facts = {
        "job": "map",
        "format": FORMAT,
        **task.script.facts("script"),
        "source": [identity(task.source), source.size, source.validator],
        **({} if task.chosen is None else task.chosen.facts()),
    }
    return digest(facts)


def _completed(task: MapTask) -> ShardResult | None:
    """Return the result of an earlier run, if the target's sidecar says that this very task completed it.

    A shard with skipped samples is complete only if they may be skipped now, too. A shard whose source has no
    validator, so that it may have changed, never is.
    """
    sidecar = earlier_sidecar(task.target)
    if sidecar is None:
        return None
    source = _stat_source(task.source)
    if not is_own(sidecar, task.target, fingerprint(task, source)):
        return None
    done = shard_result(task.source, source.size or 0, task.target.url, sidecar, resumed=True)
    return done if source.validator and (task.on_error == "skip" or not done.counts.skipped) else None


def _stat_source(source: str) -> Stat:
    if source == "-":
        return Stat(None, None)
    try:
        return get_storage(source).stat(source)
    except StorageError as error:
        raise _SourceError(error) from error


def try_shard(task: MapTask, out: Out) -> tuple[Counts, Seen]:
    """Map what is chosen of one shard, and give what comes out to ``out`` alone; the target is not written.

    Return how many samples there were, and which fields and columns they had.

    Raises:
        ShardtoolsError: the source cannot be read, or a sample fails and may not be skipped; what is skipped is logged.
    """
    mapper = _Mapper(task)
    try:
        with _reading(task) as reader:
            blocks = ChosenBlocks(task.chosen or ShardChoice(), reader)
            for block in _guarded(blocks):
                mapper.map_block(block, out)
    except _SourceError as failed:
        raise failed.error from failed
    for key, reason in mapper.skipped:
        logger.warning("%s: skipped: %s", key, reason)
    return mapper.counts(0), blocks.seen


def _map_nothing(task: MapTask) -> ShardResult:
    """Write an empty shard for one of which no sample is wanted; it is not read."""
    stat = _stat_source(task.source)
    sidecar = write_target(task.target, lambda writer: _Mapper(task).job(fingerprint(task, stat), writer.count))
    return shard_result(task.source, 0, task.target.url, sidecar)


def _map(task: MapTask, reader: ShardReader) -> ShardResult:
    mapper = _Mapper(task)

    def fill(writer: ShardWriter) -> dict[str, Any]:
        blocks = reader if task.chosen is None else ChosenBlocks(task.chosen, reader)
        for block in _guarded(blocks):
            mapper.map_block(block, writer)
        writer.flush()
        if isinstance(blocks, ChosenBlocks):
            mapper.seen = blocks.seen
        return mapper.job(fingerprint(task, reader.stat), writer.count)

    sidecar = write_target(task.target, fill, on_repeat=mapper.on_repeat)
    return shard_result(task.source, reader.stat.size or 0, task.target.url, sidecar)


def _guarded(source: Iterable[Block]) -> Iterator[Block]:
    """Yield the blocks of a shard; only its own errors become `_SourceError`, not those of the caller."""
    blocks = iter(source)
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except (ShardError, StorageError, SampleError) as error:
            raise _SourceError(error) from error
        yield block


class _Mapper:
    """Runs the script over the blocks of one shard, and keeps count."""

    def __init__(self, task: MapTask):
        self._task = task
        self._call = function(task.script, "process_sample", "process_samples")
        self._composer = Composer()
        self._read = self._dropped = self._others = 0
        self.skipped: list[tuple[str, str]] = []
        self._relabelled = False
        self.seen = Seen()

    def counts(self, written: int) -> Counts:
        """Return how many samples there were, of which so many were written."""
        return Counts(self._read, self._dropped, len(self.skipped), written, self._others)

    def job(self, print_of_task: str, written: int) -> dict[str, Any]:
        """Return what the sidecar says of the job."""
        return {
            "program": "htmapper",
            "fingerprint": print_of_task,
            "counts": asdict(self.counts(written)),
            "skipped": [list(entry) for entry in self.skipped],
            **({"relabelled": True} if self._relabelled else {}),
            **({} if self._task.chosen is None else {"seen": self.seen.as_json()}),
        }

    def on_repeat(self, key: str) -> None:
        """Raise or note the error of a sample that would have the key of an earlier one."""
        what = f"{self._task.script.subject(self._call.name)} returned two samples with this key"
        self._fail(DuplicateKeyError(what, fix="give each sample a key of its own"), key)

    def _fail(self, error: ShardtoolsError, *keys: str) -> None:
        """Raise an error that concerns the samples ``keys``, or note that they are skipped."""
        if self._task.on_error == "fail":
            member = keys[0] if len(keys) == 1 else f"{keys[0]} … {keys[-1]}"
            raise error.at(url=self._task.source, member=member) from (error.__cause__ or error)
        self.skipped += [(key, error.what) for key in keys]

    def map_block(self, block: Block, writer: Out) -> None:
        """Map the samples of a block and give what comes out to the writer."""
        self._read += len(block)
        self._others += block.table.other
        for row in block.repeated:
            self._fail(repeated_key(block.url, block.keys[row]), block.keys[row])
        if self._task.chosen is not None and not len(block):
            return
        source = records(block)
        if block.repeated:
            source = compress(source, ~np.isin(np.arange(len(block)), block.repeated))
        if self._call.name == "process_samples":
            self._map_together(list(source), writer)
        else:
            self._map_each(source, writer)

    def _map_each(self, source: Iterator[Record], writer: Out) -> None:
        for record in source:
            check_cancelled()
            key, label = record["key"], record.get(CLASS_FIELD)
            try:
                samples = self._process(record)
            except ShardtoolsError as error:
                self._fail(error, key)
                continue
            self._dropped += not samples
            for sample in samples:
                self._note_label(sample[1], [label])
                writer.add(*sample)

    def _note_label(self, members: Members, labels: Collection[bytes | None]) -> None:
        """Note if a sample has another class than any of ``labels``, so that the names of classes may be wrong."""
        layout, values = members
        if self._task.has_classes and not self._relabelled and CLASS_FIELD in layout.fields:
            label = values[layout.fields.index(CLASS_FIELD)].strip()
            self._relabelled = all(other is None or other.strip() != label for other in labels)

    def _process(self, record: Record) -> list[tuple[str, Members]]:
        """Return what the script makes of one sample."""
        returned = self._run(self._call.call, record)
        if returned is None:
            return []
        if isinstance(returned, (dict, Mapping)):  # dict first: asking an abstract class takes long
            return [self._composer.compose(returned)]
        return self._compose_all(returned, "return None, a record (a dict), or several records")

    def _map_together(self, source: list[Record], writer: Out) -> None:
        """Map samples by ``process_samples``; an error concerns all of them, since its sample is not known."""
        keys = [record["key"] for record in source]
        labels = {record["key"]: record.get(CLASS_FIELD) for record in source} if self._task.has_classes else {}
        check_cancelled()
        try:
            samples = self._compose_all(self._run(self._call.call, iter(source)), "yield records (dicts) from it")
        except ShardtoolsError as error:
            self._fail(error, *keys)
            return
        self._dropped += max(0, len(keys) - len(samples))
        known = set(labels.values())
        for key, members in samples:
            self._note_label(members, [labels[key]] if key in labels else known)
            writer.add(key, members)

    def _compose_all(self, returned: object, fix: str) -> list[tuple[str, Members]]:
        if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
            raise SampleError(f"{self._call.title} returned {type(returned).__name__}", fix=fix)
        return [self._composer.compose(record) for record in self._run(list, returned)]

    def _run(self, call: Callable[..., Any], argument: object) -> Any:
        """Return ``call(argument)``; what the script raises becomes a `SampleError`."""
        try:
            return call(argument)
        except (Exception, SystemExit) as error:
            raise failure(error, self._task.script, self._call.name) from error
