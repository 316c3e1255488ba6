"""A dataset as a sequence of samples. Only the samples that are used are fetched.

    spec -> ShardSet: manifest, or sidecars -> which shard -> its table -> ShardedDataset: ranges -> records

sharded.py     ShardedDataset: the samples, by index, slice and key
shard_set.py   ShardSet: the shards, their numbers of samples, and their tables
indexes.py     lists, masks and negative indexes as indexes
lookup.py      samples by their keys, by the file of keys or by all tables
choosing.py    which samples a condition chooses, by the dataset's table or by reading fields
joined.py      JoinedSamples: the samples of several datasets with the same keys as one
joined_pairs.py  which samples have the same keys
joined_where.py  which samples of several datasets a condition chooses
joined_tables.py  the same, if all of them have tables
numbers.py     the number that an expression has for each sample
notebook.py    what a notebook shows of a dataset

Cost, in requests:

- to open the dataset: one, for the manifest;
- the first sample of a shard: two more, for the shard's size and its sidecar;
- a sample: one;
- a slice: one for each shard (in a `.tgz` or `.tar.zst`, it starts at the entry point before the slice);
- a sample by its key: with a file of keys two or three; without, the sidecars of all shards up to the one with the key;
- ``where``: with a table, the table once, and a listing or a request for each shard to see which have changed; for
  those, and without a table, the sidecars and the fields that the condition names.

Without a manifest and sidecars, the indexes of other programs are used, for one more request each (see
``shards/foreign/``). A shard without any index is read once, from its start.
"""
