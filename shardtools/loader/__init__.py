"""The batches of an epoch for one rank, in plain Python: what the inputs for PyTorch and TensorFlow dress.

order.py      which sample stands where in an epoch        split.py      which rank and worker delivers it
shard.py      the bytes of samples of one shard            prefetch.py   samples in order, read ahead by threads
run.py        what was read, until it is in batches        files.py      open files of this machine
assemble.py   decoded, transformed, collated               loader.py     the batches of one pass; errors; state
settings.py   the parameters that all inputs share         batches.py    EpochBatches; ShardBatches: numpy
mapping.py    samples by their indexes                     mixing.py     the batches of several datasets
choices.py    which of several datasets gives each batch   control.py    what processes share: epoch, start, stats
state.py      where a loader stands, as JSON               stats.py      what was done so far
ranks.py      which rank a process is
"""
