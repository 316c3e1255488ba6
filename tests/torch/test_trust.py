"""An index that names other places is refused by every loader, unless it is trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from shardtools.errors import SpecError
from shardtools.loader.batches import ShardBatches
from shardtools.torch import ShardIterable, ShardMap
from tests.datasets import write_dataset


@pytest.mark.parametrize("loader", [ShardIterable, ShardMap, ShardBatches])
def test_an_index_that_names_other_places(loader: Callable[..., Any], tmp_path: Path) -> None:
    write_dataset(tmp_path, 1, 6)
    (tmp_path / "d").mkdir()
    shards = [{"url": "../in-0.tar", "nsamples": 6}]
    (tmp_path / "d" / "i.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    with pytest.raises(SpecError, match=r"i\.json: the index names a place outside of its folder: .*trust_index=True"):
        loader(f"{tmp_path}/d/i.json", fields=("__key__",))
    data = loader(f"{tmp_path}/d/i.json", fields=("__key__",), trust_index=True)
    assert len(list(data)) == 6
