"""How large data from outside may be, for each kind of data.

A shard's header may claim any size, a few megabytes may unpack to many gigabytes, and a server may send without end.
Data that is held in memory because a file says so has a limit here. Larger data is a `LimitError`, which says how to
raise the limit: ``--max KIND=SIZE``, or ``limits=Limits(KIND=SIZE)`` in Python.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from shardtools.errors import LimitError


@dataclass(frozen=True)
class Limits:
    """The largest number of bytes of each kind of data.

    ``sample``: one sample of a shard, headers included, where it is held in memory.
    ``value``: a decoded value: the pixels of an image, the arrays of an npz, the contents of a .gz, a chunk.
    ``header``: the extension headers (pax, GNU) of one member.
    ``sidecar``: a sidecar as stored, and its table in memory.
    ``manifest``: a manifest, or an index for wids.
    ``index``: an index of DALI or Energon.
    ``listing``: a server's answer that lists a folder.

    Raises:
        ValueError: a limit is not above zero.
    """

    sample: int = 4 << 30
    value: int = 1 << 30
    header: int = 16 << 20
    sidecar: int = 256 << 20
    manifest: int = 512 << 20
    index: int = 512 << 20
    listing: int = 256 << 20

    def __post_init__(self) -> None:
        for name in KINDS:
            if getattr(self, name) <= 0:
                raise ValueError(f"the limit of {name} must be above zero: {getattr(self, name)}")

    def check(self, kind: str, size: int, *, url: str | None = None, member: str | None = None) -> None:
        """Raise if data of this kind, of ``size`` bytes or more, is too large.

        Raises:
            LimitError: it is.
        """
        limit = getattr(self, kind)
        if size > limit:
            raise LimitError(
                f"its {kind} has more than {limit:,} bytes, which is the limit",
                url=url,
                member=member,
                fix=f"raise the limit if it may be so large: --max {kind}=SIZE, in Python limits=Limits({kind}=SIZE)",
            )


KINDS = tuple(field.name for field in fields(Limits))
"""The kinds of data that have a limit."""

DEFAULT_LIMITS = Limits()
