"""The rank of a process: checks, and the rank that the environment names."""

from __future__ import annotations

import os

from shardtools.errors import JobError


def check_rank(rank: int, world_size: int) -> tuple[int, int]:
    """Return the rank and the number of ranks.

    Raises:
        JobError: the rank is not from 0 up to ``world_size``.
    """
    if not 0 <= rank < world_size:
        raise JobError(f"rank {rank} is out of range for world_size {world_size}", fix="ranks are numbered from 0")
    return rank, world_size


def rank_of_environment() -> tuple[int, int]:
    """Return what the variables RANK and WORLD_SIZE say, else (0, 1).

    Raises:
        JobError: they are not numbers.
    """
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except KeyError:
        return 0, 1
    except ValueError as error:
        raise JobError("the environment variables RANK and WORLD_SIZE are not numbers", fix="unset them") from error
