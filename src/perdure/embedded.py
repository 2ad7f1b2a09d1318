"""Embedded mode: engine, worker and client in the user's process, over a file or a shared database."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from perdure.clock import Clock, SystemClock
from perdure.durations import Duration, microseconds
from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import StoreClock
from perdure.engine.node.node import Node
from perdure.engine.node.watchdog import Watchdog
from perdure.engine.storage.api import Store
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.sqlite import SqliteStore
from perdure.errors import StoreError
from perdure.ids import IdSource, RandomIds
from perdure.limits import DEFAULT_CONCURRENT_ACTIVITIES, DEFAULT_RETENTION, NODE_GRACE
from perdure.sdk.activity.spawned import refuse_while_importing
from perdure.sdk.client.client import Client
from perdure.sdk.codecs.api import PayloadCodec
from perdure.sdk.codecs.offload import Offload
from perdure.sdk.interceptors import Interceptor
from perdure.sdk.worker.worker import Worker
from perdure.sdk.workflow.context import current

IN_MEMORY = ":memory:"
POSTGRES = ("postgresql://", "postgres://")


class Embedded:
    """An engine in this process, between `async with` and its end."""

    def __init__(self, node: Node, worker: Worker, client: Client, watchdog: Watchdog | None = None) -> None:
        self.node, self.worker, self.client = node, worker, client
        self._watchdog = watchdog
        self._entered = False

    async def __aenter__(self) -> Client:
        if current() is not None:
            raise RuntimeError("embedded() can't be used inside a workflow, which an engine runs already")
        if self._entered:
            raise RuntimeError("this embedded() was entered already: it can be used once, so call embedded() again")
        refuse_while_importing("open an engine")
        self._entered = True
        await self.node.start()
        try:
            await self.worker.start()
            await self.node.serve()
        except BaseException:
            await self._stop()
            raise
        if self._watchdog is not None:
            self._watchdog.start()
        return self.client

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        await self._stop()

    if not TYPE_CHECKING:  # the checkers know that it isn't for `with`

        def __enter__(self) -> NoReturn:
            raise TypeError("embedded() is entered with `async with`, in a coroutine")

        def __exit__(self, *_: object) -> None:
            """Never reached."""

    async def _stop(self) -> None:
        self.node.ends_soon()
        try:
            await self.worker.stop()
        finally:
            await self.node.stop()


def embedded(
    location: str | os.PathLike[str],
    *,
    namespace: str = "default",
    task_queue: str = "default",
    max_concurrent_activities: int = DEFAULT_CONCURRENT_ACTIVITIES,
    max_activity_processes: int | None = None,
    max_cached_workflows: int | None = None,
    workflows: Iterable[object] | None = None,
    activities: Iterable[object] | None = None,
    build_id: str = "",
    retention: Duration | None = None,
    grace: Duration | None = None,
    codecs: Iterable[PayloadCodec | Offload] = (),
    encode_failures: bool = False,
    identity: str | None = None,
    interceptors: Sequence[Interceptor] | None = None,
    clock: Clock | None = None,
    ids: IdSource | None = None,
) -> Embedded:
    """Run the whole engine in this process, with its state in one file, or in a PostgreSQL database.

    A file belongs to one process at a time. Any number of processes, on any machines, may share a database: each serves
    what it has the code for, and goes on with what one that dies has left. What is stored goes on as soon as the store
    is open; so import the definitions first.

    Args:
        location: the SQLite file, made if it isn't there; "postgresql://user@host/database" for PostgreSQL (needs
            `perdure[postgres]`); ":memory:" keeps nothing.
        namespace, task_queue: those of the client, and of the worker: it serves that queue.
        max_concurrent_activities: how many activities run at once at most; of plain functions, 1,000.
        max_activity_processes: how many of them in processes (`executor="process"`); by default one for each processor.
        max_cached_workflows: how many suspended workflows are kept in memory, 1,000 by default; others are replayed.
        workflows, activities: what this process serves; by default all that is imported.
        build_id: names the version of the code; it stands in the histories of what this process runs.
        retention: how long a closed run can still be read; by default 30 days.
        grace: how long a process that says nothing counts as alive, where several share a database; by default 10 s.
        codecs: what becomes of payloads before they are stored, such as ``[Zstd(), AesGcm(key="env:KEY"), Offload()]``.
        encode_failures: whether messages and tracebacks of failures go through the codecs, too.
        identity: who acts through the client, such as "ann@ops", for the histories; by default "pid@host".
        interceptors: what is called around requests, activities and workflows; the first is the outermost.
        clock, ids: other sources of time and identifiers, for tests.

    Raises:
        TypeError, ValueError: an option is not what it should be.

    Raises, when it is entered:
        RuntimeError: it was entered before.
        StoreLocked: another process has the file open; the message names its pid.
        StoreError: the file or the database can't be used; the message says why, and what to do.
        Unavailable: the database can't be reached.

    Example::

        async with embedded("platform.db") as client:
            await client.run(provision("payments"), id="env-payments")
    """
    ids = ids or RandomIds()
    node = _node(location, clock or SystemClock(), ids, retention, grace)
    client = Client(
        node, namespace=namespace, task_queue=task_queue, identity=identity, ids=ids, codecs=codecs,
        encode_failures=encode_failures, interceptors=interceptors,
    )  # fmt: skip
    worker = Worker(
        client, task_queue=task_queue, workflows=workflows, activities=activities, build_id=build_id, ids=ids,
        max_concurrent_activities=max_concurrent_activities, max_activity_processes=max_activity_processes,
        max_cached_workflows=max_cached_workflows,
    )  # fmt: skip
    # In another time than the machine's, it can't be told how long the loop was blocked.
    return Embedded(node, worker, client, Watchdog(node.clock, node.stalls.add) if clock is None else None)


def _node(
    location: str | os.PathLike[str], time: Clock, ids: IdSource, retention: Duration | None, grace: Duration | None
) -> Node:
    """The engine that serves a location."""
    where = _place(location)
    kept = DEFAULT_RETENTION if retention is None else microseconds(retention, "retention")
    given_up = NODE_GRACE if grace is None else microseconds(grace, "grace")
    if where.startswith(POSTGRES):
        return _shared_node(where, time, ids, kept, given_up)
    if "://" in where:
        raise ValueError(
            f"location {where!r} is no path and no address of PostgreSQL, as postgresql://user@host/database"
        )
    store: Store = MemoryStore() if where == IN_MEMORY else SqliteStore(where)
    return Node(store, time, ids, retention=kept)


def _place(location: str | os.PathLike[str]) -> str:
    try:
        return str.__str__(os.fspath(location))  # which may be bytes: SQLite's paths are text
    except TypeError:
        raise TypeError(f"location must be text or a path, not {type(location).__name__}") from None


def _shared_node(dsn: str, time: Clock, ids: IdSource, retention: int, grace: int) -> Node:
    """A node among those that share a database."""
    try:
        from perdure.engine.storage.postgres import PostgresStore
    except ImportError as error:
        raise StoreError("PostgreSQL needs a driver: pip install 'perdure[postgres]'") from error
    store, clock = PostgresStore(dsn), StoreClock(time)
    return Node(
        store,
        clock,
        ids,
        retention=retention,
        peers=lambda node: Cluster(store, clock, node, random.random, grace),
    )
