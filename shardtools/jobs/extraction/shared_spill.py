"""A place in storage for rows on their way from the workers of a cluster to the one file that the client writes.

    client: a mark, written again every few seconds
    worker: the rows of a shard -> one object -> client: copied into the file, then deleted
    client: at the end, what is left, and the mark

A job that was killed leaves its objects. The next one with the same place removes them if their mark is gone, if the
process that wrote it has ended, or if it was not written again for a minute.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shardtools.errors import AccessError, RefusedError, StorageError
from shardtools.jobs.lock import PATIENCE_SECONDS, Holder, marked, read_holder
from shardtools.storage import get_storage
from shardtools.storage.together import each
from shardtools.urls import absolute, is_local, name_of, path_of, split_path

FOLDER = "shardtools-rows"
"""The folder that is made beside what the job reads or writes."""

_MARK = ".mark"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedSpill:
    """Objects of the job ``run`` in the folder ``before``; ``after`` is the query of their URLs. It can be pickled."""

    before: str
    after: str
    run: str

    def url(self, name: str) -> str:
        """Return the URL of an object of this job."""
        return f"{self.before}{self.run}{name}{self.after}"

    def url_of(self, index: int) -> str:
        """Return the URL for the rows of the shard at ``index``."""
        return self.url(f"-{index:06d}")

    @property
    def folder(self) -> str:
        """The URL of the folder."""
        return f"{self.before}{self.after}"


def place_of(destination: str, sources: Sequence[str]) -> tuple[str, str]:
    """Return the text before and after the names of objects that client and workers can both reach.

    That is beside the destination, or beside the first source if the destination is on the client's machine.

    >>> place_of("s3://bucket/out/rows.tsv", ["/data/a.tar"]), place_of("-", ["http://host/d/a.tar?sig=1"])
    (('s3://bucket/out/shardtools-rows/', ''), ('http://host/d/shardtools-rows/', '?sig=1'))
    """
    near = sources[0] if destination == "-" or is_local(destination) else destination
    head, path, after = split_path(absolute(near))
    return f"{head}{path.rpartition('/')[0]}/{FOLDER}/", after


@contextmanager
def shared_spill(destination: str, sources: Sequence[str]) -> Iterator[SharedSpill | None]:
    """A context that gives a place for the rows of ``sources``, whose objects are removed at the end.

    It gives None if nothing can be written there.
    """
    if "-" in sources:
        yield None
        return
    spill = SharedSpill(*place_of(destination, sources), uuid.uuid4().hex)
    with ExitStack() as stack:
        stack.callback(_remove_folder, spill)  # at the very end, also after an error
        try:
            stack.enter_context(marked(spill.url(_MARK)))
        except (AccessError, RefusedError) as error:
            logger.info("%s (so rows wait on this machine)", error)
            yield None
            return
        others, begun = _sweep(spill), time.monotonic()
        try:
            yield spill
        finally:
            _remove(spill, map(spill.url_of, range(len(sources))))
        if time.monotonic() - begun > PATIENCE_SECONDS:
            _sweep(spill, others)


def _remove_folder(spill: SharedSpill) -> None:
    """Remove the folder if it is one of this machine and empty."""
    if is_local(spill.before):
        with suppress(OSError):  # there is something of another job in it
            Path(path_of(spill.before)).rmdir()


def _sweep(spill: SharedSpill, seen: Mapping[str, Holder] | None = None) -> Mapping[str, Holder]:
    """Remove what jobs have left that are known to have ended; return the marks of the others.

    With those ``seen`` earlier, also what jobs have left whose marks were not written again since then.
    """
    alive: dict[str, Holder] = {}
    with suppress(StorageError):  # it does not list, or forbids it; nothing depends on this
        found: dict[str, list[str]] = {}
        for url in get_storage(spill.before).list(spill.folder):
            found.setdefault(name_of(url)[: len(spill.run)], []).append(url)
        for run in found.keys() - {spill.run}:
            holder = read_holder(f"{spill.before}{run}{_MARK}{spill.after}")
            if holder is None or holder.is_gone() or (seen or {}).get(run) == holder:
                delete_all(found[run])
            else:
                alive[run] = holder
    return alive


def _remove(spill: SharedSpill, names: Iterable[str]) -> None:
    """Delete the objects of this job, which are ``names`` if its storage does not list."""
    try:
        urls = get_storage(spill.before).list(spill.url("-"))
    except StorageError:
        urls = list(names)
    delete_all(urls)


def delete_all(urls: Sequence[str]) -> None:
    """Delete objects that nobody needs any more; if that fails, the job has not."""
    try:
        for _ in each(lambda url: get_storage(url).delete(url), urls):
            pass
    except StorageError as error:
        logger.warning("%s (the next job removes what is left)", error)
