"""What a hub can do with other places: bring commits and data from one to the other, and name its shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.sync import Progress, SyncResult


class HubSync:
    """A part of `Hub`."""

    def pull(
        self,
        other: str | Hub,
        *,
        branches: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> SyncResult:
        """Bring commits, tags and data of another place to this one, as far as they are missing here; see `push`."""
        from shardtools.arrays.sync import sync

        source, target = self._other(other).log, self._here().log_to_fill()
        return sync(source, target, branches=branches, tags=tags, progress=progress)

    def push(
        self,
        other: str | Hub,
        *,
        branches: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> SyncResult:
        """Bring commits, tags and data of this place to another one, as far as they are missing there.

        If it was interrupted, repeat it: what is there is not copied again. Bytes are compared with their checksums
        before a commit refers to them. Versions that have expired here come without their data.

        Args:
            other: its URL, or a hub.
            branches: those to bring, each with the commits that it began on; by default all.
            tags: those to bring; by default all whose commits come along.
            progress: called with a `SyncResult` of what was done so far.

        Raises:
            ConflictError: both places have commits of a branch that the other one lacks; nothing was copied. Or others
                write to the other place at the same time.
            NotFoundError: there is no such branch or tag.
            RefusedError: this storage does not list what there is: name branches and tags.
            CorruptError: something here is gone, or damaged.
        """
        from shardtools.arrays.sync import sync

        source, target = self._here().log, self._other(other).log_to_fill()
        return sync(source, target, branches=branches, tags=tags, progress=progress)

    def shards(self, version: str | None = None) -> Sequence[str]:
        """Return the URLs of the tar shards that a version consists of, in the order of their commits.

        Extracted one after the other to one folder, by any tar program, they are a Zarr directory. What was in an
        array that was made smaller and then larger again may come back so; `compact` first.

        Raises:
            JobError: an array of them was removed or moved later, which tar files cannot say: `compact` first.
            NotFoundError: there is no such version.
        """
        from shardtools.arrays.shard_list import list_shards

        return list_shards(self._here().snapshot(version))

    def _other(self, other: str | Hub) -> Hub:
        return self._here().beside(other) if isinstance(other, str) else other

    def _here(self) -> Hub:
        return cast("Hub", self)
