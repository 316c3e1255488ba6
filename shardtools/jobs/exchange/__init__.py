"""The exchange: samples change their order and their shards, in two passes through storage. Shuffle and sort share it.

    order.py     a sample -> the bytes that say where it comes in the order
    columns.py   what is known of many samples besides their bytes
    run.py       samples in order, as one object in the spill: bytes and columns, read by ranges
    collect.py   pass 1, a task for some input shards: spans -> sorted -> runs
    plan.py      where each output begins in each run
    gather.py    pass 2, a task for each output: a range of every run -> merged -> shard
    exchange.py  both passes, spill, resuming, and the comparison of what went in with what came out

Samples are moved as they are: the span of a sample, headers included, is copied from the input to the run and from
there to the output. The order depends on samples alone, so that the result is the same for any grouping into runs, any
memory and any number of workers. (It is an external merge sort; Knuth, The Art of Computer Programming 3, 5.4.)
"""
