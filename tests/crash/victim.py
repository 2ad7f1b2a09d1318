"""The program that is killed: engine, worker and clients of a workload, over one file.

`python -m tests.crash.victim '{"folder": …}'` goes on where the last one was. It ends with 0 when all that was
ordered is done; with STOPPED when it was told to stop in the middle of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from pathlib import Path

from msgspec import Struct, json

from perdure import embedded
from perdure.clock import HOUR
from perdure.engine.storage import sqlite
from perdure.engine.storage.api import Store
from perdure.engine.storage.sqlite import SqliteStore
from tests.crash.clients import Clients
from tests.crash.ledger import Ledger, now
from tests.crash.outside import Outside
from tests.crash.workload import enter, make_orders

DATABASE = "perdure.db"
"""Its name in the folder of a round."""

PAUSE = 0.02
"""Seconds after which a victim that is done looks again whether all is quiet."""

STOPPED, ABANDONED = 3, 4
"""The exit codes of a victim that was told to stop, and of one whose runner is gone."""


class Task(Struct, frozen=True):
    """What a victim is told.

    crowd: workflows that are served at once. slots: activities that run at once; more than crowd, since some
    hang. checkpoint_pages: pages of the log after which there is a checkpoint. stop_after: lines after which it
    stops, in good order; 0: never.
    """

    folder: str
    process: int
    seed: str
    orders: int
    crowd: int
    slots: int
    checkpoint_pages: int
    stop_after: int = 0


def main() -> int:
    """Do as told; the exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    task = json.decode(sys.argv[1], type=Task)
    ledger = Ledger(Path(task.folder), task.process, sys.stdout.fileno())
    sqlite.CHECKPOINT_PAGES = task.checkpoint_pages  # type: ignore[misc]
    announce_checkpoints(ledger)
    return asyncio.run(live(task, ledger))


def announce_checkpoints(ledger: Ledger) -> None:
    """Write a line just before each checkpoint, so that the runner can aim at it."""
    checkpoint = SqliteStore._checkpoint

    def announced(self: SqliteStore, writer: sqlite3.Connection) -> None:
        ledger.mark("checkpoint")
        checkpoint(self, writer)

    SqliteStore._checkpoint = announced  # type: ignore[method-assign]


async def live(task: Task, ledger: Ledger) -> int:
    """One life of the engine over the file; the exit code."""
    outside = Outside(ledger)
    enter(outside)
    enough = asyncio.Event()
    stop_when_it_is_enough(task, ledger, enough)
    # The runner says nothing; that there is an end to its saying nothing means that it is gone.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), os._exit, ABANDONED)
    ledger.mark("opening")
    engine = embedded(Path(task.folder, DATABASE), max_concurrent_activities=task.slots)
    async with engine as client:
        ledger.mark("open")
        clients = Clients(client, outside, make_orders(task.seed, task.orders), task.crowd)
        work = asyncio.create_task(clients.run())
        stop = asyncio.create_task(enough.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        done = work.done()
        if done:
            work.result()
            await quiet(engine.node.store)
        ledger.mark("closing")  # while the clients go on, unless they are done
    ledger.mark("closed")
    stop.cancel()
    await work
    return 0 if done else STOPPED


async def quiet(store: Store) -> None:
    """Wait until nothing is under way any more: what is left wakes only to be forgotten, after days."""
    while await store.running(None, 1) or await store.due(now() + HOUR, 1):
        await asyncio.wait([asyncio.Future[None]()], timeout=PAUSE)


def stop_when_it_is_enough(task: Task, ledger: Ledger, enough: asyncio.Event) -> None:
    """Set the event when this process has written as many lines as it was told."""
    loop = asyncio.get_running_loop()
    written = 0

    def count() -> None:
        nonlocal written
        written += 1
        if written == task.stop_after:
            loop.call_soon_threadsafe(enough.set)

    ledger.on_line = count


if __name__ == "__main__":
    sys.exit(main())
