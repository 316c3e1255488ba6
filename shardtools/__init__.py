"""shardtools: datasets kept as sharded tar files, at map-reduce scale and as one array."""

__version__ = "0.1.0"
