"""What htextract gets out of shards: fields as rows, and statistics. (Single samples: ``shardtools/dataset/``.)

chunks.py       a shard -> the chosen fields of its samples, from the sidecar and ranges alone where they suffice
where.py        which samples: 'cls == 7'
formats.py      rows -> tsv, csv, jsonl, parquet, npy
rows.py         the job that brings rows out, in the order of the shards
statistics.py   the jobs that count: values, sizes, numbers
"""
