"""The Dask cluster of a job, for all of its runs."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shardtools.engine.notes import notes
from shardtools.errors import SchedulerError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

WAIT_SECONDS = 300.0
"""How long to wait for a scheduler, and for a worker while there is none, if nothing else is said."""

AUTO = "auto"


class Connection:
    """A Dask cluster, connected when it is first needed, and closed with this context.

    ``cluster`` is an address, a scheduler file, ``"auto"``, ``MODULE:CALLABLE``, ``FILE.py:CALLABLE``, or a Dask client
    or cluster, which stays open. What a callable returns is closed. ``wait`` says how many seconds to wait for the
    scheduler, and for a worker while there is none.
    """

    def __init__(self, cluster: str | Client | Cluster, wait: float = WAIT_SECONDS):
        self._cluster = cluster
        self._stack = ExitStack()
        self._client: Client | None = None
        self._security: Any = None
        self._place = ""
        self.wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def where(self) -> str:
        """What was given as the cluster, or its address, for messages."""
        if isinstance(self._cluster, str) and self._cluster != AUTO:
            return self._cluster
        return address_of(self._client) if self._client is not None else str(self._cluster)

    def client(self) -> Client:
        """Return the client, after waiting for the scheduler if need be.

        Raises:
            SchedulerError: no scheduler answers, or it cannot be used.
        """
        from shardtools.engine.connect import quiet, refuse_unusable

        if self._client is None:
            self._stack.enter_context(quiet())
            try:
                self._client = self._open()
                refuse_unusable(self._client)
            except BaseException:
                self.close()
                raise
            self._security = self._client.security
            self._place = self._place or address_of(self._client)
            if self._client is not self._cluster and (link := _dashboard_of(self._client)):
                notes.info("the dashboard is at %s", link)
        return self._client

    def renew(self) -> Client:
        """Return a client that is connected, after its connection was lost: the same one or, if that gave up, another.

        Raises:
            SchedulerError: no scheduler answers in time.
        """
        from shardtools.engine.connect import connect_to
        from shardtools.engine.patience import Patience

        client = self.client()
        patience = Patience(self.wait)
        while client.status == "connecting" and patience.pause(f"the scheduler at {self.where}, which went away"):
            pass
        if client.status != "running":
            if client.cluster is not None and _is_closed(client.cluster):
                raise SchedulerError(f"the Dask cluster at {self.where} was closed", fix="go on with --resume")
            client = self._stack.enter_context(connect_to(self._place, patience.left, self._security))
            self._client = client
        return client

    def close(self) -> None:
        """Close what was opened here."""
        self._client = None
        self._stack.close()

    def _open(self) -> Client:
        from distributed import Client

        from shardtools.engine.connect import client_of, connect_to
        from shardtools.engine.factory import make_cluster

        cluster: Any = self._cluster
        if cluster == AUTO and (current := _current_client()) is not None:
            return current
        if isinstance(cluster, str) and _is_callable(cluster):
            cluster = make_cluster(cluster)
            self._stack.callback(_close_made, cluster)
        if isinstance(cluster, Client):
            return cluster
        if isinstance(cluster, str):
            self._place = cluster
            return self._stack.enter_context(connect_to(cluster, self.wait))
        return self._stack.enter_context(client_of(cluster))


def address_of(client: Client) -> str:
    """Return the address of a client's scheduler, for messages."""
    return client.scheduler.address if client.scheduler else "?"


def _is_closed(cluster: Cluster) -> bool:
    """Return whether a cluster is closed; the status of some is a text."""
    status = cluster.status
    return getattr(status, "name", status) in ("closing", "closed")


def _is_callable(cluster: str) -> bool:
    """Return whether a text names a callable, and not a file."""
    from shardtools.engine.factory import is_factory

    return is_factory(cluster) and not os.path.isfile(cluster)


def _current_client() -> Client | None:
    """Return the Dask client that this process uses by default, if it has one."""
    from distributed import Client

    try:
        return Client.current()
    except ValueError:
        return None


def _close_made(made: Client | Cluster) -> None:
    """Close what a callable of the user has made: a cluster, or a client and its cluster."""
    from distributed import Client

    made.close()
    if isinstance(made, Client) and made.cluster is not None:
        made.cluster.close()


def _dashboard_of(client: Client) -> str | None:
    """Return the link of the dashboard, None if there is none: a scheduler without bokeh has a link to nothing."""
    import importlib.metadata

    try:
        client.run_on_scheduler(importlib.metadata.version, "bokeh")
        link: str | None = client.dashboard_link
    except (ImportError, KeyError):
        return None
    return link or None
