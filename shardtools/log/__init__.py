"""Versions of a place without a service: commits that are objects, created once and never changed.

    data and segment are written -> commit n + 1 is created, if there is none -> the write is done, for everyone

``docs/log.md`` describes the format. The log knows keys and where their bytes lie, and nothing of arrays.
"""
