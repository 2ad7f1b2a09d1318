"""Embedded mode: engine, worker and client in the user's process, over one file."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from perdure.clock import Clock, SystemClock
from perdure.engine.node.node import Node
from perdure.engine.node.watchdog import Watchdog
from perdure.engine.storage.api import Store
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.sqlite import SqliteStore
from perdure.ids import IdSource, RandomIds
from perdure.limits import DEFAULT_CONCURRENT_ACTIVITIES, DEFAULT_RETENTION
from perdure.sdk.client.client import Client
from perdure.sdk.durations import Duration, microseconds
from perdure.sdk.worker.worker import Worker

IN_MEMORY = ":memory:"


class Embedded:
    """An engine in this process, between `async with` and its end."""

    def __init__(self, node: Node, worker: Worker, client: Client, watchdog: Watchdog | None = None) -> None:
        self.node, self.worker, self.client = node, worker, client
        self._watchdog = watchdog

    async def __aenter__(self) -> Client:
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

    async def _stop(self) -> None:
        try:
            await self.worker.stop()
        finally:
            await self.node.stop()


def embedded(
    path: str | os.PathLike[str],
    *,
    namespace: str = "default",
    task_queue: str = "default",
    max_concurrent_activities: int = DEFAULT_CONCURRENT_ACTIVITIES,
    retention: Duration | None = None,
    clock: Clock | None = None,
    ids: IdSource | None = None,
) -> Embedded:
    """Run the whole engine in this process, with its state in one file.

    Workflows that the file holds go on as soon as it is open; so import their definitions first.

    Args:
        path: the SQLite file, made if it isn't there; ":memory:" keeps nothing.
        namespace: the namespace that the client uses.
        task_queue: the queue that the client starts workflows on, and that the worker serves.
        max_concurrent_activities: how many activities run at once at most.
        retention: how long a closed run can still be read; by default 30 days.
        clock, ids: other sources of time and identifiers, for tests.

    Raises, when it is entered:
        StoreLocked: another process has the file open; the message names its pid.
        StoreError: the file can't be used; the message says why, and what to do.

    Example::

        async with embedded("platform.db") as client:
            await client.run(provision("payments"), id="env-payments")
    """
    time, ids = clock or SystemClock(), ids or RandomIds()
    store: Store = MemoryStore() if str(path) == IN_MEMORY else SqliteStore(Path(path))
    kept = DEFAULT_RETENTION if retention is None else microseconds(retention, "retention")
    node = Node(store, time, ids, retention=kept)
    client = Client(node, namespace=namespace, task_queue=task_queue, ids=ids)
    worker = Worker(client, task_queue=task_queue, max_concurrent_activities=max_concurrent_activities, ids=ids)
    # In another time than the machine's, it can't be told how long the loop was blocked.
    watchdog = Watchdog(time, node.stalls.add) if clock is None else None
    return Embedded(node, worker, client, watchdog)
