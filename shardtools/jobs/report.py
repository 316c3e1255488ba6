"""What a job did, for its caller, the manifest and the ``--report`` file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from shardtools.engine import current_incidents
from shardtools.errors import ShardtoolsError, redact
from shardtools.jobs.target import Counts, ShardResult
from shardtools.redaction import conceal
from shardtools.shards.sidecar import read_sidecar
from shardtools.storage import get_storage
from shardtools.units import format_count, format_size

if TYPE_CHECKING:
    from shardtools.jobs.table.run import TableResult


@dataclass(frozen=True)
class Skipped:
    """A sample that was skipped, or with no ``key`` a whole shard, and why. The ``shard`` is a URL without secrets."""

    shard: str
    key: str | None
    reason: str


@dataclass(frozen=True)
class JobResult:
    """What a job did: one `ShardResult` for each shard, in the order of the outputs.

    For jobs whose outputs do not correspond to inputs, ``before`` is what was skipped of the inputs, and ``others`` the
    number of their members that belong to no sample. ``job`` describes the job as in the manifest, with its seed.
    ``tables`` are the tables that were made along, one for each dataset.
    """

    destination: str
    shards: Sequence[ShardResult]
    before: Sequence[Skipped] = ()
    others: int = 0
    job: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[TableResult, ...] = ()

    def __repr__(self) -> str:
        """Return what a person wants to see of many shards: their sums."""
        parts = [
            format_count(self.counts.written, "sample"),
            format_count(len(self.shards) - len(self.failures), "shard"),
            format_size(self.filesize),
        ]
        if self.counts.dropped:
            parts.append(f"{format_count(self.counts.dropped, 'sample')} dropped")
        if not self.is_whole:
            failed = format_count(len(self.failures) + self.unread, "shard")
            parts.append(f"{format_count(self.counts.skipped, 'sample')} and {failed} skipped")
        return f"JobResult({redact(self.destination)!r}: {', '.join(parts)})"

    @property
    def counts(self) -> Counts:
        """The sums over all shards."""
        before = Counts(skipped=len(self.before) - self.unread, others=self.others)
        return sum((shard.counts for shard in self.shards), before)

    @property
    def unread(self) -> int:
        """How many inputs were skipped as a whole, by a job whose outputs do not correspond to inputs."""
        return sum(entry.key is None for entry in self.before)

    @property
    def filesize(self) -> int:
        """Bytes of all outputs, as stored."""
        return sum(shard.filesize for shard in self.shards)

    @property
    def failures(self) -> list[ShardResult]:
        """The shards that could not be read."""
        return [shard for shard in self.shards if shard.failure is not None]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was skipped."""
        return not self.failures and not self.unread and not self.counts.skipped

    def skipped(self) -> Iterator[Skipped]:
        """Yield what was skipped, as noted in the sidecars of the outputs."""
        yield from self.before
        for shard in self.shards:
            source = redact(shard.source)
            if shard.failure is not None:
                yield Skipped(source, None, shard.failure)
            elif shard.counts.skipped:
                for key, reason in shard.skipped or _recorded(shard.target):
                    yield Skipped(source, key, reason)


def _recorded(target: str) -> Sequence[tuple[str, str]]:
    """Return the key and reason of each sample that was skipped, from the sidecar of a shard."""
    sidecar = read_sidecar(target, None)
    return [] if sidecar is None else sidecar.job["skipped"]


def write_report(
    url: str,
    job: Mapping[str, Any],
    result: JobResult | None,
    error: BaseException | None,
    left_out: Iterable[tuple[str, str]] = (),
) -> None:
    """Write a JSON report to ``url``: the job, its counts, everything skipped, and the error that ended it.

    ``left_out`` has what the sources contain that belongs to no sample, each with the reason.
    """
    report: dict[str, Any] = {"job": dict(job), "error": None if error is None else _describe_error(error)}
    if result is not None:
        report["counts"] = asdict(result.counts)
        report["shards"] = len(result.shards)
        report["resumed"] = sum(shard.resumed for shard in result.shards)
        report["filesize"] = result.filesize
        report["skipped"] = [asdict(entry) for entry in result.skipped()]
    if entries := [{"name": redact(name), "reason": reason} for name, reason in left_out]:
        report["left_out"] = entries
    _write(url, report)


def report_failure(
    url: str,
    job: Mapping[str, Any],
    result: JobResult | None,
    error: BaseException,
    left_out: Iterable[tuple[str, str]] = (),
) -> None:
    """Write the report of a job that ended with ``error``; if that fails, too, ``error`` gets a note that says so."""
    try:
        write_report(url, job, result, error, left_out)
    except ShardtoolsError as second:
        error.add_note(f"the report was not written: {second}")


def write_summary(url: str, job: Mapping[str, Any], counts: Mapping[str, int], skipped: Iterable[Skipped]) -> None:
    """Write a JSON report to ``url`` for a job that makes no shards: the job, its counts, and everything skipped."""
    entries = [asdict(entry) for entry in skipped]
    _write(url, {"job": dict(job), "error": None, "counts": dict(counts), "skipped": entries})


def _write(url: str, report: Mapping[str, Any]) -> None:
    report = {**report, "incidents": current_incidents().counts()}
    with get_storage(url).create(url) as sink:
        text = conceal(json.dumps(report, indent=1, ensure_ascii=False))
        sink.write(text.encode("utf-8", "surrogateescape") + b"\n")


def _describe_error(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
