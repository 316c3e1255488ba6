"""Whether Neuroglancer can show an array, and the state that its address has for it.

A state names axes, units and what is seen first: the last two axes as a picture, as on the page of htview. What
Neuroglancer reads is in its documents on zarr, https://github.com/google/neuroglancer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"})
_CODECS = frozenset({"bytes", "blosc", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z_0-9]*")
_UNIT = re.compile(r"([0-9.]+(?:[eE][-+]?[0-9]+)?)?\s*(nano|micro|milli|centi|kilo|[nuµmck])?(meter|second|m|s)")
_SHORT = {"nano": "n", "micro": "u", "milli": "m", "centi": "c", "kilo": "k", "meter": "m", "second": "s"}

_WIDTH, _HEIGHT = 900, 600  # pixels that a picture fills at first
_SHADER = """#uicontrol invlerp normalized
void main() {
  emitRGB(vec3(normalized(getDataValue(0)), normalized(getDataValue(1)), normalized(getDataValue(2))));
}
"""


def why_not(document: Mapping[str, Any]) -> str | None:
    """Return why Neuroglancer cannot show the array of a ``zarr.json``, None if it can.

    >>> why_not({"shape": [2], "data_type": "float64", "codecs": [], "chunk_grid": {"name": "regular"}})
    'Neuroglancer does not read float64'
    """
    shape: list[int] = document["shape"]
    found: Any = document["data_type"]
    dtype = found["name"] if isinstance(found, dict) else found
    if not shape or 0 in shape:
        return "Neuroglancer shows no arrays without axes or elements"
    if dtype not in _TYPES:
        return f"Neuroglancer does not read {dtype}"
    if unread := sorted(set(_codecs(document["codecs"])) - _CODECS):
        return f"Neuroglancer does not read the codec {', '.join(unread)}"
    if document["chunk_grid"]["name"] != "regular" or document.get("storage_transformers"):
        return "Neuroglancer reads only regular chunks"
    return None


def _codecs(codecs: Sequence[Any]) -> Iterator[str]:
    """Yield the names of codecs, and of those within them."""
    for codec in codecs:
        named: Mapping[str, Any] = {"name": codec} if isinstance(codec, str) else codec
        yield named["name"]
        inner = named.get("configuration", {})
        yield from _codecs([*inner.get("codecs", ()), *inner.get("index_codecs", ())])


def neuroglancer_state(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the state for an array, without the URL of its source and the range of its colours.

    ``position`` has the axes in their order, but for that of channels.
    """
    shape = document["shape"]
    channel = _channel_axis(shape)
    axes = [axis for axis in range(len(shape)) if axis != channel]
    names = _axis_names(document.get("dimension_names"), axes, len(shape))
    scales = _scales((document.get("attributes") or {}).get("dimension_units"), len(shape))
    shown = axes[::-1][:3]
    across, down = shape[shown[0]], shape[shown[1]] if len(shown) > 1 else 1
    layer: dict[str, Any] = {
        "type": "image",
        "name": name,
        "tab": "rendering",
        "source": {"transform": {"outputDimensions": {names[i]: scales[i] for i in range(len(shape))}}},
    }
    if channel is not None and shape[channel] >= 3:
        layer["shader"] = _SHADER
    return {
        "dimensions": {names[axis]: scales[axis] for axis in axes},
        "displayDimensions": [names[axis] for axis in shown],
        "position": [0.5 if axis not in shown[:2] else shape[axis] / 2 for axis in axes],
        "crossSectionScale": max(across / _WIDTH, down / _HEIGHT),
        "layers": [layer],
        "selectedLayer": {"layer": name, "visible": True},
        "layout": "xy",
    }


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Return the axis of the colours of pictures, if there is one; the page's ``draw.js`` has the same rule."""
    if len(shape) >= 3 and shape[-1] in (1, 3, 4):
        return len(shape) - 1
    return 0 if len(shape) == 3 and shape[0] == 3 else None


def _axis_names(given: Sequence[str | None] | None, axes: Sequence[int], count: int) -> list[str]:
    """Return names of all axes that Neuroglancer takes: the array's own if they are of its form, else x, y, z from the
    last one, and d0, d1. That of the channels ends with ``^``.

    >>> _axis_names(None, [0, 1, 2, 3], 5), _axis_names(["t", "a b"], [0, 1], 2)
    (['d0', 'z', 'y', 'x', 'c^'], ['t', 'x'])
    """
    names = {axis: f"d{axis}" for axis in range(count)} | dict(zip(reversed(axes), "xyz", strict=False))
    own = {axis: name for axis, name in enumerate(given or ()) if name and _NAME.fullmatch(name)}
    both = names | own
    names = both if len(set(both.values())) == count else names
    return [names[axis] if axis in axes else f"{own.get(axis, 'c')}^" for axis in range(count)]


def _scales(units: Any, count: int) -> list[tuple[float, str]]:
    """Return scale and unit of each axis, from texts such as "4 nm"; (1, "") for what has none.

    >>> _scales(["4 nm", "2micrometer", None, "ell"], 4)
    [(4.0, 'nm'), (2.0, 'um'), (1, ''), (1, '')]
    """
    texts = units if isinstance(units, list) and len(units) == count else [None] * count
    return [_scale(text) for text in texts]


def _scale(text: Any) -> tuple[float, str]:
    match = _UNIT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or match[1] == "." or float(match[1] or 1) <= 0:
        return 1, ""
    prefix, unit = match[2] or "", match[3]
    return float(match[1] or 1), _SHORT.get(prefix, prefix) + _SHORT.get(unit, unit)
