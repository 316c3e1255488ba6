"""Where an exchange runs: how many tasks at a time, and how many bytes of samples each of them may hold.

--memory, --memory-limit of a worker -> budget of a process -> share of each of its threads
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from shardtools.engine import Connection, tasks_at_once
from shardtools.jobs.options import RunOptions
from shardtools.processors import processors

LEAST_BUDGET = 1 << 20
"""The least number of bytes of samples that a task may hold, however many tasks there are."""

_BASE = 200 << 20
"""What a worker needs besides samples: Python, Dask and what tasks know of samples."""


@dataclass(frozen=True)
class Workers:
    """What carries out the tasks: so many ``threads`` in all, and ``per_process`` of them in a process at most.

    ``limit`` is the least memory that a process may use, None where that is not limited.
    """

    threads: int
    per_process: int
    limit: int | None = None

    def share(self, budget: int) -> int:
        """Return how many bytes of samples each task may hold, if those of a process may hold ``budget`` together."""
        return max(within(budget, self.limit) // self.per_process, LEAST_BUDGET)


def expected_workers(options: RunOptions) -> Workers:
    """Return what is known without asking a cluster."""
    jobs = options.jobs or processors()
    return Workers(jobs, jobs if options.cluster == "threads" else 1)


def find_workers(options: RunOptions) -> Workers:
    """Return what there is; a cluster without workers may get some later, and is not known.

    Raises:
        SchedulerError: no scheduler answers.
    """
    if not isinstance(options.cluster, Connection):
        return expected_workers(options)
    workers = options.cluster.client().scheduler_info(n_workers=-1)["workers"].values()
    threads = [int(worker["nthreads"]) for worker in workers]
    limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
    if not threads:
        return expected_workers(options)
    at_once = min(sum(threads), options.jobs or sum(threads))
    return Workers(at_once, max(threads), min(limits, default=None))


def within(budget: int, limit: int | None) -> int:
    """Return how many bytes of samples a process may hold that may use ``limit`` bytes of memory.

    Dask ends a worker at 95 % of its limit, and lets it wait at 80 %.

    >>> within(1 << 30, None) >> 20, within(1 << 30, 1 << 30) >> 20
    (1024, 412)
    """
    return budget if limit is None else max(min(budget, (limit - _BASE) // 2), LEAST_BUDGET)


def share_of(budget: int) -> int:
    """Return how many bytes this task may hold: its share of the ``budget`` of all tasks of this process."""
    return Workers(1, tasks_at_once(), _limit_here()).share(budget)


def _limit_here() -> int | None:
    """Return how many bytes of memory this process may use if it is a Dask worker that has a limit."""
    if "distributed.worker" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().memory_manager.memory_limit or None
    except ValueError:  # this is no worker
        return None
