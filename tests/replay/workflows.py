"""Workflows that use all of asyncio and of `workflow` whose order of steps could differ between Python versions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable

from perdure import ApplicationError, activity, workflow
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle

CHANGED = os.environ.get("PERDURE_TEST_CHANGED") == "yes"
"""Whether the code does something else than it did: then its histories must not fit."""


class Broken(Exception):
    """What activities raise."""


@activity(name="replay.work", retry_policy=None)
async def work(what: str) -> str:
    """Takes some turns, so that results come in another order than they were asked for."""
    for _ in range(random.randrange(10)):
        await asyncio.sleep(0)
    if what.startswith("bad"):
        raise ApplicationError(what, type="Broken", non_retryable=True)
    return what.upper()


@activity(name="replay.undo")
def undo(what: str) -> None:
    """Takes something back."""


async def chosen(names: list[str]) -> AsyncGenerator[str, None]:
    """An asynchronous generator with a clean-up that waits."""
    try:
        for name in names:
            yield await work(name)
    finally:
        await work("closed")


@workflow(name="replay.fan")
async def fan(names: list[str]) -> list[object]:
    """Everything that iterates over sets of tasks."""
    told: list[object] = list(await asyncio.gather(*(work(name) for name in names)))
    tasks = {asyncio.ensure_future(work(f"set {name}")) for name in names}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    told.append(sorted(task.result() for task in done))
    told += [await each for each in asyncio.as_completed(pending)]
    results = await asyncio.gather(work("bad"), work("good"), return_exceptions=True)
    told += [type(result).__name__ for result in results]
    async with contextlib.aclosing(chosen(names)) as generator:
        async for name in generator:
            told.append(name)
            break
    if CHANGED:
        told.reverse()
    return [*told, random.random(), str(uuid.uuid4()), time.time(), workflow.random().randint(0, 10**6)]


@workflow(name="replay.groups")
async def groups(names: list[str]) -> list[str]:
    """Groups, timeouts, and what tasks share."""
    told: list[str] = []
    lock, slots, full = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def produce(name: str) -> None:
        async with slots:
            result = await work(name)
        async with lock:
            await asyncio.sleep(0.001)
            queue.put_nowait(result)
        if len(told) > 1:
            full.set()

    async def consume() -> None:
        while True:
            told.append(await queue.get())
            queue.task_done()

    consumer = asyncio.create_task(consume())
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(produce(name))
    await queue.join()
    consumer.cancel()
    await asyncio.wait([consumer])
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work("bad one"))
            group.create_task(asyncio.sleep(1000))
    except* ApplicationError as errors:
        told += [str(error) for error in errors.exceptions]
    for wait in (asyncio.wait_for(full.wait(), 0.002), asyncio.wait_for(asyncio.sleep(1000), 0.002)):
        try:
            await wait
            told.append("in time")
        except TimeoutError:
            told.append("late")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5), asyncio.timeout(0.002):
            await asyncio.shield(work("shielded"))
    if CHANGED:
        told.append(await work("more"))
    return [*told, await work("last")]


@workflow(name="replay.Talk")
class Talk:
    """Messages whose handlers wait, beside code that waits."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.told: list[str] = []

    async def run(self) -> list[str]:
        """Until enough was said."""
        first = await workflow.receive("first", str)
        await workflow.wait_until(lambda: len(self.told) >= self.wanted)
        if workflow.patched("louder"):
            first = first.upper()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_until(lambda: False, timeout=0.005)
        return [first, *self.told]

    @workflow.signal
    async def tell(self, what: str) -> None:
        """Something to do."""
        self.told.append(await work(what))

    @workflow.update
    async def ask(self, what: str) -> str:
        """Something to answer."""
        await asyncio.sleep(0.002)
        self.told.append(await work(what))
        return self.told[-1]

    @ask.validator
    def _(self, what: str) -> None:
        if what == "no":
            raise ValueError("no")


@workflow(name="replay.saga")
async def saga(names: list[str]) -> list[str]:
    """Undone, by a failure that a child hands up."""
    try:
        async with workflow.saga() as done:
            for name in names:
                await done.do(work(name), undo=undo)
            await failing("bad")
    except ApplicationError as error:
        return [str(error)]
    return []


@workflow(name="replay.failing")
async def failing(what: str) -> str:
    """A child that fails."""
    return await work(what)


@workflow(name="replay.cancelled")
async def cancelled() -> str:
    """Cleans up when it is cancelled."""
    await workflow.receive("begin", object)
    try:
        await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(2000))
    except asyncio.CancelledError:
        return await workflow.shielded(work("cleaned"))
    return "never"


async def stubborn() -> None:
    """Fails when it is cancelled."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise ApplicationError("bad end") from None


@workflow(name="replay.Stopped")
class Stopped:
    """Groups whose tasks fail while they are cancelled: what their parent hears of that, and when."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ready = False

    async def run(self) -> list[str]:
        """By a timeout, a group around it, a task's `cancel`, and at last by the cancellation of the workflow."""
        async with asyncio.timeout(0.002):
            await self.group()
        await self.tell("after the timeout")
        try:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(work("bad"))
                await self.group()
                await self.tell("after the inner group")
        except* ApplicationError:
            await self.tell("after the outer group")
        task = asyncio.create_task(self.group())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await self.tell("cancelled" if task.cancelled() else "done")
        self.ready = True
        await self.group()
        await self.tell("after the workflow's cancellation")
        await self.tell("at the end")
        return self.told

    async def group(self) -> None:
        """Ends when it is cancelled only."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(stubborn())
                group.create_task(stubborn())
        except* ApplicationError as errors:
            self.told.append(f"{len(errors.exceptions)} failed")

    async def tell(self, what: str) -> None:
        """Waits."""
        try:
            self.told.append(await work(what))
        except asyncio.CancelledError:
            self.told.append(f"no {what}")

    @workflow.update
    async def wait(self) -> None:
        """Until it is to be cancelled."""
        await workflow.wait_until(lambda: self.ready)


@workflow(name="replay.turns")
async def turns() -> list[str]:
    """Who comes first, where asyncio takes another number of turns from one Python to the next."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    changed, slots = asyncio.Condition(), asyncio.Semaphore(0)

    async def tell(what: str) -> None:
        told.append(what)

    async def watch(name: str) -> None:
        async with changed:
            await changed.wait()
            told.append(name)

    async def enter(name: str) -> None:
        await slots.acquire()
        loop.call_soon(told.append, f"after {name}")
        told.append(name)

    over = asyncio.create_task(tell("over"))
    await over
    late = asyncio.create_task(tell("late"))
    await asyncio.gather(over)
    told.append("gathered")
    await late
    watching = [asyncio.create_task(watch(name)) for name in ("first", "second")]
    await asyncio.sleep(0)
    async with changed:
        changed.notify()
        watching[0].cancel()
    await asyncio.wait(watching, timeout=0.002)
    entering = [asyncio.create_task(enter("a"))]
    await asyncio.sleep(0)
    entering += [asyncio.create_task(enter(name)) for name in "bcd"]
    for _ in range(3):
        slots.release()
    await asyncio.wait(entering, timeout=0.002)
    return [await work(what) for what in told]


@workflow(name="replay.plain")
def plain(names: list[str]) -> list[str]:
    """Without `await`."""
    handles = [work.start(name) for name in names]
    time.sleep(0.002)
    return [workflow.block(handle) for handle in handles] + list(undone(names))


def undone(names: list[str]) -> list[str]:
    """By another function of the same thread, several at a time."""
    undo.map(names, concurrency=2)
    return names[::-1]


@workflow(name="replay.Lasting", entity=True)
class Lasting:
    """Rolls over, with its attributes."""

    count: int

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> int:
        """Until it was told three times."""
        while self.count < 3:
            await workflow.idle()
        return self.count

    @workflow.signal
    async def tell(self) -> None:
        """One more."""
        await work("tell")
        self.count += 1


NAMES = ["a", "b", "c", "d", "e"]


async def _fan(client: Client) -> WorkflowHandle[object]:
    return await client.start(fan(NAMES))


async def _groups(client: Client) -> WorkflowHandle[object]:
    return await client.start(groups(NAMES))


async def _talk(client: Client) -> WorkflowHandle[object]:
    handle = await client.start(Talk(6))
    said = [handle.signal(Talk.tell, name) for name in NAMES[:4]]
    asked = [handle.update(Talk.ask, name) for name in ("x", "no", "y")]
    await asyncio.gather(*said, *asked, handle.signal("first", "hello"), return_exceptions=True)
    return handle


async def _saga(client: Client) -> WorkflowHandle[object]:
    return await client.start(saga(NAMES))


async def _cancelled(client: Client) -> WorkflowHandle[object]:
    handle = await client.start(cancelled())
    await handle.signal("begin")
    await handle.cancel()
    return handle


async def _stopped(client: Client) -> WorkflowHandle[object]:
    handle = await client.start(Stopped())
    await handle.update(Stopped.wait)
    await handle.cancel()
    return handle


async def _turns(client: Client) -> WorkflowHandle[object]:
    return await client.start(turns())


async def _plain(client: Client) -> WorkflowHandle[object]:
    return await client.start(plain(NAMES))


async def _lasting(client: Client) -> WorkflowHandle[object]:
    handle = await client.start(Lasting())
    for _ in range(3):
        await handle.signal(Lasting.tell)
    return handle


CASES: dict[str, Callable[[Client], Awaitable[WorkflowHandle[object]]]] = {
    "fan": _fan,
    "groups": _groups,
    "talk": _talk,
    "saga": _saga,
    "cancelled": _cancelled,
    "stopped": _stopped,
    "turns": _turns,
    "plain": _plain,
    "lasting": _lasting,
}
"""What is recorded, by name: each starts a workflow and says to it what it waits for."""
