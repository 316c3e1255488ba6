"""Indexes that other programs write beside shards, used in place of sidecars and manifests.

read.py      the sidecar of a shard from the first index that matches it
listing.py   the members that an index lists -> sidecar, after comparing it with the shard
dali.py      ``.idx``, written by wds2idx
energon.py   Megatron Energon's ``.nv-meta``
wids.py      the shard index of wids
"""
