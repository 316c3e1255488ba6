"""The suite `shuffle`; see exchange.py."""

from benchmarks.exchange import shuffle as tables

__all__ = ["tables"]
