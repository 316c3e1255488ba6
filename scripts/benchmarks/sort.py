"""The suite `sort`; see exchange.py."""

from benchmarks.exchange import sort as tables

__all__ = ["tables"]
