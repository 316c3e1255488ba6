"""The folder for the data between the two passes: where it is, who may read it, and how it is removed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress

from shardtools.errors import AccessError, NotFoundError, RefusedError
from shardtools.jobs.options import RunOptions
from shardtools.storage import get_storage
from shardtools.storage.files import os_errors
from shardtools.storage.together import each
from shardtools.urls import absolute, folder_of, identity, is_local, path_of

logger = logging.getLogger(__name__)

PREFIX = "shardtools-spill-"
"""The beginning of the names of folders that an exchange chooses, makes and removes by itself."""

JOB = "job.json"
"""What says which job a spill is of."""

GROUP = "group-"
"""The beginning of the names of what the first pass writes; the note that a group is complete ends in ``.json``."""

_FIX = "delete it, or name another folder with --spill"


def spill_of(destination: str, spill: str | None, options: RunOptions) -> str:
    """Return the folder of the spill, with a slash at its end: always the same for the same destination.

    Raises:
        AccessError: another user has put something where the exchange would make its own folder.
    """
    place = absolute(spill or _default(absolute(destination), options))
    if is_private(spill, options):
        check_private(place)
    return place if place.endswith("/") else f"{place}/"


def is_private(spill: str | None, options: RunOptions) -> bool:
    """Return whether the spill is a local folder that the exchange chooses: no other user has to read it."""
    return spill is None and options.on_this_machine


def _default(spec: str, options: RunOptions) -> str:
    """Return the default place of the spill: the same for the same destination, so that a job can be resumed."""
    name = hashlib.blake2b(identity(spec).encode(errors="surrogatepass"), digest_size=8).hexdigest()
    if not options.on_this_machine:
        return f"{folder_of(spec)}{PREFIX}{name}/"
    if is_local(spec):
        return f"{folder_of(spec)}.{PREFIX}{name}/"
    return os.path.join(tempfile.gettempdir(), f"{PREFIX}{name}", "")


def make_private(place: str) -> None:
    """Make a local folder that no other user can read, unless it exists and is ours.

    Raises:
        AccessError: something else is there, or the folder cannot be made.
    """
    path = place.rstrip("/")
    with os_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            return
        check_private(path)
        if _is_shared(os.path.dirname(path)):
            os.chmod(path, 0o700)


def check_private(place: str) -> None:
    """Raise if something is at ``place`` that is not a folder of this user: others can guess its name.

    The owner is checked only in folders where others may write: some network file systems show another owner.

    Raises:
        AccessError: something is.
    """
    path = place.rstrip("/")
    try:
        status = os.lstat(path)
    except OSError:  # making it will fail
        return
    if not stat.S_ISDIR(status.st_mode):
        raise AccessError("this is not a folder, and is where the spill must be", url=path, fix=_FIX)
    if _is_shared(os.path.dirname(path)) and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise AccessError(
            "this folder for the spill belongs to another user, or others may write to it", url=path, fix=_FIX
        )


def _is_shared(folder: str) -> bool:
    """Return whether others may write to a folder."""
    with suppress(OSError):
        return bool(os.stat(folder).st_mode & 0o022)
    return True


def has_job(place: str) -> bool:
    """Return whether the spill at ``place`` says which job it is of, as it does until it is removed.

    Raises:
        StorageError: it cannot be reached.
    """
    url = f"{place}{JOB}"
    try:
        get_storage(url).stat(url)
    except NotFoundError:
        return False
    return True


def has_groups(place: str) -> bool:
    """Return whether the spill at ``place`` has a group that is complete, or may have one: it does not list.

    Raises:
        StorageError: it cannot be reached.
    """
    try:
        return any(name.endswith(".json") for name in get_storage(place).list(f"{place}{GROUP}"))
    except RefusedError:
        return True


def remove_spill(place: str, names: Iterable[str]) -> None:
    """Delete the spill at ``place``: the objects ``names``, and what earlier runs have left there."""
    if is_local(place) and os.path.basename(place.rstrip("/")).lstrip(".").startswith(PREFIX):
        shutil.rmtree(path_of(place), ignore_errors=True)
        if os.path.lexists(path_of(place).rstrip("/")):  # a network file system keeps what is open under another name
            logger.warning("%s: the spill could not be removed; delete it", place)
        return
    storage = get_storage(place)
    known = {*names, f"{place}plan.npz", f"{place}{JOB}"}
    with suppress(RefusedError):  # it does not list
        for name in (GROUP, "merge-", "boundaries-"):
            known |= set(storage.list(f"{place}{name}"))
    for _ in each(storage.delete, sorted(known)):
        pass
