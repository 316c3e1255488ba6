"""What other programs leave beside shards, in place of our sidecars and manifests.

read.py     which of them is right for a shard      listing.py   what its members make of it, and whether they do
dali.py     ``.idx``, written by wds2idx            energon.py   Megatron Energon's ``.nv-meta``
wids.py     the shard index of wids
"""
