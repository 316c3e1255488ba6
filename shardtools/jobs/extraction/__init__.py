"""What htextract gets out of shards: fields as rows, and statistics. (Single samples: ``shardtools/dataset/``.)

extract.py        the job: the rows of all shards, in their order
extract_shard.py  the task: the rows of one shard; extracted.py, what it returns
row_batches.py    a shard -> the chosen fields of its samples, from the sidecar and ranges alone if they suffice
formats.py        rows -> bytes of tsv, csv, jsonl, parquet, npy
outputs.py        the bytes of all shards -> one file; terminal.py escapes them on a terminal
spill.py          a folder for rows that wait for those before them
shared_spill.py   on a cluster: objects for rows on their way to the client; ahead.py reads them
statistics.py     the jobs that count: values, sizes, numbers; lacking.py says what has no values
class_names.py    the names of classes, which are the values that a field has
files.py          the fields of one sample as files
"""
