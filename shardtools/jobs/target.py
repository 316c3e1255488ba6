"""An output shard of a job: kept if the job has completed it before, else written and committed.

    earlier sidecar -> its fingerprint is this task's -> keep the shard
    otherwise -> create -> samples -> delete the old sidecar and manifest -> commit -> write the new sidecar

A sidecar says which task made its shard, and that the shard is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Mapping
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from typing import Any
from uuid import uuid4

from shardtools.errors import NotFoundError, OutputExistsError
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import NOTHING_REPLACED, Replaced, retire
from shardtools.query.condition import Seen
from shardtools.shards.manifest import ShardEntry
from shardtools.shards.sidecar import Sidecar, read_sidecar, sidecar_url, write_sidecar
from shardtools.shards.writer import ShardWriter
from shardtools.spec import Destination
from shardtools.storage import Sink, get_storage


@dataclass(frozen=True)
class OldManifest:
    """A manifest at ``url`` that will be replaced by ``run``, a text that no other run has.

    With ``retire`` it belongs to a dataset whose remaining shards will be removed, so that their names must be kept.
    """

    url: str
    run: str
    retire: bool = False


@dataclass(frozen=True)
class Target:
    """A shard to be written at ``url``.

    ``resume`` keeps it if the very task that would write it has completed it; ``overwrite`` replaces it in any case.
    ``has_sidecar`` says that there is a sidecar. The sidecar, and the ``manifests`` that describe the shard as it was,
    are deleted, or retired, before the shard is replaced.
    """

    url: str
    resume: bool = False
    overwrite: bool = False
    has_sidecar: bool = False
    manifests: tuple[OldManifest, ...] = ()


def targets(
    destination: Destination, options: RunOptions, existing: Container[str], replaced: Replaced = NOTHING_REPLACED
) -> list[Target]:
    """Return the targets of a destination; ``existing`` has those of its shards, sidecars and manifest that exist.

    ``replaced`` is what they replace of other datasets.
    """
    run = uuid4().hex
    old = [OldManifest(destination.manifest, run)] if destination.manifest in existing else []
    old += [OldManifest(url, run, retire=True) for url in replaced.manifests]
    return [
        Target(url, options.resume, options.overwrite, sidecar_url(url) in existing, tuple(old))
        for url in destination.urls()
    ]


@dataclass(frozen=True)
class Counts:
    """Samples ``read``, ``dropped`` on purpose, ``skipped`` after an error, and ``written``.

    ``dropped`` counts samples for which the user's function returned None, or that the job removes, such as duplicates;
    with ``process_samples`` it is how much shorter each batch became. ``others`` counts members of the source that
    belong to no sample, such as folders: these are left out.
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
    """The result of the task that writes one shard.

    ``source_size`` and ``filesize`` are bytes as stored. ``resumed`` says that an earlier run has written the shard.
    ``failure`` is why the source could not be read; then nothing was written (only with ``on_error="skip"``).
    ``skipped`` has the key and reason of each skipped sample if there is no sidecar to hold them. ``content`` is a hash
    of all samples in hexadecimal digits, for jobs that copy samples unchanged. ``relabelled`` says that the user's
    function changed the classes of samples, and ``seen`` which fields and columns of a choice they had before.
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
    content: str = ""
    relabelled: bool = False
    seen: Seen = Seen()  # noqa: RUF009 - it is frozen

    @property
    def entry(self) -> ShardEntry:
        """The entry of the shard in the manifest of its dataset."""
        return ShardEntry(self.target, self.counts.written, self.filesize, self.checksum, self.fields)


def shard_result(source: str, source_size: int, target: str, sidecar: Sidecar, *, resumed: bool = False) -> ShardResult:
    """Return the result of a complete shard, from its sidecar."""
    skipped = () if target != "-" else tuple((key, reason) for key, reason in sidecar.job["skipped"])
    return ShardResult(
        source=source,
        target=target,
        counts=Counts(**sidecar.job["counts"]),
        source_size=source_size,
        filesize=sidecar.filesize,
        checksum=sidecar.checksum,
        fields=sidecar.table.count_fields(),
        resumed=resumed,
        skipped=skipped,
        content=sidecar.job.get("content", ""),
        relabelled=sidecar.job.get("relabelled") is True,
        seen=Seen.of_json(sidecar.job["seen"]) if "seen" in sidecar.job else Seen(),
    )


def digest(facts: Mapping[str, Any]) -> str:
    """Return the fingerprint of a task that ``facts`` determine: equal facts give equal texts, others different ones.

    >>> digest({"job": "map", "seed": 1})
    'ae62bf047338180e89cccd3782913e88'
    """
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def earlier_sidecar(target: Target) -> Sidecar | None:
    """Return the sidecar of a target that an earlier run has written and this one may keep, None if there is none."""
    if not (target.resume and target.has_sidecar):
        return None
    try:
        size = get_storage(target.url).stat(target.url).size
    except NotFoundError:
        return None
    return read_sidecar(target.url, size)


def is_own(sidecar: Sidecar, target: Target, fingerprint: str) -> bool:
    """Return whether the task with this ``fingerprint`` has written the target that ``sidecar`` describes.

    Raises:
        OutputExistsError: another task has, and the target may not be replaced.
    """
    if sidecar.job.get("fingerprint") == fingerprint:
        return True
    if target.overwrite:
        return False
    raise OutputExistsError(
        "another job made this shard: another script or function, other options, or another version of the source",
        url=target.url,
        fix="add --overwrite to replace such shards, or choose another destination",
    )


def write_target(
    target: Target,
    fill: Callable[[ShardWriter], Mapping[str, Any]],
    on_repeat: Callable[[str], None] | None = None,
) -> Sidecar:
    """Write a shard of the samples that ``fill`` adds, then its sidecar, which is returned.

    ``fill`` returns what the sidecar is to say of the job. ``on_repeat`` is that of `ShardWriter`.
    """

    def make(sink: Sink) -> Sidecar:
        writer = ShardWriter(sink, target.url, on_repeat=on_repeat)
        return writer.finish(fill(writer))

    return commit(target, make)


def commit(target: Target, make: Callable[[Sink], Sidecar]) -> Sidecar:
    """Write a shard and commit it, then write its sidecar; ``make`` writes the bytes and returns the sidecar."""
    with get_storage(target.url).create(target.url) as sink:
        sidecar = make(sink)
        delete_descriptions(target)
    if target.url != "-":
        write_sidecar(target.url, sidecar)
    return sidecar


def delete_descriptions(target: Target) -> None:
    """Delete the sidecar and the manifests of the target as it was: from now on they would describe another shard."""
    for manifest in target.manifests:
        _end_once(manifest)
    if target.has_sidecar:
        get_storage(target.url).delete(sidecar_url(target.url))


@lru_cache(maxsize=16)
def _end_once(manifest: OldManifest) -> None:
    """Delete or retire the manifest, once in each process, rather than once for each of its shards."""
    if manifest.retire:
        retire(manifest.url)
    else:
        get_storage(manifest.url).delete(manifest.url)
