"""The URLs of objects in buckets: names are what stands there, as it stands there."""

from __future__ import annotations

from shardtools.errors import RefusedError
from shardtools.urls import scheme_of


def split_url(url: str, *, prefix: bool = False) -> tuple[str, str]:
    """Return bucket and name of a URL; with ``prefix`` the name may be empty or end with a slash.

    Raises:
        RefusedError: it has none, or it names a folder, or its name is not text.

    >>> split_url("gs://bucket/a b%20?x#y.tar")
    ('bucket', 'a b%20?x#y.tar')
    """
    bucket, _, name = url.partition("://")[2].partition("/")
    if not bucket or (not name and not prefix):
        fix = f"write it as {scheme_of(url)}://bucket/name"
        raise RefusedError("this names a folder or nothing, not an object in a bucket", url=url, fix=fix)
    if name.endswith("/") and not prefix:
        raise RefusedError("this names a folder", url=url, fix="name an object in it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RefusedError("the object's name is not valid UTF-8", url=url, fix="choose another name") from error
    return bucket, name
