"""How much a start costs: nothing grows with the number of samples, and little with that of shards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from shardtools.errors import NotFoundError
from shardtools.torch import ShardBatches

SHARDS, SAMPLES = 10_000, 5_000


@pytest.fixture
def large(tmp_path: Path) -> str:
    """Ten thousand shards of which there is only the manifest."""
    shards = [{"url": f"in-{i:05d}.tar", "nsamples": SAMPLES, "filesize": 1, "checksum": ""} for i in range(SHARDS)]
    spec = str(tmp_path / f"in-@{SHARDS}.tar")
    Path(spec + ".json").write_text(json.dumps({"shardlist": shards, "fields": {"bin": 1}}))
    return spec


def test_ten_thousand_shards(large: str) -> None:
    begin = time.perf_counter()
    train = ShardBatches(large, fields=("bin",), shuffle=True, batch_size=64)
    state = {**train.state_dict(), "delivered": 1_000_000}
    train.load_state_dict(state)
    assert len(train) == SHARDS * SAMPLES // 64
    with pytest.raises(NotFoundError, match="in-0"):
        next(iter(train))
    assert time.perf_counter() - begin < 20  # it takes a third of a second; what is not constant would take minutes
    assert train.state_dict() == state and len(json.dumps(state)) < 300
