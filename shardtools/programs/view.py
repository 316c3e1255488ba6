"""htview as functions: show datasets and arrays in a browser, from this process or by a server of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardtools.errors import JobError
from shardtools.programs.running import naming, run_options
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.dataset.sharded import ShardedDataset
    from shardtools.dataset.shown import Shown
    from shardtools.storage import StorageOptions
    from shardtools.viewer.publish import Published
    from shardtools.viewer.server import ViewServer


def show(
    *sources: str | os.PathLike[str] | ShardedDataset | Hub,
    open: bool = False,
    retries: int = 5,
    timeout: float = 60.0,
    cache: str | None = None,
) -> Shown:
    """Show datasets and hubs in the browser: return a link to a page that this process serves until it ends.

    A source is a spec of shards, the place of a hub, or what `shardtools.open` or `shardtools.hub` has returned. One
    server, on 127.0.0.1, serves all that a process shows; the secret in its address keeps others out. ``open`` opens
    the browser. ``retries``, ``timeout`` and ``cache`` are for sources that are texts, as in `shardtools.open`.

    Raises:
        JobError: there is no source, or one is of another type, or a join.
        SpecError, StorageError: a source cannot be opened.

    >>> import shardtools as st
    >>> shown = st.show("train-@2.tar")
    >>> shown.name, shown.url.startswith("http://127.0.0.1:")
    ('train-@2.tar', True)
    """
    from shardtools.viewer.showing import show_places

    if not sources:
        raise JobError("there is nothing to show", fix="name a dataset or the place of a hub")
    found = [at_home(os.fspath(one)) if isinstance(one, str | os.PathLike) else one for one in sources]
    texts = [one for one in found if isinstance(one, str)]
    options = naming(run_options(retries=retries, timeout=timeout, cache=cache), *texts)
    shown = show_places(found, options.storage)
    if open:
        open_browser(shown.url)
    return shown


def serve(sources: Sequence[str], options: StorageOptions, port: int = 0) -> ViewServer:
    """Return a server that shows sources, in threads of its own.

    Raises:
        JobError: the port is taken.
        SpecError, StorageError: a source cannot be opened.
    """
    from shardtools.viewer.api import Api
    from shardtools.viewer.places import open_place
    from shardtools.viewer.server import ViewServer
    from shardtools.viewer.thumb_cache import ThumbCache

    cache = ThumbCache()
    return ViewServer(Api([open_place(at_home(source), options, cache) for source in sources]), port)


def publish(
    source: str | os.PathLike[str],
    to: str | None = None,
    *,
    overwrite: bool = False,
    retries: int = 5,
    timeout: float = 60.0,
    cache: str | None = None,
) -> Published:
    """Write a page beside the dataset ``source``, which browsers show without a server of ours; return where it is.

    The page goes to the folder ``to``, by default ``NAME.view/`` beside the shards, and a summary with histograms,
    classes and some hundred thumbnails to ``NAME.view.json``. ``overwrite`` replaces both. Browsers need the manifest
    and the sidecars, and of other origins the headers for CORS; see nginx/README.md. ``retries``, ``timeout`` and
    ``cache`` are as in `shardtools.open`.

    Raises:
        JobError: the source is not one dataset with a place of its own.
        OutputExistsError: there is a page already.
        StorageError, ShardError: the dataset cannot be read, or nothing can be written there.

    >>> import os, shardtools as st
    >>> found = st.publish("train-@2.tar")
    >>> os.path.relpath(found.page), os.path.relpath(found.summary)
    ('train-@2.tar.view/index.html', 'train-@2.tar.view.json')
    """
    from shardtools.viewer.publish import publish as write

    spec = at_home(os.fspath(source))
    options = naming(run_options(retries=retries, timeout=timeout, cache=cache), spec, to)
    return write(spec, options.storage, None if to is None else at_home(to), overwrite=overwrite)


def open_browser(url: str) -> None:
    """Open an address in the browser of the user, as far as there is one."""
    import webbrowser

    webbrowser.open(url)
