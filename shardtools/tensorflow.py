"""A dataset of shards as a `tf.data.Dataset`, each iteration over which is the next epoch.

the first samples of a shard -> a signature: names, types and shapes of the tensors -> Dataset.from_generator
an iteration -> a pass of `Loader` -> batches -> arrays, as the signature has them -> tensors
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.dataset.joined import Join, Sources
from shardtools.errors import JobError, ShardtoolsError
from shardtools.loader.assemble import Collate, RawBatch, Recipe
from shardtools.loader.control import Control
from shardtools.loader.loader import Loader, Pass
from shardtools.loader.order import Shuffle
from shardtools.loader.places import find_places
from shardtools.loader.ranks import check_rank
from shardtools.loader.rows import Arrays, RowDataset, open_shards, open_source
from shardtools.loader.settings import BUCKETS, MAX_SKIPS, MEMORY, Auto, OnError, Settings
from shardtools.loader.shard import FieldShard, data_fields, read_columns
from shardtools.loader.split import Uneven, worker_share
from shardtools.loader.stats import Stats
from shardtools.storage import DEFAULT_OPTIONS, using
from shardtools.types import Ints

if TYPE_CHECKING:
    import tensorflow as tf

Array = npt.NDArray[Any]

Names = tuple[str, ...] | str
"""What errors call the items of a tuple, or a value."""


def to_tf(
    source: Sources | Arrays,
    fields: str | Sequence[str] | None = None,
    *,
    decode: bool = True,
    transform: Callable[..., Any] | None = None,
    collate: Collate | Auto | None = "auto",
    shuffle: Shuffle = False,
    seed: int = 0,
    epoch: int = 0,
    batch_size: int = 1,
    bucket_by: str | None = None,
    buckets: int | Sequence[float] = BUCKETS,
    rank: int = 0,
    world_size: int = 1,
    uneven: Uneven = "uneven",
    on_error: OnError = "fail",
    max_skips: tuple[int, int] = MAX_SKIPS,
    memory: int = MEMORY,
    threads: int | None = None,
    signature: Any = None,
    join: Join | None = None,
) -> tf.data.Dataset:
    """Return the batches of a dataset as a `tf.data.Dataset`; each is a tuple in the order of ``fields``.

    The first iteration that takes a batch is ``epoch``, the next one the epoch after it, however far the one before
    came. Threads of this process read ahead, decode and transform, and end with the iteration. The cardinality is known
    where the dataset's counts are. ``source`` is a dataset or a spec, or with ``join`` several, as for
    `shardtools.open`. It may also be an array, of which rows are samples, or several by name; without ``fields`` all
    are taken.

    Numbers and arrays become tensors whose first dimension is the batch; str, bytes, and what is not decoded become
    tensors of ``tf.string``. ``transform`` may return a tuple, a dict or an array, or such in each other. ``collate``
    may be "auto" or None, which are the same here. ``signature`` is ``output_signature`` of
    `tf.data.Dataset.from_generator`; without one, the first samples of the dataset are read to make it. All other
    arguments are those of `shardtools.loader.settings.Settings`. ``rank`` and ``world_size`` are not looked up: unlike
    `ShardIterable`, this may well be used for all samples in a process that happens to be a rank.

    Raises:
        JobError: TensorFlow is not installed, arguments contradict each other, or values cannot be tensors.
        ShardtoolsError: the first samples cannot be read. While it iterates, TensorFlow raises an error of its own,
            the text of which contains ours.
    """
    tf = _tensorflow()
    dataset, fields = open_source(source, fields, DEFAULT_OPTIONS, join=join)
    check_rank(rank, world_size)
    names: Names = "collate()" if callable(collate) else "transform()" if transform is not None else fields
    if not callable(collate):
        collate = partial(_stack, names) if decode or transform is not None else None
    settings = Settings(
        fields, decode, transform, collate, shuffle, seed, batch_size, bucket_by, buckets, uneven,
        on_error, max_skips, memory, threads,
    )  # fmt: skip
    loader = Loader(dataset, settings, Control())
    if signature is None:
        signature = _describe(tf, _first_batch(loader, names), names)
    batches = partial(_batches, tf, loader, signature, names, count(epoch), rank, world_size)
    made = tf.data.Dataset.from_generator(batches, output_signature=signature)
    if dataset.counts is not None:
        made = made.apply(tf.data.experimental.assert_cardinality(loader.split(rank, world_size).count))
    if world_size > 1:  # the ranks' batches are dealt already
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        made = made.with_options(options)
    return made


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise JobError("TensorFlow is not installed", fix="install it: pip install tensorflow") from error
    return tensorflow


def _batches(
    tf: Any, loader: Loader, signature: Any, names: Names, epochs: Iterator[int], rank: int, world_size: int
) -> Generator[Any, None, None]:
    """Yield the batches of the next epoch."""
    current = Pass(next(epochs), worker_share(loader.split(rank, world_size)))
    with closing(loader.run(current)) as values:
        for value in values:
            yield _conform(tf, value, signature, names)


def _first_batch(loader: Loader, names: Names) -> Any:
    """Return the dataset's first samples as a batch, for which no more than one good shard is asked."""
    settings, dataset = loader.settings, loader.dataset
    if isinstance(dataset, RowDataset):
        return _first_rows(dataset, settings, names)
    samples: list[Any] = []
    errors: list[ShardtoolsError] = []
    places = None if dataset.chosen is None else find_places(dataset, loader.counts())
    shards = open_shards(dataset, data_fields(settings.fields), dataset.options, Stats())
    for number in range(len(dataset.urls)):
        rows = None if places is None else places.rows_in(number)
        if rows is not None and not len(rows):
            continue
        try:
            with using(dataset.options):
                samples, failed = _first_samples(shards.get(number), rows, settings, lambda: dataset.known_fields)
            errors += failed
        except ShardtoolsError as error:
            errors.append(error)
        if errors and settings.on_error == "fail":
            raise errors[0]
        if len(errors) > settings.max_skips[0]:
            raise errors[-1]
        if samples:
            return settings.collate(samples) if settings.collate else _stack(names, samples)
    what = "no sample could be read, so the types and shapes of the tensors are unknown"
    raise JobError(what, fix="give signature=") from (errors[-1] if errors else None)


def _first_rows(dataset: RowDataset, settings: Settings, names: Names) -> Any:
    """Return the first rows of arrays as a batch."""
    rows = np.arange(min(settings.batch_size, len(dataset)))
    if not len(rows):
        raise JobError("the arrays have no rows, so the types of the tensors are unknown", fix="give signature=")
    shards = open_shards(dataset, data_fields(settings.fields), dataset.options, Stats())
    raw = RawBatch(read_columns(settings.fields, [(shards.get(0), rows)]), rows.tolist(), {})
    recipe = Recipe(settings.fields, False, settings.transform, None, partial(shards.name, 0))
    samples = [recipe.sample(raw, place) for place in rows.tolist()]
    return settings.collate(samples) if settings.collate else _stack(names, samples)


def _first_samples(
    shard: FieldShard, rows: Ints | None, settings: Settings, known: Callable[[], Sequence[str]]
) -> tuple[list[Any], list[ShardtoolsError]]:
    """Return the first samples of a shard, a batch of them, and the errors of those that cannot be delivered.

    They are of ``rows``, None for all. ``known`` returns the fields of the dataset as far as they are known.
    """
    some = (np.arange(len(shard.sizes)) if rows is None else rows)[: settings.batch_size]
    if not len(some):
        return [], []
    raw = RawBatch(read_columns(settings.fields, [(shard, some)]), some.tolist(), {})
    recipe = Recipe(
        settings.fields, settings.decode, settings.transform, None, lambda row: (shard.url, shard.keys([row])[0]), known
    )
    samples, errors = [], []
    for place in range(len(raw)):
        try:
            samples.append(recipe.sample(raw, place))
        except ShardtoolsError as error:
            errors.append(error)
    return samples, errors


# --- values and signatures, which are tensors, or tuples and dicts of such


def _title(names: Names) -> str:
    return names if isinstance(names, str) else "a batch"


def _name(names: Names, item: Any) -> str:
    return names[item] if isinstance(names, tuple) else f"{names}[{item!r}]"


def _stack(names: Names, samples: Sequence[Any]) -> Any:
    """Return samples as a batch of arrays.

    Raises:
        JobError: they cannot be stacked.
    """
    items = _items(samples[0])
    if any(_items(sample) != items for sample in samples):
        fix = "give transform= that gives all samples the same items"
        raise JobError(f"{_title(names)} has different items in different samples", fix=fix)
    if items is None:
        return _column(samples, _title(names))
    made = {item: _stack(_name(names, item), [sample[item] for sample in samples]) for item in items}
    return made if isinstance(samples[0], dict) else tuple(made.values())


def _items(value: Any) -> Any:
    """Return what the items of a tuple or dict are called; None is none."""
    return value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, tuple) else None


def _column(values: Sequence[Any], name: str) -> Array:
    """Return one value of each sample as an array: of objects, where these are str or bytes.

    Raises:
        JobError: they are neither numbers nor arrays of one shape.
    """
    fix = "give transform= that makes arrays of one shape of them"
    if all(isinstance(value, str | bytes) for value in values):
        return np.array(values, dtype=object)
    for value in values:
        if not (isinstance(value, bool | int | float | complex) or hasattr(value, "__array__")):
            raise JobError(f"{name} has a {type(value).__name__}, which cannot become a tensor", fix=fix)
    arrays = [np.asarray(value) for value in values]
    for array in arrays:
        if array.shape != arrays[0].shape:
            raise JobError(f"{name} differs in shape: {arrays[0].shape}, {array.shape}", fix=fix)
    return np.stack(arrays)


def _array(value: Any, name: str) -> Array:
    """Return one value of a batch as an array; text in it as objects.

    Raises:
        JobError: it holds anything else that is no number.
    """
    if isinstance(value, list):
        value = _column(value, name)
    array: Array = np.asarray(value)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype == object and not all(isinstance(item, str | bytes) for item in array.flat):
        raise JobError(
            f"{name} holds Python objects, which no tensor can hold", fix="give transform= that makes an array of them"
        )
    return array


def _describe(tf: Any, value: Any, names: Names) -> Any:
    """Return the signature of a batch and all others like it."""
    if (items := _items(value)) is not None:
        made = {item: _describe(tf, value[item], _name(names, item)) for item in items}
        return made if isinstance(value, dict) else tuple(made.values())
    name = _title(names)
    if tf.is_tensor(value) and not isinstance(value, tf.Tensor):
        raise JobError(
            f"{name} has a {type(value).__name__}, whose shape one batch does not tell", fix="give signature="
        )
    array = _array(value, name)
    try:
        dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    except TypeError as error:
        what = f"{name} is of {array.dtype}, which TensorFlow does not support"
        raise JobError(what, fix="give transform= that converts it") from error
    return tf.TensorSpec([None, *array.shape[1:]] if array.ndim else [], dtype)


def _conform(tf: Any, value: Any, signature: Any, names: Names) -> Any:
    """Return a batch as its signature has it, with arrays for tensors.

    Raises:
        JobError: that cannot be.
    """
    items = _items(signature)
    if items is not None:
        if _items(value) != items:
            what = f"{_title(names)} does not have the items {', '.join(map(str, items))} of the signature"
            raise JobError(what, fix="give another signature=")
        made = {item: _conform(tf, value[item], signature[item], _name(names, item)) for item in items}
        return made if isinstance(signature, dict) else tuple(made.values())
    if not isinstance(signature, tf.TensorSpec):
        return value
    return _cast(_array(value, _title(names)), signature.dtype, signature.shape, _title(names))


def _cast(array: Array, dtype: Any, shape: Any, name: str) -> Array:
    """Return an array as a tensor of a type; whole numbers stay what they are.

    Raises:
        JobError: it has another shape, or would have to be changed.
    """
    fix = "give transform= that makes all batches alike, or signature="
    if not shape.is_compatible_with(array.shape):
        raise JobError(f"{name} has shape {array.shape} in a batch, not {shape}", fix=fix)
    wanted = np.dtype(dtype.as_numpy_dtype)
    if array.dtype == wanted:
        return array
    is_whole = array.dtype.kind in "iu" and wanted.kind in "iu"
    if object in (array.dtype, wanted) or not (is_whole or np.can_cast(array.dtype, wanted, "same_kind")):
        raise JobError(f"{name} has {array.dtype} in a batch, not {dtype.name}", fix=fix)
    made = array.astype(wanted)
    if is_whole and not np.array_equal(made, array):
        raise JobError(f"{name} has numbers in a batch that {dtype.name} cannot hold", fix=fix)
    return made
