"""Files as a stranger, or a broken disk, might make them: good ones with something wrong in them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 511, 512, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 64, -(1 << 63), 10**400]
)
TEXTS = st.sampled_from(
    ["", ".", "..", "/", "a", "../../etc/x", "a\0b", "\x1b[31m", "\udcff", "é", "key", "__url__", "x" * 5000]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)


_USUAL = st.sampled_from([b"\xff" * 8, b"\0" * 8, b"-1", b"9" * 30, b"PK\x03\x04", b""])
EDITS = st.lists(
    st.tuples(
        st.integers(0, 1 << 20), st.sampled_from([0, 1, 2, 4, 8, 64, 1 << 16]), st.one_of(st.binary(max_size=8), _USUAL)
    ),
    min_size=1,
    max_size=4,
)
"""Changes of a file, whatever is in it: where, how many bytes go, and what comes in their place."""


def edited(good: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return bytes with some of them changed, left out, put in, or the end cut off."""
    data = bytearray(good)
    for at, count, some in edits:
        at %= max(len(data), 1)
        data[at : at + count] = some
    return bytes(data)


def mutated_bytes(good: bytes) -> st.SearchStrategy[bytes]:
    """Give bytes that are not quite ``good``."""
    return EDITS.map(lambda edits: edited(good, edits))


@st.composite
def mutated_json(draw: st.DrawFn, good: Any) -> bytes:
    """Give JSON of which an entry, anywhere, is another, is missing, or comes again."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return json.dumps(value).encode()


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """Return a value with one place in it changed."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    name = draw(st.sampled_from(inner))
    what = draw(st.sampled_from(["change", "change", "change", "drop", "again"]))
    if what == "drop":
        value.pop(name)
    elif what == "again" and isinstance(value, list):
        value.append(value[name])
    elif what == "again":
        value[draw(TEXTS)] = value[name]
    else:
        value[name] = _changed(draw, value[name])
    return value


def nested(depth: int = 100_000) -> list[bytes]:
    """Return JSON that no parser should be asked to follow."""
    return [b"[" * depth, b'{"a":' * depth, b'{"shardlist": ' + b"9" * depth + b"}", b"[" * depth + b"]" * depth]
