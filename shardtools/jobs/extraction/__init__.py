"""What htextract gets out of shards: fields as rows, and statistics. (Single samples: ``shardtools/dataset/``.)

row_batches.py    a shard -> the chosen fields of its samples, from the sidecar and ranges alone where they suffice
where.py          which samples: 'cls == 7'
formats.py        rows -> tsv, csv, jsonl, parquet, npy
extract_shard.py  the task: the rows of one shard
extract.py        the job: the rows of all shards, in their order
statistics.py     the jobs that count: values, sizes, numbers
"""
