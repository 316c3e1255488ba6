"""The task of htmapper: one shard in, one shard out.

ShardReader -> blocks -> records -> process_sample -> Composer -> ShardWriter -> commit -> sidecar
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import (
    DuplicateKeyError,
    NotFoundError,
    OutputExistsError,
    SampleError,
    ShardError,
    ShardtoolsError,
    StorageError,
)
from shardtools.jobs.options import OnError
from shardtools.jobs.script import Script, function, where
from shardtools.shards.reader import Block, ShardReader
from shardtools.shards.samples import Composer, Members, Record, records, repeated_key
from shardtools.shards.sidecar import Sidecar, read_sidecar, sidecar_url, write_sidecar
from shardtools.shards.writer import ShardWriter
from shardtools.spec import identity
from shardtools.storage import Stat, get_storage

FORMAT = 1
"""Raised whenever the same job would write other bytes than before, so that ``--resume`` does not mix the two."""


@dataclass(frozen=True)
class OldManifest:
    """A manifest at ``url`` that ``run``, a text that no other run has, will replace."""

    url: str
    run: str


@dataclass(frozen=True)
class MapTask:
    """What one task does: map ``source`` to ``target`` by ``script``.

    ``resume`` keeps the target if this very task has completed it, ``overwrite`` replaces it whoever made it, and
    ``ahead`` reads the source in a thread of its own. ``marked`` says that the target has a sidecar; it, and the
    ``manifest`` that describes the target as it was, are deleted before the target is replaced.
    """

    source: str
    target: str
    script: Script
    on_error: OnError = "fail"
    resume: bool = False
    overwrite: bool = False
    ahead: bool = False
    marked: bool = False
    manifest: OldManifest | None = None


@dataclass(frozen=True)
class Counts:
    """Samples ``read``, ``dropped`` by the script, ``skipped`` for errors, and ``written``.

    ``dropped`` are those for which the script returned nothing; with ``process_samples`` those that a batch came out
    shorter by. ``others`` are members of the source that belong to no sample, such as folders.
    """

    read: int = 0
    dropped: int = 0
    skipped: int = 0
    written: int = 0
    others: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard.

    ``source_size`` and ``filesize`` are bytes as stored. ``resumed`` says that the shard was there already.
    ``failure`` is why the source could not be read, in which case nothing was written; only with ``on_error="skip"``.
    ``skipped`` has key and reason of each sample that was left out where there is no sidecar to hold them.
    """

    source: str
    target: str
    counts: Counts = Counts()
    source_size: int = 0
    filesize: int = 0
    checksum: str = ""
    fields: Mapping[str, int] = field(default_factory=dict)
    resumed: bool = False
    failure: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()


class _SourceError(Exception):
    """Carries an error in reading the source past the code that writes the target."""

    def __init__(self, error: ShardtoolsError):
        super().__init__(str(error))
        self.error = error


def map_shard(task: MapTask) -> ShardResult:
    """Map one shard and return what became of it.

    Raises:
        ShardtoolsError: of the many kinds, naming the shard and the sample.
        OutputExistsError: resumed, but another job has written the target.
    """
    try:
        if task.resume and task.marked and (done := _completed(task)) is not None:
            return done
        with _reading(task) as reader:
            return _map(task, reader)
    except _SourceError as failed:
        error = failed.error
    if task.on_error == "fail":
        raise error
    return ShardResult(task.source, task.target, failure=str(error))


def _reading(task: MapTask) -> ShardReader:
    try:
        return ShardReader(task.source, ahead=task.ahead)
    except StorageError as error:
        raise _SourceError(error) from error


def fingerprint(task: MapTask, source: Stat) -> str:
    """Return a text that is the same exactly for tasks that write the same shard from the same source object."""
    facts = {
        "job": "map",
        "format": FORMAT,
        "script": task.script.text,
        "params": sorted((name, repr(value)) for name, value in dict(task.script.params).items()),
        "source": [identity(task.source), source.size, source.validator],
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _completed(task: MapTask) -> ShardResult | None:
    """Return the result of an earlier run, if the target's mark says that this very task completed it.

    One with samples left out is complete only if they may be; one from a source that nothing identifies never is.
    """
    sidecar = _read_mark(task.target)
    if sidecar is None:
        return None
    source = _stat_source(task.source)
    if sidecar.job.get("fingerprint") == fingerprint(task, source):
        done = _result(task, source, sidecar, resumed=True)
        return done if source.validator and (task.on_error == "skip" or not done.counts.skipped) else None
    if task.overwrite:
        return None
    raise OutputExistsError(
        "another script, or another version of the source, made this shard",
        url=task.target,
        fix="add --overwrite to replace such shards, or choose another destination",
    )


def _read_mark(target: str) -> Sidecar | None:
    try:
        size = get_storage(target).stat(target).size
    except NotFoundError:
        return None
    return read_sidecar(target, size)


def _stat_source(source: str) -> Stat:
    if source == "-":
        return Stat(None, None)
    try:
        return get_storage(source).stat(source)
    except StorageError as error:
        raise _SourceError(error) from error


def _result(task: MapTask, source: Stat, sidecar: Sidecar, *, resumed: bool = False) -> ShardResult:
    return ShardResult(
        source=task.source,
        target=task.target,
        counts=Counts(**sidecar.job["counts"]),
        source_size=source.size or 0,
        filesize=sidecar.filesize,
        checksum=sidecar.checksum,
        fields=sidecar.count_fields(),
        resumed=resumed,
    )


def _map(task: MapTask, reader: ShardReader) -> ShardResult:
    mapper = _Mapper(task)
    with get_storage(task.target).create(task.target) as sink:
        writer = ShardWriter(sink, task.target, on_repeat=mapper.on_repeat)
        for block in _guarded(reader):
            mapper.map_block(block, writer)
        writer.flush()
        sidecar = writer.finish(mapper.job(fingerprint(task, reader.stat), writer.count))
        _unmark(task)
    result = _result(task, reader.stat, sidecar)
    if task.target == "-":
        return replace(result, skipped=tuple((key, reason) for key, reason in sidecar.job["skipped"]))
    write_sidecar(task.target, sidecar)
    return result


def _unmark(task: MapTask) -> None:
    """Delete what vouches for the target as it was; nothing may, from its replacement to its new mark."""
    if task.manifest is not None:
        _delete_once(task.manifest)
    if task.marked:
        get_storage(task.target).delete(sidecar_url(task.target))


@lru_cache(maxsize=16)
def _delete_once(manifest: OldManifest) -> None:
    """Delete the manifest, once in each process, rather than once for each of its shards."""
    get_storage(manifest.url).delete(manifest.url)


def _guarded(reader: ShardReader) -> Iterator[Block]:
    """Yield the blocks of the reader; its errors are told apart from those of whoever uses the blocks."""
    blocks = iter(reader)
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except (ShardError, StorageError) as error:
            raise _SourceError(error) from error
        yield block


class _Mapper:
    """Runs the script over the blocks of one shard, and keeps count."""

    def __init__(self, task: MapTask):
        self._task = task
        self._call = function(task.script, "process_sample", "process_samples")
        self._composer = Composer()
        self._read = self._dropped = self._others = 0
        self._skipped: list[tuple[str, str]] = []

    def job(self, print_of_task: str, written: int) -> dict[str, Any]:
        """Return what the sidecar says of the job."""
        counts = Counts(self._read, self._dropped, len(self._skipped), written, self._others)
        return {
            "program": "htmapper",
            "fingerprint": print_of_task,
            "counts": asdict(counts),
            "skipped": [list(entry) for entry in self._skipped],
        }

    def on_repeat(self, key: str) -> None:
        """Treat a sample that would have the key of an earlier one."""
        self._fail(
            DuplicateKeyError("the script returned two samples with this key", fix="give each a key of its own"), key
        )

    def _fail(self, error: ShardtoolsError, *keys: str) -> None:
        """Raise an error that concerns the samples ``keys``, or note that they are left out."""
        if self._task.on_error == "fail":
            member = keys[0] if len(keys) == 1 else f"{keys[0]} … {keys[-1]}"
            raise error.at(url=self._task.source, member=member) from (error.__cause__ or error)
        self._skipped += [(key, error.what) for key in keys]

    def map_block(self, block: Block, writer: ShardWriter) -> None:
        """Map the samples of a block and give what comes out to the writer."""
        self._read += len(block)
        self._others += block.table.other
        for row in block.repeated:
            self._fail(repeated_key(block.url, block.keys[row]), block.keys[row])
        source = records(block)
        if block.repeated:
            source = compress(source, ~np.isin(np.arange(len(block)), block.repeated))
        if self._call.name == "process_samples":
            self._map_together(list(source), writer)
        else:
            self._map_each(source, writer)

    def _map_each(self, source: Iterator[Record], writer: ShardWriter) -> None:
        for record in source:
            check_cancelled()
            key = record["key"]
            try:
                samples = self._process(record)
            except ShardtoolsError as error:
                self._fail(error, key)
                continue
            self._dropped += not samples
            for sample in samples:
                writer.add(*sample)

    def _process(self, record: Record) -> list[tuple[str, Members]]:
        """Return what the script makes of one sample."""
        returned = self._run(self._call.call, record)
        if returned is None:
            return []
        if isinstance(returned, (dict, Mapping)):  # dict first: asking an abstract class takes long
            return [self._composer.compose(returned)]
        return self._compose_all(returned, "return None, a record (a dict), or several records")

    def _map_together(self, source: list[Record], writer: ShardWriter) -> None:
        """Map samples by ``process_samples``; an error concerns them all, since nobody can tell whose it is."""
        keys = [record["key"] for record in source]
        check_cancelled()
        try:
            samples = self._compose_all(self._run(self._call.call, iter(source)), "yield records (dicts) from it")
        except ShardtoolsError as error:
            self._fail(error, *keys)
            return
        self._dropped += max(0, len(keys) - len(samples))
        for sample in samples:
            writer.add(*sample)

    def _compose_all(self, returned: object, fix: str) -> list[tuple[str, Members]]:
        if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
            raise SampleError(f"{self._call.name} returned {type(returned).__name__}", fix=fix)
        return [self._composer.compose(record) for record in self._run(list, returned)]

    def _run(self, call: Callable[..., Any], argument: object) -> Any:
        """Return ``call(argument)``; what the script raises becomes a `SampleError`."""
        try:
            return call(argument)
        except (Exception, SystemExit) as error:
            raise SampleError(
                where(error, self._task.script), fix="mend the script, or leave such samples out with --on-error skip"
            ) from error
