"""The batches of an epoch for one rank, in plain Python: what the inputs for PyTorch and TensorFlow dress.

order.py      which sample stands where in an epoch        split.py      which rank and worker delivers it
shard.py      the bytes of samples of one shard            prefetch.py   samples in order, read ahead by threads
read_window.py  samples that are read together, until they are in batches
assemble.py   decoded, transformed, collated               loader.py     the batches of one pass; errors; state
settings.py   the parameters that all inputs share         batches.py    EpochBatches; ShardBatches: numpy
mapping.py    samples by their indexes                     mixing.py     the batches of several datasets
choices.py    which of several datasets gives each batch   control.py    what processes share: epoch, start, stats
state.py      where a loader stands, as JSON               stats.py      what was done so far
ranks.py      which rank a process is                    rows.py       arrays, the rows of which are samples
buckets.py    batches of samples that are alike
joined.py     the samples of several datasets as one    places.py     shards and rows of samples, all or chosen

What is asked of a dataset, so that one of another kind can be put in its place:

- ``urls`` of its shards, and ``counts``, how many of its samples each has; ``len``, after which they are known;
- ``chosen``, the indexes of its samples among all of these shards, if they are not all, and ``ends`` of the shards;
  ``conditions``, which are in the state, beside a digest of ``chosen``;
- ``known_fields`` and ``options`` of the storage;
- `rows.open_shards` makes its `shard.Shards`, whose ``get(number)`` is a `FieldShard`: ``sizes`` of all rows of the
  shard, ``keys`` and ``read`` of some.

An order is of the samples by their counts, without the shards that have none. `places.Places` leads from indexes to
rows of shards, and is the only one that knows of a choice.

Words: an *index* is of a sample in the dataset, a *row* of one in its shard, a *position* of one in the order of an
epoch, a *place* of one in a batch or a read window. *Numbers* are those of shards.
"""
