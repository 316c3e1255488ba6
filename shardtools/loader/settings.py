"""What batches are made of and how: the parameters that all inputs for training share, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shardtools.errors import JobError, ShardtoolsError
from shardtools.loader.assemble import Collate
from shardtools.loader.buckets import BUCKETS as BUCKETS
from shardtools.loader.buckets import check_buckets
from shardtools.loader.order import Shuffle
from shardtools.loader.shard import SPECIAL
from shardtools.loader.split import Uneven
from shardtools.shards.names import is_special

OnError = Literal["fail", "skip"] | Callable[[ShardtoolsError], object]

Auto = Literal["auto"]

MEMORY = 256_000_000
"""Bytes of samples that a process reads ahead, at most."""

MAX_SKIPS = (100, 10_000)
"""Errors in a row, and errors in one pass of one process, up to which samples are skipped."""


@dataclass(frozen=True)
class Settings:
    """The parameters that `ShardIterable`, `ShardBatches`, `ShardMap` and `to_tf` share, as far as they have them.

    Where a default differs, the docstring of the one that differs says why.

    Args:
        fields: names of the samples' fields, and of "__key__", "__shard__" (the file's name), "__index__" (the row in
            it) and "__pad__" (whether the sample is a repeat).
        decode: whether to decode each field by its extension. Else they are bytes.
        transform: called with a sample's values, in the order of ``fields``; returns the sample.
        collate: makes a batch of a list of samples. "auto" stacks them as the framework does where they are decoded or
            transformed; where they are neither it is None, which gives a list for each field.
        shuffle: True; False; "full", any permutation, where single samples can be read quickly; or a `Window`.
        seed: what the orders of all epochs depend on.
        batch_size: samples in a batch of one rank.
        bucket_by: an expression in SQL over the columns of samples, as in ``Dataset.where``, such as
            "json.width / json.height" or "size.txt": each batch, on all ranks together, is of samples of one bucket.
            Samples for which it is null are a bucket of their own. ``shuffle`` and ``uneven`` work within each bucket.
        buckets: how many buckets of about as many samples each; or their edges, such as [0.5, 1, 2], which make four.
        uneven: what happens to the last samples if they make no whole batch on all ranks: they are left out ("drop"),
            filled up with samples from the epoch's beginning ("pad"), or a smaller batch ("uneven", see `Split`). All
            ranks get the same number of batches in any case.
        on_error: "fail"; "skip"; or a function that is called with each error. A sample that is skipped makes its
            batch smaller; a batch that would be empty repeats the one before.
        max_skips: how many errors are too many, in a row and in one pass of one process.
        memory: bytes of samples that are read ahead in each process.
        threads: threads that read, and threads that decode, in each process; the default depends on the storage.

    Raises:
        JobError: they contradict each other.
    """

    fields: tuple[str, ...]
    decode: bool = True
    transform: Callable[..., Any] | None = None
    collate: Collate | None = None
    shuffle: Shuffle = False
    seed: int = 0
    batch_size: int = 1
    bucket_by: str | None = None
    buckets: int | Sequence[float] = BUCKETS
    uneven: Uneven = "uneven"
    on_error: OnError = "fail"
    max_skips: tuple[int, int] = MAX_SKIPS
    memory: int = MEMORY
    threads: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.fields if is_special(name) and name not in SPECIAL]
        if not self.fields or unknown or len(set(self.fields)) < len(self.fields):
            what = (
                f"there is no field {unknown[0]}" if unknown else "fields must name each field once, and at least one"
            )
            raise JobError(what, fix=f"name fields such as jpg, or one of {', '.join(SPECIAL)}")
        if self.batch_size < 1 or self.memory < 1 or (self.threads is not None and self.threads < 1):
            raise JobError(
                "batch_size, memory and threads must be positive", fix="correct the argument, or leave it out"
            )
        check_buckets(self.bucket_by, self.buckets)
        if self.uneven not in ("drop", "pad", "uneven"):
            raise JobError(f"uneven={self.uneven!r} is not a valid choice", fix="choose drop, pad or uneven")
        if self.on_error not in ("fail", "skip") and not callable(self.on_error):
            raise JobError(
                f"on_error={self.on_error!r} is not a valid choice", fix="choose fail or skip, or give a function"
            )
        if isinstance(self.shuffle, str) and self.shuffle != "full":
            raise JobError(
                f"shuffle={self.shuffle!r} is not a valid choice", fix="choose True, False, full or a Window"
            )
