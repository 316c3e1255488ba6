"""The inputs for training share their parameters, and the defaults of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("torch")

import shardtools
from shardtools.errors import JobError
from shardtools.loader.settings import Settings
from shardtools.tensorflow import to_tf
from shardtools.torch import ShardBatches, ShardIterable, ShardMap

INPUTS: list[Callable[..., Any]] = [ShardIterable, ShardBatches, ShardMap, to_tf]

DIFFERENT = {
    (ShardIterable, "uneven"): "drop",
    (ShardIterable, "rank"): None,
    (ShardIterable, "world_size"): None,
}
"""Defaults that are not the common ones, and which docstrings therefore explain."""


def test_defaults_are_the_same() -> None:
    common = {field.name: field.default for field in fields(Settings) if field.name != "fields"}
    common |= {"collate": "auto", "rank": 0, "world_size": 1}
    storage = inspect.signature(shardtools.open).parameters
    common |= {
        name: storage[name].default
        for name in ("cache", "index", "retries", "timeout", "trust_index", "limits", "join")
    }
    for make in INPUTS:
        for name, parameter in inspect.signature(make).parameters.items():
            if name in common:
                assert parameter.default == DIFFERENT.get((make, name), common[name]), (make, name)
    assert set(inspect.signature(ShardBatches).parameters) == {"source", "fields", *common}
    assert {field.name for field in fields(Settings)} <= set(inspect.signature(to_tf).parameters)
    assert inspect.signature(ShardIterable).parameters.keys() == inspect.signature(ShardBatches).parameters.keys()


@pytest.mark.parametrize(("make", "name"), DIFFERENT)
def test_what_differs_is_explained(make: Callable[..., Any], name: str) -> None:
    lines = str(make.__doc__).split("\n        ")
    [explanation] = [line for line in lines if name in line.partition(":")[0].split(", ")]
    assert "default" in explanation


def test_fields_are_decoded_unless_that_is_not_wanted(spec: str) -> None:
    assert next(iter(ShardBatches(spec, fields="id", batch_size=3)))[0].tolist() == [0, 1, 2]
    assert next(iter(ShardIterable(spec, fields="id", batch_size=3)))[0].tolist() == [0, 1, 2]
    assert ShardMap(spec, fields="id")[2] == (2,)
    for make in (ShardBatches, ShardIterable, ShardMap):
        assert next(iter(make(spec, fields="id", decode=False)))[0] in (b"0", [b"0"])


def test_ranks_are_checked(spec: str) -> None:
    with pytest.raises(JobError, match="rank 3 is out of range for world_size 2"):
        ShardBatches(spec, fields="id", rank=3, world_size=2)
