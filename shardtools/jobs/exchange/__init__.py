"""The exchange: samples change their order and their shards, in two passes through storage. Shuffle and sort share it.

    plan.py        what the job will do: inputs in groups, destination, spill; every check before any work
    exchange.py    the job: both passes, resuming, and the comparison of what went in with what came out

    keying.py      the order of each sample of a block, as order.py encodes it: bytes that are compared as bytes
    collect.py     pass 1, a task for each group of inputs: spans -> sorted -> runs
    run.py         a run: sorted samples as one object of the spill, any range of which can be read
    run_table.py   what is known of the samples of a run besides their bytes

    cuts.py        where each output begins in each run; for more samples than one process can plan, in batches:
    splits.py      orders that part all runs into batches; boundaries.py, a task for each batch
    gather.py      pass 2, a task for each output: a range of every run -> merged -> shard
    duplicates.py  samples of one output with the same key; merge.py joins them, reduce.py calls the user's function

    contents.py    spans -> records, and back, for samples that change
    spill.py       the folder between the passes; notes.py, what the passes write there for each other

Samples are copied as they are, headers included: from the input to a run, and from there to an output. The order
depends on the samples alone. So the result is the same however inputs are grouped, and for any memory and any number
of workers. (It is an external merge sort; Knuth, The Art of Computer Programming 3, 5.4.)
"""
