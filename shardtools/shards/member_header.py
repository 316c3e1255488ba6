"""Placeholder."""

from collections.abc import Sequence

from shardtools.shards.table import ShardTable
from shardtools.shards.tar import Ints


def check_headers(url: str, table: ShardTable, members: Ints, heads: Sequence[bytes]) -> None:
    """To come."""
