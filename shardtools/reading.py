"""The door to the reading wing: a dataset, views of its fields, and batches for TensorFlow.

open_dataset -> Dataset -> a record, a slice, `FieldView`, `tf.data.Dataset`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardtools.dataset.sharded import ShardedDataset, storage_options
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.view.field_view import Decode, FieldView


class Dataset(ShardedDataset):
    """A dataset that also gives views of its fields, and batches for TensorFlow."""

    def view(
        self, field: str, *, decode: str | Decode | None = "auto", resize: tuple[int, int] | None = None
    ) -> FieldView:
        """Return one field of all samples as something like a numpy array; see `FieldView`."""
        return FieldView(self, field, decode=decode, resize=resize)

    def to_tf(self, fields: str | Sequence[str], **options: Any) -> Any:
        """Return a `tf.data.Dataset` of batches of ``fields``; for ``options`` see `shardtools.tensorflow.to_tf`."""
        from shardtools.tensorflow import to_tf

        return to_tf(self, fields, **options)


def open_dataset(
    spec: str | Sequence[str],
    *,
    cache: str | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    trust_index: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Dataset:
    """Return the dataset that ``spec`` names: ``"http://host/train-@1000.tgz"``, or a list of such.

    Nothing is fetched but the manifest, where there is one. ``cache`` (``DIR`` or ``DIR:SIZE``) keeps what is fetched
    later on a local disk. ``retries`` and ``timeout`` are those of `StorageOptions`. ``spec`` may also be the URL of an
    index of shards (``train.json``), which may name shards outside of its folder or server only with ``trust_index``.
    ``limits`` says how large things from outside may be.

    Raises:
        SpecError: the spec is wrong or names nothing.
        StorageError: the storage cannot be read.
    """
    return Dataset(spec, storage_options(cache, retries, timeout, limits), trust_index=trust_index)
