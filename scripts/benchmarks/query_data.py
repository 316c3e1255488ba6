"""Made-up tables of very many samples: what ``htindex --table`` would write, for shards that have holes alone.

numbers of samples -> the rows of a shard, by numpy -> merge.py, as in the job -> table, file of keys, manifest
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

SHARD = 10_000
"""Samples of each shard."""

CLASSES = 1_000
BLOCKS = 45
"""Blocks of a sample: an image of about 20 kB and a label."""

TARGETS = {"full": 100_000_000, "small": 200_000}


def spec_of(samples: int) -> str:
    """Return the spec of the dataset of so many samples, relative to the benchmark's folder."""
    return f"table-{samples}-v1/x-@{samples // SHARD:06d}.tar"


def key_of(sample: int) -> str:
    """Return the key of a sample.

    >>> key_of(1234)
    'dir/00001234'
    """
    return f"dir/{sample:08d}"


def build_table(root: Path, samples: int) -> Path:
    """Write the dataset of so many samples, unless it is there, and return its spec."""
    spec = root / spec_of(samples)
    if not spec.parent.exists():
        print(f"making {spec.parent}", file=sys.stderr, flush=True)
        partial = spec.parent.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial / spec.name, samples)
        partial.rename(spec.parent)
    return spec


def _write(spec: Path, samples: int) -> None:
    from shardtools.jobs.table import merge
    from shardtools.jobs.table.shard_rows import ShardPart
    from shardtools.query.kinds import Kinds
    from shardtools.query.table_file import ShardState
    from shardtools.shards.manifest import ShardEntry, build_manifest, write_manifest
    from shardtools.spec import Destination

    target = Destination(str(spec))
    size = SHARD * BLOCKS * 512 + 1024
    states = [ShardState(os.path.basename(url), size, f"crc32:{at:08x}", SHARD) for at, url in enumerate(target.urls())]
    for url in target.urls():
        with open(url, "wb") as file:
            file.truncate(size)
    kinds = {"cls": Kinds.of_integers(0, CLASSES)}
    parts = [ShardPart(url, str(at), state, kinds, {}, (), ("cls", "jpg"))
             for at, (url, state) in enumerate(zip(target.urls(), states, strict=True))]  # fmt: skip
    with mock.patch.object(merge, "read_part", lambda part: rows_of(int(part))):
        merge.write_table(target.spec, parts, merge.plan_table(parts, None))
    fields = {"cls": SHARD, "jpg": SHARD}
    entries = [ShardEntry(url, SHARD, size, state.checksum, fields)
               for url, state in zip(target.urls(), states, strict=True)]  # fmt: skip
    write_manifest(target, build_manifest(target, entries, {"program": "benchmark"}))


def rows_of(shard: int) -> Any:
    """Return the rows of a shard as a part of a table has them."""
    import pyarrow

    from shardtools.jobs.table.shard_rows import HASH
    from shardtools.query.key_file import hash_keys
    from shardtools.shards.columns import Texts

    choose = np.random.default_rng(shard)
    keys = texts_of(np.arange(shard * SHARD, (shard + 1) * SHARD))
    width = keys.shape[1]
    ends = np.arange(SHARD + 1, dtype=np.int32) * width
    labels, row = choose.integers(0, CLASSES, SHARD), np.arange(SHARD, dtype=np.int32)
    buffers = (pyarrow.py_buffer(ends), pyarrow.py_buffer(keys))
    return pyarrow.table(
        {
            "key": pyarrow.StringArray.from_buffers(SHARD, *buffers),
            "shard": np.full(SHARD, shard, np.int32),
            "row": row,
            "block": row.astype(np.int64) * BLOCKS,
            "blocks": np.full(SHARD, BLOCKS),
            HASH: hash_keys(Texts(keys.ravel(), np.arange(1, SHARD + 1) * width)),
            "offset.cls": np.full(SHARD, 512),
            "size.cls": 1 + (labels > 9) + (labels > 99),
            "crc32.cls": (labels * 0x9E3779B1 & 0xFFFFFFFF).astype(np.uint32),
            "offset.jpg": np.full(SHARD, 1536),
            "size.jpg": choose.integers(19_000, 21_000, SHARD),
            "crc32.jpg": choose.integers(0, 1 << 32, SHARD, np.uint32),
            "cls": labels,
        }
    )


def texts_of(numbers: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the keys of samples as rows of bytes.

    >>> texts_of([1234])[0].tobytes()
    b'dir/00001234'
    """
    places = 10 ** np.arange(7, -1, -1)
    digits = (np.asarray(numbers)[:, None] // places % 10 + ord("0")).astype(np.uint8)
    return np.concatenate([np.tile(np.frombuffer(b"dir/", np.uint8), (len(digits), 1)), digits], axis=1)
