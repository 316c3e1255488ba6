"""Which form an export has: by its name, or as it was asked for.

name, destination, format -> snapshot and path -> ``export.py``, ``export_references.py``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardtools.arrays.array import HubArray
from shardtools.arrays.export import Advance, Exported, ExportResult, destination_of, export_npy, export_zarr
from shardtools.errors import JobError
from shardtools.urls import name_of

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

FORMATS = ("zarr", "npy", "kerchunk", "icechunk")

_ENDINGS = {"npy": "npy", "json": "kerchunk", "icechunk": "icechunk"}


def export(
    hub: Hub, name: str, destination: str, format: str | None, *, overwrite: bool = False, advance: Advance | None
) -> ExportResult:
    """Write an array, a group or all of a version for other programs; see `Hub.export`."""
    target = destination_of(destination)
    kind = format or _ENDINGS.get(name_of(target.rstrip("/")).rpartition(".")[2].lower(), "zarr")
    if kind not in FORMATS:
        raise JobError(f"there is no format {kind}", fix=f"give one of {', '.join(FORMATS)}")
    if overwrite and kind in ("zarr", "icechunk"):
        raise JobError("a directory is not replaced", url=target, fix="name an empty or new one, without overwrite")
    path, version = split_selector(hub, name)
    snapshot = hub.snapshot(version)
    tell = advance or (lambda chunks, nbytes: None)
    if kind == "npy":
        if not path:
            raise JobError("a .npy file holds one array", url=target, fix="name an array")
        array = HubArray(hub, snapshot, path, hub.read_array(snapshot, path))
        return export_npy(array, target, tell, overwrite=overwrite)
    source = Exported(snapshot, path)
    if kind == "zarr":
        return export_zarr(source, target, tell)
    from shardtools.arrays.export_references import export_icechunk, export_kerchunk

    if kind == "kerchunk":
        return export_kerchunk(source, target, tell, overwrite=overwrite)
    return export_icechunk(source, target, tell)


def split_selector(hub: Hub, name: str) -> tuple[str, str | None]:
    """Return the path and the version in a name that may also be a version alone, ``:v1`` or ``@17``.

    Raises:
        SpecError: it is no name.
    """
    if name == "":
        return "", None
    if name[0] in ":@":
        _, version = hub.split(f"x{name}")
        return "", version
    return hub.split(name)
