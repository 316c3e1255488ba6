"""Questions about the samples of a dataset, in the SQL of DuckDB.

    values of small fields, as bytes -> columns with types -> a condition on them -> the rows that it picks

duck.py        one DuckDB for each process, without files, network and settings of its own
names.py       which column a name in SQL stands for: ``key``, ``cls``, ``json.width``, ``size.jpg``
kinds.py       the types of columns, and of columns that several shards have
json_paths.py  the paths of JSON texts, and what is at them
values.py      samples -> columns in DuckDB
table_file.py  the footer of a dataset's table
ask.py         a condition -> the table, for the shards that are as it says
table.py       an open table: which shards it still describes, and the rows that a condition picks; of one on a server
               it has the columns that were asked for (partial_file.py)
key_file.py    the file of keys: any key in a few kilobytes
published.py   the summary and the page beside a dataset: for which shards
sql.py         queries over tables
describe.py    what a dataset is, in a few requests; histograms.py, examples.py and index_files.py are parts of it
condition.py   one boolean expression -> the rows of samples for which it is true
numbers.py     one expression -> a number for each sample
conjuncts.py   the parts of a condition that AND joins

DuckDB does what is done for each sample: it parses JSON, converts and compares. Python touches names only.
"""
