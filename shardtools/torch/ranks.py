"""The rank of this process: the one that is passed, else that of torch.distributed, else that of the environment."""

from __future__ import annotations

import torch.distributed as distributed

from shardtools.errors import JobError
from shardtools.loader.ranks import check_rank, rank_of_environment


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank and the number of ranks.

    Raises:
        JobError: only one of them is passed, or the rank is not from 0 up to ``world_size``.
    """
    if (rank is None) != (world_size is None):
        raise JobError("rank and world_size must be given together", fix="give both, or neither")
    if rank is not None and world_size is not None:
        return check_rank(rank, world_size)
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return check_rank(*rank_of_environment())
