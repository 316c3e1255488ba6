"""shardtools: datasets kept as sharded tar files, at map-reduce scale and as one array."""

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "open": ("shardtools.reading", "open_dataset"),
    "Dataset": ("shardtools.reading", "Dataset"),
    "FieldView": ("shardtools.view.field_view", "FieldView"),
    "Limits": ("shardtools.limits", "Limits"),
}


def __getattr__(name: str) -> Any:
    """Import what a user asks for when it is asked for, so that importing the package costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
