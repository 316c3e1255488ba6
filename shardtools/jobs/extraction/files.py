"""The fields of one sample as files of a folder: where each goes. Their names come from a shard, or its sidecar."""

from __future__ import annotations

import os
from urllib.parse import quote

from shardtools.errors import CorruptError, RefusedError
from shardtools.storage.files import os_errors
from shardtools.urls import absolute, is_local, scheme_of


def place_in(folder: str, key: str, field: str, *, url: str) -> str:
    """Return the URL of the file for a field of the sample ``key`` in ``folder``, which the user has named.

    It has the last component of the key, and never lies anywhere else; ``url`` is that of the shard, for errors.

    Raises:
        CorruptError: the names lead out of the folder.
        RefusedError: there is a symbolic link in the file's place, through which another one would be written.

    >>> place_in("http://host/d/", "a/0017", "seg.png", url="a.tar")
    'http://host/d/0017.seg.png'
    """
    name = f"{key.rpartition('/')[2]}.{field}"
    if "/" in name or "\0" in name or name in (".", ".."):
        what = "the name of this field leads out of the folder that it is to be written to"
        raise CorruptError(what, url=url, member=f"{key}.{field}", fix="delete the shard's sidecar")
    start = f"{folder.rstrip('/')}/"
    if not is_local(folder):
        http = scheme_of(folder) in ("http", "https")  # where a % may stand for a slash, and a ? ends the path
        return start + (quote(name, errors="surrogateescape") if http else name)
    path = os.path.join(absolute(folder), name)
    with os_errors(path):
        if os.path.islink(path):
            fix = "delete the link, or choose another folder"
            raise RefusedError("this is a symbolic link, which may lead out of the folder", url=path, fix=fix)
    return start + name
