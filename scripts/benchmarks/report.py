"""What was measured, as Markdown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from benchmarks.data import is_tmpfs
from benchmarks.model import Outcome, Row, Table, Target

PACKAGES = (
    "shardtools",
    "webdataset",
    "ray",
    "boto3",
    "numpy",
    "isal",
    "zarr",
    "tensorstore",
    "icechunk",
    "h5py",
    "deeplake",
    "duckdb",
    "pylance",
    "datasets",
    "webshart",
)


def preamble(root: Path, scale: str, repeat: int) -> str:
    """Return what the figures depend on."""
    where = "in memory (tmpfs)" if is_tmpfs(root) else "on a disk"
    system = f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := version_of(name)))
    return (
        f"{system}, {versions}. Data {where}: {root}, {scale} size. "
        f"Medians of {repeat} runs, each in its own process, all rows of a table in turn. "
        f"Load of the machine at the start: {os.getloadavg()[0]:.1f}.\n"
        "MB/s counts what the samples hold; peak is the highest resident memory of the process, shared pages included."
    )


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def markdown(table: Table, outcomes: dict[str, Outcome]) -> str:
    """Return the table: one line for each row, its first row being what the others are compared with."""
    first = outcomes[table.rows[0].name]
    lines = [
        f"\n**{table.title}**\n",
        f"| | {table.counts}/s | MB/s | seconds | peak MB | {table.rows[0].name} is | target | |",
        "|---|--:|--:|--:|--:|--:|---|---|",
    ]
    lines += [line_of(table, row, outcomes, first) for row in table.rows]
    notes = [f"{row.name}: {row.note}" for row in table.rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def line_of(table: Table, row: Row, outcomes: dict[str, Outcome], first: Outcome) -> str:
    outcome = outcomes[row.name]
    targets = [target for target in table.targets if (target.against or target.row) == row.name]
    checks = [check(target, outcomes) for target in targets]
    wanted, met = "; ".join(c[0] for c in checks), "; ".join(c[1] for c in checks)
    if outcome.runs and outcome.note:
        met = f"{met} ({outcome.note})".strip()
    if outcome.missing:
        return f"| {row.name} | not installed: {outcome.missing} | | | | | {wanted} | {met} |"
    if outcome.failure:
        text = outcome.failure.replace("|", "\\|")
        return f"| {row.name} | failed: {text} | | | | | {wanted} | {met} |"
    megabytes = in_digits(outcome.rate * table.sample_bytes / 1e6) if table.sample_bytes else ""
    peak = f"{outcome.peak:,.0f}" if row.in_process else ""
    ratio = f"{first.rate / outcome.rate:.2f} ×" if first.runs and outcome is not first else ""
    return (
        f"| {row.name} | {in_digits(outcome.rate)} | {megabytes} | {outcome.seconds:.2f} "
        f"| {peak} | {ratio} | {wanted} | {met} |"
    )


def in_digits(value: float) -> str:
    """Return a figure with as many decimals as say something.

    >>> in_digits(12345.6), in_digits(12.345), in_digits(1.2345)
    ('12,346', '12.3', '1.23')
    """
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def check(target: Target, outcomes: dict[str, Outcome]) -> tuple[str, str]:
    """Return what is promised, and what was measured: met or missed."""
    outcome = outcomes[target.row]
    other = outcomes[target.against] if target.against else None
    if other is not None:
        wanted = f"{target.row} ≥ {target.limit:g} ×"
        value = outcome.rate / other.rate if outcome.runs and other.runs else None
        unit = " ×"
    else:
        unit = {"rate": "/s", "seconds": " s", "peak": " MB", "each": " ms each", "tail": " × p50"}[target.figure]
        wanted = f"{'≥' if target.figure == 'rate' else '≤'} {target.limit:,g}{unit}"
        value = getattr(outcome, target.figure) if outcome.runs else None
    if value is None:
        return wanted, "not measured"
    is_met = value >= target.limit if target.figure == "rate" else value <= target.limit
    return wanted, f"{in_digits(value)}{unit}: {'met' if is_met else '**missed**'}"
