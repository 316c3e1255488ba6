"""Where what lies between the two passes goes, and how it goes away."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress

from shardtools.errors import AccessError, RefusedError
from shardtools.jobs.options import RunOptions
from shardtools.storage import get_storage
from shardtools.storage.files import os_errors
from shardtools.urls import absolute, folder_of, identity, is_local, path_of

PREFIX = "shardtools-spill-"
"""What the names of folders begin with that an exchange makes, and removes, by itself."""

_FIX = "delete it, or name another folder with --spill"


def spill_of(destination: str, spill: str | None, options: RunOptions) -> str:
    """Return the folder of the spill, with a slash at its end: always the same for the same destination.

    Raises:
        AccessError: somebody else has put something in the place of the folder that an exchange chooses by itself.
    """
    place = absolute(spill or _default(absolute(destination), options))
    if is_private(spill, options):
        check_private(place)
    return place if place.endswith("/") else f"{place}/"


def is_private(spill: str | None, options: RunOptions) -> bool:
    """Return whether the spill is a folder of this machine that is chosen for the user; none else has to read it."""
    return spill is None and options.on_this_machine


def _default(spec: str, options: RunOptions) -> str:
    """Return where the spill goes: always the same place for the same destination, so that a job can go on."""
    name = hashlib.blake2b(identity(spec).encode(errors="surrogatepass"), digest_size=8).hexdigest()
    if not options.on_this_machine:
        return f"{folder_of(spec)}{PREFIX}{name}/"
    if is_local(spec):
        return f"{folder_of(spec)}.{PREFIX}{name}/"
    return os.path.join(tempfile.gettempdir(), f"{PREFIX}{name}", "")


def make_private(place: str) -> None:
    """Make a folder on this machine that nobody else can look into, unless there is one of ours.

    Raises:
        AccessError: there is something else, or it cannot be made.
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
    """Raise if there is something at ``place`` that is no folder of ours; its name can be guessed.

    Only where others may write can they have put it there. Elsewhere some network file systems show other owners.

    Raises:
        AccessError: there is.
    """
    path = place.rstrip("/")
    try:
        status = os.lstat(path)
    except OSError:  # whoever makes it will see
        return
    if not stat.S_ISDIR(status.st_mode):
        raise AccessError("this is in the place of the folder for the spill", url=path, fix=_FIX)
    if _is_shared(os.path.dirname(path)) and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise AccessError("this folder for the spill is open to others, or theirs", url=path, fix=_FIX)


def _is_shared(folder: str) -> bool:
    """Return whether others may write to a folder."""
    with suppress(OSError):
        return bool(os.stat(folder).st_mode & 0o022)
    return True


def remove_spill(place: str, names: Iterable[str]) -> None:
    """Delete the spill at ``place``: the objects ``names``, and what an earlier attempt has left there."""
    if is_local(place) and os.path.basename(place.rstrip("/")).lstrip(".").startswith(PREFIX):
        shutil.rmtree(path_of(place), ignore_errors=True)
        return
    storage = get_storage(place)
    known = {*names, f"{place}plan.npz", f"{place}job.json"}
    with suppress(RefusedError):  # it does not list
        known |= set(storage.list(f"{place}group-"))
    for url in sorted(known):
        storage.delete(url)
