"""How far a command has come: on a terminal a bar, else a line a minute, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shardtools.cli.common import tell
from shardtools.programs.progress import Bar, Progress


def command_progress(shards: int | Sequence[int], quiet: bool, *, samples: int | None = None) -> Progress:
    """Return the progress of a command: of shards, perhaps in several passes, or of ``samples`` if these are known."""
    if quiet:
        return Progress(shards, samples=samples)
    if sys.stderr.isatty():
        return Progress(shards, samples=samples, make_bar=_bar)
    return Progress(shards, samples=samples, tell=lambda text: tell(text, err=True))


def _bar(total: int, text: str) -> Bar:
    from tqdm import tqdm

    layout = "{percentage:3.0f}% |{bar:20}| {desc}"
    bar: Bar = tqdm(total=total, bar_format=layout, dynamic_ncols=True, file=sys.stderr, desc=text)
    return bar
