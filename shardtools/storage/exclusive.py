"""Whether a service respects the condition "create only if there is none".

Some services silently ignore the condition, so that each of several writers succeeds. Therefore each service is tested
once in each process with a temporary object: the second attempt to create it must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from shardtools.errors import ChangedError, ConflictUnsupportedError, StorageError
from shardtools.urls import folder_of

_known: dict[str, bool] = {}  # a place, and whether it keeps to it; a fork may know what its parent knew


def can_win_twice(create: Callable[[bytes], object], delete: Callable[[], object]) -> bool:
    """Return whether ``create``, which is to create an object only if there is none, succeeds twice; then delete it."""
    with suppress(ChangedError):  # its answer was lost: it was repeated, and then refused
        create(b"1")
    try:
        create(b"2")
    except ChangedError:
        return False
    finally:
        with suppress(StorageError):  # who may write need not be allowed to delete
            delete()
    return True


def ensure_exclusive(place: str, url: str, wins_twice: Callable[[str], bool]) -> None:
    """Raise if ``place``, a service or a bucket of one, lets two writers create the same object.

    ``wins_twice`` creates the object at the URL that it is given twice, removes it, and returns whether the second time
    succeeded, too. ``url`` is that of the object that is to be created.

    Raises:
        ConflictUnsupportedError: it does.
        StorageError: it cannot be asked.
    """
    if place not in _known:
        _known[place] = not wins_twice(f"{folder_of(url)}.shardtools-{uuid4().hex}")
    if not _known[place]:
        raise ConflictUnsupportedError(
            "this service lets two writers create the same object, each as the only one",
            url=url,
            fix="let one process alone write there, which can replace objects instead; for several, use a service that "
            "keeps to If-None-Match, such as S3, MinIO or Google's, or to MOVE, such as nginx or Apache",
        )
