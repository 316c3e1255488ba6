"""What others do with the same tables and shards. Nothing of shardtools is measured here.

Every function takes the benchmark's folder and yields the work to be measured. Lance and Hugging Face's datasets read
formats of their own, which are made from the Parquet files first, and kept.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.model import Work
from benchmarks.peers import inputs
from benchmarks.query_data import build_table, key_of

_COLUMNS = ["key", "shard", "row", "size.jpg", "cls"]


def _files(root: str, samples: int) -> list[str]:
    spec = build_table(Path(root), samples)
    return sorted(map(str, spec.parent.glob("*.parquet")), key=len)


def _batches(root: str, samples: int) -> Iterator[Any]:
    from pyarrow import parquet

    for path in _files(root, samples):
        for batch in parquet.ParquetFile(path).iter_batches(
            100_000, columns=["key", "shard", "row", "size.jpg", "cls"]
        ):
            yield batch.rename_columns([name.replace(".", "_") for name in batch.schema.names])


@contextmanager
def duckdb_count(root: str, samples: int) -> Iterator[Work]:
    """DuckDB, on the files of the table."""
    import duckdb

    connection, files = duckdb.connect(), _files(root, samples)

    def work() -> int:
        connection.execute("SELECT count(*) FROM read_parquet(?) WHERE cls = 7", [files]).fetchall()
        return samples

    yield work


@contextmanager
def duckdb_keys(root: str, samples: int, count: int) -> Iterator[Work]:
    """DuckDB, on the files of the table, which have no index of keys."""
    import duckdb

    connection, files = duckdb.connect(), _files(root, samples)
    choose = random.Random(0)

    def work() -> int:
        for _ in range(count):
            key = key_of(choose.randrange(samples))
            query = "SELECT shard, row FROM read_parquet(?) WHERE key = ?"
            if len(connection.execute(query, [files, key]).fetchall()) != 1:
                raise RuntimeError("a key is not there")
        return count

    yield work


def _lance(root: str, samples: int) -> Any:
    """Return the table as Lance has it, with an index of its keys."""
    import lance
    import pyarrow

    place = Path(root, f"lance-{samples}-v1")
    if not place.exists():
        partial = place.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        batches = _batches(root, samples)
        first = next(batches)
        rest = (batch for some in ([first], batches) for batch in some)
        lance.write_dataset(pyarrow.RecordBatchReader.from_batches(first.schema, rest), str(partial))
        lance.dataset(str(partial)).create_scalar_index("key", "BTREE")
        partial.rename(place)
    return lance.dataset(str(place))


@contextmanager
def lance_count(root: str, samples: int) -> Iterator[Work]:
    """Lance: count_rows with a filter."""
    dataset = _lance(root, samples)

    def work() -> int:
        dataset.count_rows("cls = 7")
        return samples

    yield work


@contextmanager
def lance_keys(root: str, samples: int, count: int) -> Iterator[Work]:
    """Lance: a filter on a column that has an index."""
    dataset = _lance(root, samples)
    choose = random.Random(0)

    def work() -> int:
        for _ in range(count):
            key = key_of(choose.randrange(samples))
            if dataset.to_table(["shard", "row"], filter=f"key = '{key}'").num_rows != 1:
                raise RuntimeError("a key is not there")
        return count

    yield work


@contextmanager
def hugging_face_filter(root: str, samples: int) -> Iterator[Work]:
    """Hugging Face's datasets: ``filter`` with a function of batches, from Arrow files."""
    import datasets

    datasets.disable_progress_bars()
    datasets.disable_caching()
    output = os.path.join(root, "output")
    data = datasets.Dataset.from_parquet(_files(root, samples), cache_dir=output, columns=["key", "cls"])

    def work() -> int:
        data.filter(lambda batch: [label == 7 for label in batch["cls"]], batched=True)
        return samples

    yield work


@contextmanager
def webdataset_filter(root: str, names: Sequence[str]) -> Iterator[Work]:
    """webdataset: a loop that decodes the label and counts."""
    import webdataset

    def work() -> int:
        total = 0
        found = 0
        for sample in webdataset.WebDataset(inputs(root, names), shardshuffle=False):
            total += 1
            found += sample["cls"] == b"7"
        return total

    yield work


@contextmanager
def webshart_index(root: str, folder: str, names: Sequence[str]) -> Iterator[Work]:
    """webshart: its index of the files in each shard."""
    import webshart

    source, made = Path(root, "output", "source"), Path(root, "output", "made")
    source.mkdir()
    made.mkdir()
    for path in inputs(root, names):
        os.link(path, source / Path(path).name)

    def work() -> int:
        webshart.MetadataExtractor(hf_token=None).extract_metadata(
            source=str(source), destination=str(made), checkpoint_dir=None, max_workers=2
        )
        found = webshart.discover_dataset(str(source), metadata=str(made))
        return sum(found.get_shard_sample_count(number) for number in range(found.num_shards))

    yield work
