"""How much a start costs: nothing grows with the number of samples, and little with that of shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardtools.errors import NotFoundError
from shardtools.torch import ShardBatches
from tests.contract.faults import FaultyProxy
from tests.datasets import write_dataset, write_shard
from tests.servers import NginxServer

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
    train = ShardBatches(large, fields=("bin",), decode=False, shuffle=True, batch_size=64)
    state = {**train.state_dict(), "delivered": 1_000_000}
    train.load_state_dict(state)
    assert len(train) == SHARDS * SAMPLES // 64
    with pytest.raises(NotFoundError, match="in-0"):
        next(iter(train))
    assert time.perf_counter() - begin < 20  # it takes a third of a second; what is not constant would take minutes
    assert train.state_dict() == state and len(json.dumps(state)) < 300


def test_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "one.tar", [("a.bin", b"x")])
    for i in range(600):
        os.link(one, tmp_path / f"in-{i:03d}.tar")
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
from shardtools.torch import ShardBatches
for shuffle in (False, "full"):
    train = ShardBatches(sys.argv[1], fields=("bin",), batch_size=10, shuffle=shuffle)
    print(len(train), sum(len(batch[0]) for batch in train))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "in-{000..599}.tar")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["60", "600"] * 2


def test_shards_without_sidecars_are_read_once(nginx: NginxServer) -> None:
    name = write_dataset(nginx.root, 2, 50)
    with FaultyProxy(nginx.url) as proxy:
        train = ShardBatches(proxy.url + name, fields=("txt",), decode=False, shuffle=True, batch_size=10)
        for epoch in range(3):
            train.set_epoch(epoch)
            assert sum(len(batch[0]) for batch in train) == 100
        whole = [head for head in proxy.heads if head.startswith("GET") and "range:" not in head.lower()]
        assert sum(".tar HTTP" in head for head in whole) == 2, "the tables of both were kept"


def test_a_full_shuffle_opens_each_shard_once(nginx: NginxServer) -> None:
    name = write_dataset(nginx.root, 300, 3)
    train = ShardBatches(nginx.url + name, fields=("txt",), decode=False, shuffle="full", batch_size=9)
    assert sum(len(batch[0]) for batch in train) == 900
    assert train.stats()["shards"] == 300
