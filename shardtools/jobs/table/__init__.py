"""The job that makes the table of a dataset: ``htindex --table``.

    sidecar and small fields of a shard -> rows -> a part, in storage         one task for each shard (shard_rows.py)
    all parts, in order -> one type for each column -> the table, in storage  the client (merge.py)
                        -> hashes of keys, sorted   -> the file of keys

A part carries the state of its shard and what was asked. A job that was stopped continues with the parts that fit; they
are deleted when the table is complete. The client holds one group of rows at a time.
"""
