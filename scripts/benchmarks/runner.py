"""Build the data, run every row of every table in turn, print the tables."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import SUITES, data, report
from benchmarks.model import Outcome, Row, Run, Table

TIMEOUT_SECONDS = 1800
"""For one measurement."""

NEEDED_BYTES = {"full": 12_000_000_000, "small": 600_000_000}
"""What a suite needs for its data and results, by scale."""


def parse_arguments(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmark", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--dir", type=Path, help="where the data is made and kept (in /dev/shm if there is room)")
    parser.add_argument("--scale", choices=("small", "full"), default="full")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each row, whose median counts (3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the tables whose names begin with one of these")
    parser.add_argument("--list", action="store_true", help="print the names of the tables and end")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat: at least 1")
    return arguments


def main(about: str) -> int:
    arguments = parse_arguments(about)
    tables: list[Table] = importlib.import_module(SUITES[arguments.suite]).tables(arguments.scale)
    if arguments.list:
        print("\n".join(f"{table.name:16} {table.title}" for table in tables))
        return 0
    if arguments.only:
        chosen = [table for table in tables if table.name.startswith(tuple(arguments.only))]
        if not chosen:
            print(
                f"benchmark: error: --only: no such table; they are {', '.join(t.name for t in tables)}",
                file=sys.stderr,
            )
            return 2
        tables = chosen
    root = arguments.dir or data.choose_folder(NEEDED_BYTES[arguments.scale])
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    print(report.preamble(root, arguments.scale, arguments.repeat))
    try:
        failed = [table.name for table in tables if not print_table(table, root, arguments.repeat)]
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


def print_table(table: Table, root: Path, repeat: int) -> bool:
    """Measure and print; return whether every row could be measured, or was not installed."""
    outcomes = measure(table, root, repeat)
    print(report.markdown(table, outcomes), flush=True)
    return not any(outcome.failure for outcome in outcomes.values())


def measure(table: Table, root: Path, repeat: int) -> dict[str, Outcome]:
    """Return the outcome of each row by its name. The rows take turns, so that drift hits all alike."""
    outcomes = {row.name: Outcome() for row in table.rows}
    repeat = repeat if table.repeat is None else min(repeat, table.repeat)
    for dataset in table.data:
        data.build(dataset, root)
    size = sum(data.size_of(dataset, root) for dataset in table.data)
    try:
        for turn in range(repeat):
            for row in rotate(table.rows, turn):
                outcome = outcomes[row.name]
                if outcome.missing or outcome.failure:
                    continue
                print(f"{table.name} {turn + 1}/{repeat}: {row.name}", file=sys.stderr, flush=True)
                run_row(row, root, outcome, size)
    finally:
        if not table.is_data_kept:
            for dataset in table.data:
                shutil.rmtree(root / dataset.folder, ignore_errors=True)
    return outcomes


def rotate(rows: Iterable[Row], turn: int) -> list[Row]:
    ordered = list(rows)
    first = turn % len(ordered)
    return ordered[first:] + ordered[:first]


def run_row(row: Row, root: Path, outcome: Outcome, size: int) -> None:
    """Measure once, in a process of its own, and add the result to ``outcome``; it may write ``size`` bytes."""
    output = root / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    data.touch_memory(output, size)
    arguments = {"root": str(root), **row.arguments}
    scripts = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{scripts}{os.pathsep}{scripts.parent}"}
    command = [sys.executable, "-P", "-m", "benchmarks.child", row.call, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        outcome.failure = f"not done after {TIMEOUT_SECONDS} s"
        return
    finally:
        shutil.rmtree(output, ignore_errors=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        outcome.failure = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return
    result = json.loads(done.stdout.splitlines()[-1])
    if "missing" in result:
        outcome.missing = result["missing"]
    else:
        outcome.runs.append(Run(**result))
