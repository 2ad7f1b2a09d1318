"""The program that is killed and stopped: engine, worker and clients over the shared database, in a slot.

`python -m tests.chaos.worker '{"dsn": …}'` begins to work, and leaves in good order when its standard input ends.
When a line comes before, its clients finish what they have begun, want nothing more, and say that they are done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from msgspec import Struct, json

from perdure import Unavailable
from perdure.embedded import Embedded, embedded
from tests.chaos.clients import CLIENT_SLOTS, SLOTS, Clients, Orders
from tests.chaos.outside import Log, Outside
from tests.chaos.workload import ACTIVITIES, OWN_QUEUE, WORKFLOWS, rare
from tests.crash import ledger
from tests.crash.workload import enter

SLOTS_FOR_ACTIVITIES = 6
"""Activities that run at once in a process: fewer than a fan has, so that tasks wait, and others claim them."""

OPEN_AGAIN = 0.3
"""Seconds after which a process that finds no database tries again."""

WITHOUT_RARE, OWNER, GUEST = 2, 3, 4
"""The slots of processes that are not like the others: one lacks an activity type, one has a task queue of its own;
one has no workflows and no clients, and comes and goes."""


class Task(Struct, frozen=True):
    """What a process is told: see `Clients` and `embedded`."""

    dsn: str
    folder: str
    process: int
    seed: int
    grace: float
    crowd: int

    @property
    def slot(self) -> int:
        """Its slot."""
        return self.process % SLOTS


def main() -> None:
    """Do as told."""
    format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(format=format, level=logging.INFO)
    asyncio.run(live(json.decode(sys.argv[1], type=Task)))


async def live(task: Task) -> None:
    """One life of a process."""
    folder, slot = Path(task.folder), task.slot
    orders = Orders(task.seed, slot, ledger.read(folder))
    log = Log(folder, task.process, orders.told)
    enter(Outside(log))
    leave = asyncio.Event()
    listen(orders, leave)
    log.mark("opening")
    while True:
        engine = make_engine(task)
        try:
            client = await engine.__aenter__()
            break
        except Unavailable:
            if leave.is_set():
                return
            await asyncio.wait([asyncio.Future[None]()], timeout=OPEN_AGAIN)
    log.mark("open")
    crowd = task.crowd if slot < CLIENT_SLOTS else 0
    work = asyncio.create_task(Clients(client, log, orders, crowd).run())
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait([work, leaving], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
        log.mark("done")
    await leaving
    log.mark("closing")
    await engine.__aexit__(None, None, None)
    log.mark("closed")
    await work


def make_engine(task: Task) -> Embedded:
    """The engine of a slot's process."""
    return embedded(
        task.dsn,
        grace=task.grace,
        task_queue=OWN_QUEUE if task.slot == OWNER else "default",
        max_concurrent_activities=SLOTS_FOR_ACTIVITIES,
        workflows=() if task.slot == GUEST else WORKFLOWS,
        activities=[each for each in ACTIVITIES if each is not rare or task.slot != WITHOUT_RARE],
        build_id=f"slot {task.slot}",
    )


def listen(orders: Orders, leave: asyncio.Event) -> None:
    """Do as the standard input says."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        if os.read(sys.stdin.fileno(), 1024):
            orders.enough = True
        else:
            loop.remove_reader(sys.stdin.fileno())
            leave.set()

    loop.add_reader(sys.stdin.fileno(), heard)


if __name__ == "__main__":
    main()
