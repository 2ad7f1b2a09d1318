"""What a file holds, read from a copy: the victim finds its own as the kill left it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from perdure.engine.core.execution import Execution
from perdure.engine.node.loader import fold_stored
from perdure.engine.storage.api import BacklogItem, ChainKey, QueueKey, Store, StoredRun
from perdure.engine.storage.sqlite import SqliteStore
from perdure.limits import BACKLOG_PAGE, DEFAULT_RETENTION, LIST_PAGE
from perdure.model.events import HistoryEvent
from perdure.model.journal import decode_events
from perdure.model.requests import ListedWorkflow
from perdure.model.state import State
from tests.crash.ledger import now

NAMESPACE = "default"
EVERYTHING = 1 << 30


@dataclass(frozen=True)
class Run:
    """A run as it is stored: its row, its place in listings, its history, and what its journal folds to."""

    stored: StoredRun
    listed: ListedWorkflow
    events: list[HistoryEvent]
    execution: Execution

    @property
    def state(self) -> State:
        """What the journal folds to."""
        return self.execution.state

    def everything(self) -> list[HistoryEvent]:
        """The history, and what waits to enter it."""
        return [*self.events, *self.state.buffered]


@dataclass(frozen=True)
class Disk:
    """A file. `runs` holds the runs of each workflow id, in order."""

    integrity: str
    runs: dict[str, list[Run]]
    backlog: list[BacklogItem]

    def every_run(self) -> Iterator[Run]:
        """All runs of all workflows."""
        for chain in self.runs.values():
            yield from chain


EMPTY = Disk("ok", {}, [])
"""A file that isn't there."""


def read(file: Path) -> Disk:
    """Read a file that nobody has open."""
    copy = file.parent / "copy" / file.name
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        original = Path(f"{file}{suffix}")
        if original.exists():
            shutil.copyfile(original, f"{copy}{suffix}")
    with closing(sqlite3.connect(copy)) as connection:
        integrity = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    return asyncio.run(contents(SqliteStore(copy), integrity))


async def contents(store: Store, integrity: str = "ok") -> Disk:
    """What a store that nobody has open holds."""
    await store.open(now())
    try:
        runs: dict[str, list[Run]] = {}
        page = ""
        while True:
            rows, page = await store.list(NAMESPACE, "", page, LIST_PAGE)
            for row in rows:
                runs.setdefault(row.workflow_id, []).append(await _run(store, row))
            if not page:
                break
        for chain in runs.values():
            chain.sort(key=lambda run: run.stored.key.run_no)
        backlog = [item for queue in await store.backlogged_queues() for item in await _waiting(store, queue)]
        return Disk(integrity, runs, backlog)
    finally:
        await store.close()


async def _waiting(store: Store, queue: QueueKey) -> list[BacklogItem]:
    waiting: list[BacklogItem] = []
    while page := await store.backlog(queue, waiting[-1] if waiting else None, BACKLOG_PAGE):
        waiting += page
    return waiting


async def _run(store: Store, row: ListedWorkflow) -> Run:
    stored = await store.load_run(ChainKey(NAMESPACE, row.workflow_id), row.run_id)
    assert stored is not None, f"{row} is listed, but isn't there"
    journal = await store.journal(stored.key, 0, EVERYTHING)
    events = [event for _, history in journal.rows if history for event in decode_events(history)]
    try:
        execution = fold_stored(stored, DEFAULT_RETENTION)
    except Exception as error:
        told = "\n".join(map(str, events))
        raise AssertionError(f"the journal of {row.workflow_id}, {row.run_id}, can't be folded:\n{told}") from error
    return Run(stored, row, events, execution)
