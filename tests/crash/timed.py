"""The program that is killed while its schedules are at work: `python -m tests.crash.timed '{"location": …}'`.

Several of them may share a database; all ask for the same, with the same request ids. Each writes a line for every
activity that it begins, and ends with 0 when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from datetime import UTC, datetime, timedelta

from msgspec import Struct, json

from perdure import Client, Schedule, activity, embedded, workflow
from perdure.sdk.client.schedules import ScheduleHandle

AT_ONCE, ONE_BY_ONE, LIVE = "at-once", "one-by-one", "live"
"""The schedules: two that are backfilled and triggered, and one whose times come."""

TIMES, TRIGGERS, LIVE_TIMES = 300, 10, 4
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = timedelta(minutes=1)
GRACE = "1s"
PAUSE = 0.02
"""Seconds after which a program that has asked for all looks again whether all is done."""


class Task(Struct, frozen=True):
    """What a program is told. location: a file or a database."""

    location: str


@activity(start_to_close_timeout="1m", name="timed.work")
async def work(workflow_id: str) -> str:
    """What is to be done once for each start, unless somebody dies of it."""
    os.write(sys.stdout.fileno(), f"{workflow_id}\n".encode())
    return workflow_id


@workflow(name="timed.job")
async def job() -> str:
    """What the schedules start."""
    return await work(workflow.info().workflow_id)


async def live(task: Task) -> None:
    """Ask for all, and wait until it is done."""
    async with embedded(task.location, workflows=[job], activities=[work], grace=GRACE) as client:
        handles = await asyncio.gather(
            backfilled(client, AT_ONCE, Schedule(every=EVERY, overlap="allow_all", start_at=BEGIN, end_at=FAR)),
            backfilled(client, ONE_BY_ONE, Schedule(every=EVERY, overlap="buffer_all", start_at=BEGIN, end_at=FAR)),
            made(client, LIVE, Schedule(every="1s", overlap="allow_all", remaining_actions=LIVE_TIMES)),
        )
        for handle in handles:
            while not await done(handle):
                await asyncio.wait([asyncio.Future[None]()], timeout=PAUSE)


FAR = datetime(2100, 1, 1, tzinfo=UTC)


async def made(client: Client, id: str, schedule: Schedule) -> ScheduleHandle:
    """A schedule; what was made before is the same one."""
    return await client.create_schedule(id, job(), schedule, request_id=f"make {id}")


async def backfilled(client: Client, id: str, schedule: Schedule) -> ScheduleHandle:
    """A schedule that does nothing by itself, and what is asked of it."""
    handle = await client.create_schedule(id, job(), schedule, paused=True, request_id=f"make {id}")
    await handle.backfill(BEGIN, BEGIN + (TIMES - 1) * EVERY, request_id=f"fill {id}")
    for number in range(TRIGGERS):
        await handle.trigger(request_id=f"{number} of {id}")
    return handle


async def done(handle: ScheduleHandle) -> bool:
    """Whether nothing is under way, and nothing will be."""
    seen = await handle.describe()
    waits = seen.next_times if seen.paused is None else ()
    return not (seen.backfills or seen.running_count or seen.buffered or waits)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    asyncio.run(live(json.decode(sys.argv[1], type=Task)))
