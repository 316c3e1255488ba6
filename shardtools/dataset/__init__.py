"""A dataset as a sequence of samples, of which only what is asked for is fetched.

    spec -> ShardSet: manifest, or sidecars -> which shard -> its table -> ShardedDataset: ranges -> records

sharded.py     ShardedDataset: samples by index, slice and key
shard_set.py   ShardSet: its shards, how many samples each has, and their tables
notebook.py    what a notebook shows of a dataset

What an operation costs, in requests: to open it one (the manifest); the first sample of a shard two more (the shard's
size and its sidecar); a sample one; a slice one for each shard (for `.tgz` and `.tar.zst`, from the entry point before
it). Where there are no manifest and sidecars, what other programs have left may take their place, at one request more
each (see ``shards/foreign/``); shards without any are read once, from their start. By key: the sidecars of the
shards up to the one that has it.
"""
