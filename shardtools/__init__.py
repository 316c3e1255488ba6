"""shardtools: datasets kept as sharded tar files, at map-reduce scale and as one array."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shardtools.arrays.array import HubArray
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.hub import open_hub as hub
    from shardtools.dataset.shown import Shown
    from shardtools.errors import ShardtoolsError
    from shardtools.jobs.extraction.extract import ExtractResult
    from shardtools.jobs.extraction.statistics import Statistics, ValueCounts
    from shardtools.jobs.report import JobResult
    from shardtools.limits import Limits
    from shardtools.programs.copy import copy
    from shardtools.programs.extract import Rows, extract
    from shardtools.programs.index import IndexResult, index
    from shardtools.programs.info import info
    from shardtools.programs.map import map
    from shardtools.programs.remove import remove
    from shardtools.programs.shuffle import shuffle
    from shardtools.programs.sort import sort
    from shardtools.programs.statistics import count, stats
    from shardtools.programs.upload import upload
    from shardtools.programs.view import publish, show
    from shardtools.query.describe import Description
    from shardtools.reading import Dataset
    from shardtools.reading import open_dataset as open
    from shardtools.reading import sql as sql
    from shardtools.view.field_view import FieldView

_LAZY = {
    "Dataset": "shardtools.reading:Dataset",
    "Description": "shardtools.query.describe:Description",
    "ExtractResult": "shardtools.jobs.extraction.extract:ExtractResult",
    "FieldView": "shardtools.view.field_view:FieldView",
    "Hub": "shardtools.arrays.hub:Hub",
    "HubArray": "shardtools.arrays.array:HubArray",
    "IndexResult": "shardtools.programs.index:IndexResult",
    "JobResult": "shardtools.jobs.report:JobResult",
    "Limits": "shardtools.limits:Limits",
    "Rows": "shardtools.programs.extract:Rows",
    "ShardtoolsError": "shardtools.errors:ShardtoolsError",
    "Shown": "shardtools.dataset.shown:Shown",
    "Statistics": "shardtools.jobs.extraction.statistics:Statistics",
    "ValueCounts": "shardtools.jobs.extraction.statistics:ValueCounts",
    "copy": "shardtools.programs.copy:copy",
    "count": "shardtools.programs.statistics:count",
    "extract": "shardtools.programs.extract:extract",
    "hub": "shardtools.arrays.hub:open_hub",
    "index": "shardtools.programs.index:index",
    "info": "shardtools.programs.info:info",
    "map": "shardtools.programs.map:map",
    "open": "shardtools.reading:open_dataset",
    "publish": "shardtools.programs.view:publish",
    "remove": "shardtools.programs.remove:remove",
    "show": "shardtools.programs.view:show",
    "shuffle": "shardtools.programs.shuffle:shuffle",
    "sort": "shardtools.programs.sort:sort",
    "sql": "shardtools.reading:sql",
    "stats": "shardtools.programs.statistics:stats",
    "upload": "shardtools.programs.upload:upload",
}

__all__ = [
    "Dataset",
    "Description",
    "ExtractResult",
    "FieldView",
    "Hub",
    "HubArray",
    "IndexResult",
    "JobResult",
    "Limits",
    "Rows",
    "ShardtoolsError",
    "Shown",
    "Statistics",
    "ValueCounts",
    "copy",
    "count",
    "extract",
    "hub",
    "index",
    "info",
    "map",
    "open",
    "publish",
    "remove",
    "show",
    "shuffle",
    "sort",
    "sql",
    "stats",
    "upload",
]


if not TYPE_CHECKING:  # else a name that is not there would have a type

    def __getattr__(name: str) -> object:
        """Import what a user asks for when it is asked for, so that importing the package costs nothing."""
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _LAZY[name].partition(":")
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
