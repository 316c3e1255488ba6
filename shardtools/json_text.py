"""Parse JSON from outside: an index, a manifest, a line of a table."""

from __future__ import annotations

import json
from typing import Any

from shardtools.errors import CorruptError


def parse_json(data: bytes | str, url: str | None = None) -> Any:
    """Return the data of a JSON text; ``url`` says in an error where it comes from.

    Python's own parser raises four kinds of errors, and one of them, for deep nesting, is not a ValueError.

    Raises:
        CorruptError: it is not JSON, is nested too deeply, or has a number of thousands of digits.

    >>> parse_json(b"[" * 100_000, "http://host/a.json")
    Traceback (most recent call last):
    shardtools.errors.CorruptError: http://host/a.json: it is not JSON: it is nested too deeply; write it again
    """
    try:
        return json.loads(data)
    except RecursionError:
        what = "it is nested too deeply"
    except UnicodeDecodeError:
        what = "it is not UTF-8"
    except json.JSONDecodeError as error:
        what = error.msg if error.lineno == 1 else f"{error.msg} in line {error.lineno}"
    except ValueError:  # int() takes no more than some thousand digits
        what = "a number has too many digits"
    # Raised here, without its cause: a traceback of a thousand frames helps nobody.
    raise CorruptError(f"it is not JSON: {what}", url=url, fix="write it again")
