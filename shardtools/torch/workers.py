"""What a DataLoader's worker processes need: which one this is, and numbers that all of them share."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import get_worker_info

from shardtools.loader.control import Control


def this_worker() -> tuple[int | None, int]:
    """Return the number of this worker process, None if it is none, and how many there are."""
    info = get_worker_info()
    return (None, 1) if info is None else (info.id, info.num_workers)


class SharedControl(Control):
    """A `Control` whose arrays are shared with worker processes, those that are started anew included."""

    def __init__(self, sources: int = 0):
        numbers, stats = self.shapes(sources)
        self._tensors = (
            _shared(torch.zeros(numbers, dtype=torch.int64)),
            _shared(torch.zeros(stats, dtype=torch.float64)),
        )
        self._sources = sources
        super().__init__(sources, *(tensor.numpy() for tensor in self._tensors))

    def __getstate__(self) -> dict[str, Any]:
        return {"_tensors": self._tensors, "_sources": self._sources, "_copied": self._copied}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(state["_sources"], *(tensor.numpy() for tensor in state["_tensors"]))
        self.__dict__.update(state)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
