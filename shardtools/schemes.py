"""The schemes of the servers that keep shards.

What knows them by name is made from this list: which URLs lack their slashes, and where a user and password may stand.
``shardtools.storage`` has the class of each.
"""

SERVERS = ("http", "https", "s3", "gs")
