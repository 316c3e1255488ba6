"""Arrays by name and version: a Zarr hierarchy in tar shards, on a log of commits.

    hub.array, hub.load -> HubArray: index -> chunks -> keys -> log -> ranges of data shards -> numpy
    transaction -> whole chunks into a data shard, parts of chunks in memory -> one commit

hub.py          Hub: versions, creating and opening arrays
array.py        HubArray: numpy-like indexing, reductions, writing
grid.py         which chunks an index selects, and which part of each
metadata.py     what a ``zarr.json`` says, by the zarr library
codecs.py       chunks as bytes: unpacking.py, inner_chunks.py
chunk_reader.py chunks of a snapshot
data_writer.py  chunks into tar shards
transaction.py  writes that become one commit: write_buffer.py, marks.py, transaction_array.py, open_transactions.py
parts.py        what workers of a cluster write for one: worker_array.py, taken_parts.py, dask_arrays.py
store.py        a store of the zarr library, for xarray and others: keys.py, transaction_keys.py
sync.py         commits and data of one place, brought to another: copying.py, hub_sync.py
compact.py      live chunks into few shards: chunk_order.py; also diff.py, verify.py, expire.py, hub_upkeep.py
exporting.py    for other programs: export.py, export_references.py; from them: importing.py, fill.py
hub_shown.py    what notebooks and browsers show of them
names.py        names of arrays, and the keys of the log

``docs/arrays.md`` describes the format and what is guaranteed.
"""
