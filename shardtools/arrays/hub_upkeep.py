"""What a hub can do besides reading and writing: versions compared, checked and put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from shardtools.arrays.metadata import ArrayMetadata, parse_array
from shardtools.errors import JobError
from shardtools.log.log import Snapshot
from shardtools.spec import parse_size

if TYPE_CHECKING:
    from shardtools.arrays.array import HubArray
    from shardtools.arrays.compact import CompactResult
    from shardtools.arrays.diff import Diff
    from shardtools.arrays.export import ExportResult
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.importing import ImportResult
    from shardtools.arrays.verify import VerifyResult
    from shardtools.engine import ClusterLike
    from shardtools.log.garbage import CollectResult

Advance = Callable[[int, int], object]
"""Called with the chunks and bytes that were done since it was last called."""


class HubUpkeep:
    """A part of `Hub`."""

    def diff(self, before: str, after: str | None = None) -> Diff:
        """Return what two versions differ in; the later one is by default the newest commit of ``main``.

        It reads what only one of them has, whatever else there is. (After a compaction that is all keys, but no chunk.)

        Raises:
            NotFoundError: there is no such version.
        """
        from shardtools.arrays.diff import diff

        hub = self._hub()
        names = before, after or "main"
        return diff(hub.snapshot(before), hub.snapshot(after), names)

    def verify(self, version: str | None = None, *, advance: Advance | None = None) -> VerifyResult:
        """Read each document and chunk of a version, check and decode it, and return what is wrong.

        ``advance`` is called now and then with the chunks and bytes that were checked since the last time.

        Raises:
            NotFoundError: there is no such version.
            UnavailableError: the storage does not answer.
        """
        from shardtools.arrays.verify import verify

        return verify(self._hub().snapshot(version), advance)

    def compact(
        self,
        version: str | None = None,
        *,
        shard_size: int | str | None = None,
        author: str = "",
        advance: Advance | None = None,
    ) -> CompactResult:
        """Copy the live chunks of a branch into few shards, in the order of the grid, as one commit.

        Slices of neighbouring chunks are then read in few requests. Others may write meanwhile: they neither fail nor
        lose anything. Space is freed by `expire` and `gc`, as earlier versions need the old shards.

        Args:
            version: the branch, by default ``main``.
            shard_size: bytes of a shard, such as ``"1GB"``, the default.
            author: who does it.
            advance: called now and then with the chunks and bytes that were copied since the last time.

        Raises:
            JobError: the version is a tag or a commit.
            CorruptError: a chunk is gone, or damaged. Nothing is changed.
        """
        from shardtools.arrays.compact import SHARD_SIZE, compact

        size = SHARD_SIZE if shard_size is None else _bytes(shard_size)
        base = self._branch_of(version)
        return compact(base, self._arrays(base), shard_size=size, author=author, advance=advance)

    def expire(self, version: str | None = None, *, keep: int | None = None, older_than: str | None = None) -> int:
        """Let old commits of a branch expire, and return the number of the first that can still be read.

        What tags name, or other branches begin at, can still be read. No data is deleted.

        Args:
            version: the branch, by default ``main``.
            keep: so many of the newest commits stay.
            older_than: what is younger stays, by the clocks of writers: ``"12h"``, ``"30d"``, ``"8w"``. With ``keep``,
                too, a commit expires if both say so.

        Raises:
            JobError: there is neither ``keep`` nor ``older_than``; or the version is a tag or a commit.
        """
        from shardtools.arrays.expire import expire

        return expire(self._branch_of(version), keep, older_than)

    def gc(self, grace: str = "1d") -> CollectResult:
        """Delete data that no version needs, and that no version needed in an earlier run either, ``grace`` ago.

        So two runs are needed before anything is deleted. What a version, a tag, a branch or a proposal needs stays. A
        transaction that is going on for longer than ``grace`` may lose its data; then it fails when it commits. The
        clock of this machine must be right.

        Args:
            grace: at least an hour: ``"1h"``, ``"30d"``.

        Raises:
            JobError: ``grace`` is less than an hour, or none.
            RefusedError: the storage does not list.
            ConflictError: another gc is running.
            CorruptError: what says what is needed is damaged or gone. Nothing is deleted.
        """
        from shardtools.arrays.expire import parse_age
        from shardtools.log.garbage import collect

        return collect(self._hub().log, parse_age(grace))

    def metadata_of_all(self, version: str | None = None) -> Iterator[tuple[str, ArrayMetadata]]:
        """Yield the names of all arrays of a version, sorted, and what is known of them."""
        return self._arrays(self._hub().snapshot(version))

    def export(
        self,
        name: str,
        destination: str,
        format: str | None = None,
        *,
        overwrite: bool = False,
        advance: Advance | None = None,
    ) -> ExportResult:
        """Write an array for other programs; or a group, or with ``":v1"`` or ``"@17"`` all of a version.

        Args:
            name: such as ``mnist/train:v1``.
            destination: a path or URL.
            format: ``"zarr"``, a directory with copies of the chunks; ``"npy"``, of one array; ``"kerchunk"``, a JSON
                file of references to the chunks where they lie; ``"icechunk"``, a repository of such references. By
                default that of the destination's name: .npy, .json, .icechunk; else a directory.
            overwrite: whether a file may be replaced. A directory or a repository must be new.
            advance: called now and then with the chunks and bytes that were written since the last time.

        References are right until the version expires, and `gc` removes what no version needs.

        Raises:
            NotFoundError: there is no such version, or nothing of this name in it.
            ExistsError: there is something at the destination.
            JobError: the format cannot hold it.
            CorruptError: a chunk is gone, or damaged.
        """
        from shardtools.arrays.exporting import export

        return export(self._hub(), name, str(destination), format, overwrite=overwrite, advance=advance)

    def fill(
        self,
        name: str,
        values: Any,
        *,
        cluster: ClusterLike = "threads",
        jobs: int | None = None,
        message: str = "",
        author: str = "",
        advance: Advance | None = None,
    ) -> HubArray:
        """Write all of an array, as one commit, and return it.

        >>> import numpy as np, shardtools as st
        >>> hub = st.hub("numbers")
        >>> squares = np.arange(5) ** 2
        >>> _ = hub.array("squares", like=squares)
        >>> hub.fill("squares", squares)[2:].tolist()
        [4, 9, 16]

        Args:
            name: the array, or ``NAME:BRANCH``.
            values: an array of its shape: of numpy, Dask, Zarr or a hub, or a view of a dataset's samples, such as
                ``ds.view("jpg", resize=(224, 224))``. It is loaded by parts, where they are written.
            cluster: where the work is done: ``"threads"``, ``"processes"``, or a Dask cluster; see `shardtools.map`.
            jobs: how many parts are written at a time; by default as many as there are processors.
            message: what the commit says.
            author: who does it.
            advance: called now and then with the rows and bytes that were written since the last time.

        Raises:
            ValueError: the shapes differ.
            ConflictError: others have written the array meanwhile.
        """
        from shardtools.arrays.fill import fill

        options = {"message": message, "author": author}
        return fill(self._hub(), name, values, cluster=cluster, jobs=jobs, advance=advance, **options)

    def import_from(
        self, source: str, name: str = "", *, author: str = "", advance: Advance | None = None
    ) -> ImportResult:
        """Copy arrays from a Zarr directory or a .npy or .npz file into new ones, as one commit.

        Args:
            source: a path, a URL of http, s3 or gs, or another one that fsspec can open for zarr. Versions 2 and 3 of
                Zarr. If a server does not list, groups need consolidated metadata.
            name: the new array or group; ``NAME:BRANCH``, or ``:BRANCH`` for the top of a branch. By default a
                hierarchy is imported as it is.
            author: who does it.
            advance: called now and then with the chunks and bytes that were copied since the last time.

        Raises:
            ExistsError: there is an array or a group of such a name. Nothing was imported.
            NotFoundError: there is nothing at the source.
            CorruptError: a chunk cannot be decoded. Nothing was imported.
        """
        from shardtools.arrays.importing import import_from

        return import_from(self._hub(), str(source), name, author=author, advance=advance)

    def _branch_of(self, version: str | None) -> Snapshot:
        """Return the newest commit of a branch that there is.

        Raises:
            JobError: the version is a tag or a commit.
        """
        hub = self._hub()
        snapshot = hub.snapshot(version)
        if snapshot.fixed is not None:
            raise JobError(f"{snapshot.fixed} stays as it is", url=hub.url, fix="name a branch")
        return snapshot

    def _arrays(self, snapshot: Snapshot, path: str = "") -> Iterator[tuple[str, ArrayMetadata]]:
        """Yield the paths of all arrays in a group, and what is known of them."""
        hub = self._hub()
        for name, document in hub.documents(snapshot, path):
            if hub.is_array(document, name):
                yield name, parse_array(document, hub.url, name)

    def _hub(self) -> Hub:
        return cast("Hub", self)


def _bytes(size: int | str) -> int:
    found = size if isinstance(size, int) else parse_size(size)
    if not found or found < 0:
        raise JobError(f"{size} is not a valid size", fix="write it as 500MB or 2GB")
    return found
