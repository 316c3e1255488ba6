"""Which rank this process is: what it is told, else what torch.distributed says, else the environment."""

from __future__ import annotations

import os

from shardtools.errors import JobError


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank and the number of ranks.

    Raises:
        JobError: only one of them is given, or they make no sense.
    """
    if (rank is None) != (world_size is None):
        raise JobError("rank and world_size must be given together", fix="give both, or neither")
    if rank is None or world_size is None:
        rank, world_size = _of_torch() or _of_environment()
    if not 0 <= rank < world_size:
        raise JobError(f"rank {rank} is out of range for world_size {world_size}", fix="ranks are numbered from 0")
    return rank, world_size


def _of_torch() -> tuple[int, int] | None:
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def _of_environment() -> tuple[int, int]:
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except KeyError:
        return 0, 1
    except ValueError as error:
        raise JobError("the environment variables RANK and WORLD_SIZE are not numbers", fix="unset them") from error
