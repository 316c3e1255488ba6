"""`shardtools.open` and `shardtools.sql`: a dataset, views of its fields, and batches for TensorFlow.

open_dataset -> Dataset -> a record, a slice, `FieldView`, `tf.data.Dataset`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from shardtools.dataset.joined import Join, JoinedSamples, Source, Sources, open_sources
from shardtools.dataset.sharded import ShardedDataset
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.query.sql import run_sql
from shardtools.storage.options import storage_options
from shardtools.view.field_view import Decode, FieldView

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation


class Dataset(ShardedDataset):
    """A dataset with views of its fields, and batches for TensorFlow."""

    def view(
        self, field: str, *, decode: str | Decode | None = "auto", resize: tuple[int, int] | None = None
    ) -> FieldView:
        """Return one field of all samples as a lazy array; see `FieldView`.

        Raises:
            TypeError: the field is no text.
            ValueError: ``decode`` or ``resize`` is not valid for this field.
            StorageError: the number of samples is unknown, and a shard cannot be read.
        """
        if not isinstance(field, str):
            raise TypeError(f"a view is of one field, which is named by a text, not by {field!r}")
        return FieldView(self, field, decode=decode, resize=resize)

    def to_tf(self, fields: str | Sequence[str], **options: Any) -> Any:
        """Return batches of ``fields`` as a `tf.data.Dataset`; see `shardtools.tensorflow.to_tf` for the options."""
        from shardtools.tensorflow import to_tf

        return to_tf(self, fields, **options)


class JoinedDataset(JoinedSamples, Dataset):
    """Several datasets as one, by the keys of their samples; see `shardtools.open`."""


def sql(query: str, samples: Source | None = None, /, **datasets: Source) -> DuckDBPyRelation:
    """Return the result of a query in DuckDB's SQL over the tables of ``datasets``, by their names in it.

    A dataset is one that `shardtools.open` has returned, or its spec. One without a name is called ``samples``. Each
    must have a table (`shardtools.index` makes it) that describes all shards as they are. The result is a relation of
    DuckDB, which is computed when it is used.

    Raises:
        TypeError: the query is no text, or two datasets are called ``samples``.
        JobError: it is not one query, or does not fit the tables, or there is no such table.
        StorageError: a table cannot be read.
    """
    if not isinstance(query, str):
        raise TypeError(f"a query is a text, and comes before the datasets; this is of type {type(query).__name__}")
    if samples is not None:
        if "samples" in datasets:
            raise TypeError('two datasets are called "samples"; give one of them another name')
        datasets["samples"] = samples
    opened = {name: one if isinstance(one, ShardedDataset) else open_dataset(one) for name, one in datasets.items()}
    return run_sql(query, {name: one.table_rows() for name, one in opened.items()})


def open_dataset(
    spec: Sources,
    *,
    join: Join | None = None,
    cache: str | None = None,
    index: str | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    trust_index: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Dataset:
    """Return the dataset that ``spec`` names: ``"http://host/train-@1000.tgz"``, or a list of such.

    Only the manifest is fetched, if there is one. ``cache`` (``DIR`` or ``DIR:SIZE``) names a local folder that keeps
    what is fetched later. ``index`` is the URL of a place for sidecars, manifests and tables that do not lie beside
    their shards (`shardtools.index` writes them there). A request is tried again ``retries`` times after a temporary
    failure; ``timeout`` is how many seconds to wait for a server. ``spec`` may also be the URL of an index of shards
    (``train.json``). Such an index may name shards outside of its own folder or server only with ``trust_index``.
    ``limits`` are the largest sizes of data that are held in memory.

    The shards of a list follow each other. With ``join``, its items are datasets: specs, or what `open` or
    `Dataset.where` has returned; and a sample has the fields of all samples with its key. "inner" gives the samples
    that are in all of them, "left" all of the first one; the order is that of the first one. A field that several have
    is an error, unless they are a dict of datasets by name: it is then called NAME.FIELD.

    Raises:
        SpecError: the spec is not valid, or names no shards.
        StorageError: the storage cannot be read.
        JobError: datasets cannot be joined.
        DuplicateKeyError: two samples of a dataset to join have one key.
    """
    options = storage_options(cache, retries, timeout, limits, index)
    opened = open_sources(spec, join, lambda one: Dataset(one, options, trust_index=trust_index), joined=JoinedDataset)
    return cast(Dataset, opened)
