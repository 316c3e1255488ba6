"""The exchange: samples change their order and their shards, in two passes through storage. Shuffle and sort share it.

    plan.py        what the job will do: inputs in groups, destination, spill; every check before any work
    cost.py        what it costs, and whether runs are merged; workers.py, how many tasks share how much memory
    exchange.py    the job: both passes, resuming, and the comparison of what went in with what came out
    terms.py       how the tasks of a pass are run

    keying.py      the order of each sample of a block, as order.py encodes it: bytes that are compared as bytes
    collect.py     pass 1, a task for each group of inputs: spans -> sorted -> runs
    run.py         a run: sorted samples as one object of the spill, any range of which can be read
    run_table.py   what is known of the samples of a run besides their bytes

    planning.py    where each output begins in each run, found by the client or by tasks
    splits.py      orders that part all runs into batches
    boundaries.py  where outputs begin in a batch, a task for each; cuts.py, the search itself
    merging.py     a pass between, if runs are many: a task for each group of runs and range of orders
    chain.py       what it makes of a group: runs that are read as one

    gather.py      pass 2, a task for each output: a range of every run -> merged -> shard
    duplicates.py  samples of one output with the same key; merge.py joins them, reduce.py calls the user's function

    contents.py    spans -> records, and back, for samples that change
    spill.py       the folder between the passes; notes.py, what the passes write there for each other
    threads.py     runs that are read at a time

Samples are copied as they are, headers included: from the input to a run, and from there to an output. The order
depends on the samples alone. So the result is the same however inputs are grouped, and for any memory and any number
of workers. (It is an external merge sort; Knuth, The Art of Computer Programming 3, 5.4.)
"""
