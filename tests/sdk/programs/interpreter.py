"""What workflow code does as a program says, and writes down all that it sees.

It stands for the code of users: so it uses asyncio and `workflow` as they would, and waits in every place in which one
can wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Literal, cast

from perdure import ApplicationError, activity, workflow
from tests.sdk.programs.generator import Op

SECONDS: Final = (1, 2, 3, 5, 8)
RETURN_WHEN: Final = (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED)
CANCELLATION: Final[tuple[Literal["try", "wait", "abandon"], ...]] = ("try", "try", "wait", "wait", "abandon")

CANCELLED: Final = (asyncio.CancelledError,)


@activity(name="programs.work")
async def work(what: str) -> str:
    """What everybody does."""
    return what


@activity(name="programs.undo")
async def undo(what: str) -> str:
    """Takes something back."""
    return what


@workflow(name="programs.child")
async def child(what: str) -> str:
    """Another workflow."""
    return what


def named(error: BaseException) -> str:
    """What a trace says of an exception."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return f"group({', '.join(map(named, group.exceptions))})"
    return f"{type(error).__name__}({error})" if isinstance(error, ApplicationError) else type(error).__name__


def _end(future: asyncio.Future[str]) -> None:
    if not future.done():
        future.set_result("ended")


class Interpreter:
    """Does operations, each as its method `do_…`, which gives a text."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.handles: list[asyncio.Future[str]] = []
        self.tasks: list[asyncio.Task[str]] = []
        self.pokes = self.cancelled_itself = 0
        self.lock, self.slots, self.gate = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Semaphore(0)
        self.changed, self.event = asyncio.Condition(), asyncio.Event()
        self.queue: asyncio.Queue[str] = asyncio.Queue(2)
        self.ranked: asyncio.PriorityQueue[tuple[int, str]] = asyncio.PriorityQueue()

    def tell(self, what: str) -> None:
        self.trace.append(what)

    async def do(self, op: Op) -> str:
        """Do an operation, and tell how it begins and ends."""
        self.tell(f"{op.id}…")
        try:
            method = cast("Callable[[Op], Awaitable[str]]", getattr(self, f"do_{op.kind}"))
            result = await method(op)
        except (Exception, asyncio.CancelledError) as error:
            self.tell(f"{op.id} {op.kind}: {named(error)}")
            raise
        self.tell(f"{op.id} {op.kind} = {result}")
        return result

    async def all(self, op: Op) -> str:
        """Do what is in an operation, one after the other."""
        results = [await self.do(each) for each in op.body]
        return results[-1] if results else "nothing"

    def task(self, op: Op) -> asyncio.Task[str]:
        return asyncio.create_task(self.do(op))

    # --- What is asked of others ------------------------------------------------------------------------
    async def do_activity(self, op: Op) -> str:
        return await work.options(cancellation_type=CANCELLATION[op.pick % 5])(str(op.id))

    async def do_start(self, op: Op) -> str:
        handle = work.options(cancellation_type=CANCELLATION[op.pick % 5]).start(str(op.id))
        self.handles.append(handle)
        return "started"

    async def do_local(self, op: Op) -> str:
        return await work.options(cancellation_type=CANCELLATION[op.pick % 5]).local(str(op.id))

    async def do_child(self, op: Op) -> str:
        options = child.options(cancellation_type=CANCELLATION[op.pick % 5])
        if op.pick % 2:
            self.handles.append(options.start(str(op.id)))
            return "started"
        return await options(str(op.id))

    async def do_external(self, op: Op) -> str:
        other = workflow.external("other")
        await (other.cancel() if op.pick % 3 == 0 else other.signal("news", op.id))
        return "arrived"

    async def do_join_handle(self, op: Op) -> str:
        if not self.handles:
            return "none"
        handle = self.handles[op.pick % len(self.handles)]
        return await (asyncio.shield(handle) if op.pick % 3 == 0 else handle)

    async def do_cancel_handle(self, op: Op) -> str:
        if not self.handles:
            return "none"
        handle = self.handles[op.pick % len(self.handles)]
        return f"{handle.cancel()} {handle.done()} {handle.cancelled()}"

    async def do_map(self, op: Op) -> str:
        options = work.options(cancellation_type=CANCELLATION[op.pick % 5])
        results = options.map([f"{op.id}.{n}" for n in range(4)], concurrency=(op.pick % 4) or None)
        if op.pick % 2:
            return " ".join(await results)
        async for result in results:
            self.tell(f"{op.id}: {result}")
            if op.pick % 7 == 0:
                break
        return "mapped"

    async def do_callback(self, op: Op) -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        future.add_done_callback(lambda _: self.tell(f"{op.id}: called back"))
        loop.call_soon(self.tell, f"{op.id}: soon")
        timer = loop.call_later(SECONDS[op.pick % 5], _end, future)
        try:
            return await future
        finally:
            timer.cancel()

    # --- What the workflow knows ------------------------------------------------------------------------
    async def do_draw(self, op: Op) -> str:
        times = time.time(), asyncio.get_running_loop().time(), workflow.now()
        return f"{random.random()} {uuid.uuid4()} {workflow.random().randrange(9)} {times}"

    async def do_everyone(self, op: Op) -> str:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if op.pick % 9 == 0:
            for task in others:
                if not task.get_name().startswith("programs."):  # but for the workflow itself
                    task.cancel()
        return " ".join([task.get_name() for task in (others if op.pick % 2 else asyncio.all_tasks())])

    async def do_patch(self, op: Op) -> str:
        if workflow.patched(f"patch {op.pick % 2}"):
            return await work(f"patched {op.id}")
        return "not patched"

    async def do_fail(self, op: Op) -> str:
        raise ApplicationError(str(op.id))

    async def do_cancel_self(self, op: Op) -> str:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.cancelled_itself += 1
        task.cancel()
        self.tell(f"{op.id}: {task.cancelling()}")
        if op.pick % 2:
            return f"{task.uncancel()}"
        await asyncio.sleep(0)
        return "not cancelled"

    # --- Waiting ----------------------------------------------------------------------------------------
    async def do_sleep(self, op: Op) -> str:
        await asyncio.sleep(0 if op.pick % 6 == 0 else SECONDS[op.pick % 5])  # simulated time
        return "slept"

    async def do_receive(self, op: Op) -> str:
        return await workflow.receive("mail", str, timeout=None if op.pick % 2 else SECONDS[op.pick % 5])

    async def do_wait_until(self, op: Op) -> str:
        enough = op.pick % 7
        await workflow.wait_until(lambda: self.pokes >= enough, timeout=None if op.pick % 2 else SECONDS[op.pick % 5])
        if op.pick % 3 == 0:
            self.pokes = 0
        return f"{self.pokes} pokes"

    async def do_wait_event(self, op: Op) -> str:
        await self.event.wait()
        if op.pick % 2:
            self.event.clear()
        return "set"

    async def do_wake(self, op: Op) -> str:
        self.pokes += 1
        self.event.set()
        async with self.changed:
            self.changed.notify(1 + op.pick % 2)
        return f"{self.pokes} pokes"

    async def do_put(self, op: Op) -> str:
        await self.queue.put(str(op.id))
        return "put"

    async def do_get(self, op: Op) -> str:
        return await self.queue.get()

    async def do_rank(self, op: Op) -> str:
        if op.pick % 2:
            await self.ranked.put((op.pick % 5, str(op.id)))
            return "put"
        rank, what = await self.ranked.get()
        return f"{rank} {what}"

    async def do_lock(self, op: Op) -> str:
        async with self.lock:
            return await self.all(op)

    async def do_slots(self, op: Op) -> str:
        async with self.slots:
            return await self.all(op)

    async def do_enter(self, op: Op) -> str:
        await self.gate.acquire()
        asyncio.get_running_loop().call_soon(self.tell, f"{op.id}: a turn later")
        return "let in"

    async def do_let_in(self, op: Op) -> str:
        for _ in range(1 + op.pick % 3):
            self.gate.release()
        return f"{self.gate.locked()}"

    async def do_condition(self, op: Op) -> str:
        async with self.changed:
            if op.pick % 2:
                await self.changed.wait()
            else:
                await self.changed.wait_for(lambda: self.pokes % 2 == 0)
        return await self.all(op)

    # --- Several at once --------------------------------------------------------------------------------
    async def do_sequence(self, op: Op) -> str:
        return await self.all(op)

    async def do_tries(self, op: Op) -> str:
        for each in op.body:
            with contextlib.suppress(ApplicationError, TimeoutError, ExceptionGroup, *CANCELLED[op.pick % 2 :]):
                await self.do(each)
        return "tried"

    async def do_loop(self, op: Op) -> str:
        for _ in range(op.pick % 3):
            await self.all(op)
        return "looped"

    async def do_gather(self, op: Op) -> str:
        if op.pick % 2:
            return " ".join(await asyncio.gather(*map(self.do, op.body)))
        results = await asyncio.gather(*map(self.do, op.body), return_exceptions=True)
        return " ".join([named(each) if isinstance(each, BaseException) else each for each in results])

    async def do_gather_again(self, op: Op) -> str:
        again = [*self.handles, *[task for task in self.tasks if task.done()]][op.pick % 3 :][:4]
        soon = asyncio.create_task(asyncio.sleep(0))
        soon.add_done_callback(lambda _: self.tell(f"{op.id}: a turn later"))
        self.tell(f"{op.id}: {[each.done() for each in again]}")
        results = await asyncio.gather(*again, return_exceptions=op.pick % 2 == 0)
        return " ".join([named(each) if isinstance(each, BaseException) else each for each in results])

    async def do_wait(self, op: Op) -> str:
        waited: list[asyncio.Future[str]] = [*map(self.task, op.body)]
        if self.handles and op.pick % 4 == 0:
            waited.append(self.handles[op.pick % len(self.handles)])
        timeout = None if op.pick % 5 == 0 else SECONDS[op.pick % 5]
        done, pending = await asyncio.wait(waited, timeout=timeout, return_when=RETURN_WHEN[op.pick % 3])
        self.tell(f"{op.id}: {[waited.index(each) for each in done]} {[waited.index(each) for each in pending]}")
        for each in pending:
            if op.pick % 7 < 3:
                each.cancel()
        if pending and op.pick % 7 < 5:
            await asyncio.wait(pending)
        return " ".join([await each for each in done])

    async def do_in_set(self, op: Op) -> str:
        tasks = {self.task(each): each.id for each in op.body}
        left = set(tasks)
        self.tell(f"{op.id}: {[tasks[task] for task in left]}")
        await asyncio.wait([next(iter(left))])
        for task in left:
            if op.pick % 2:
                task.cancel()
            await asyncio.wait([task])
        return f"{[task.get_name() for task in left if task.cancelled()]}"

    async def do_barrier(self, op: Op) -> str:
        barrier = asyncio.Barrier(len(op.body))

        async def one(each: Op) -> str:
            await self.do(each)
            place = await barrier.wait()
            self.tell(f"{op.id}: {each.id} is {place}")
            return str(place)

        try:
            return " ".join(await asyncio.gather(*map(one, op.body)))
        finally:
            await barrier.abort()

    async def do_workers(self, op: Op) -> str:
        queue: asyncio.Queue[Op] = asyncio.Queue()
        for each in op.body:
            queue.put_nowait(each)

        async def worker() -> str:
            while True:
                each = await queue.get()
                try:
                    await self.do(each)
                finally:
                    queue.task_done()

        workers = [asyncio.create_task(worker()) for _ in range(1 + op.pick % 2)]
        await asyncio.wait([asyncio.create_task(queue.join()), *workers], return_when=asyncio.FIRST_COMPLETED)
        for each in workers:
            each.cancel()
        await asyncio.wait(workers, timeout=1)  # what they do may swallow it
        return " ".join([f"{each.done()} {each.cancelled()}" for each in workers])

    async def do_as_completed(self, op: Op) -> str:
        results: list[str] = []
        timeout = None if op.pick % 2 else SECONDS[op.pick % 5]
        for each in asyncio.as_completed([*map(self.task, op.body)], timeout=timeout):
            try:
                results.append(await each)
            except ApplicationError as error:
                results.append(named(error))
        return " ".join(results)

    async def do_group(self, op: Op) -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.do(each)) for each in op.body[1:]]
            if op.pick % 3:
                await self.do(op.body[0])
            else:
                group.create_task(self.do(op.body[0]))
            if op.pick % 5 == 0:
                raise ApplicationError(f"in {op.id}")
        return " ".join([task.result() for task in tasks if not task.cancelled()])

    async def do_spawn(self, op: Op) -> str:
        self.tasks.append(self.task(op.body[0]))
        return "spawned"

    async def do_join_task(self, op: Op) -> str:
        tasks = [task for task in self.tasks if task is not asyncio.current_task()]
        if not tasks:
            return "none"
        await asyncio.wait([tasks[op.pick % len(tasks)]], timeout=SECONDS[op.pick % 5])  # they may wait for each other
        return f"{sum(task.done() for task in tasks)} done"

    async def do_cancel_task(self, op: Op) -> str:
        return f"{self.tasks[op.pick % len(self.tasks)].cancel()}" if self.tasks else "none"

    async def do_cancel(self, op: Op) -> str:
        task = self.task(op.body[0])
        await self.do(op.body[1])
        task.cancel()
        if op.pick % 2:
            await asyncio.wait([task])
            return f"{task.cancelled()}"
        return await task

    # --- Who is told of what ----------------------------------------------------------------------------
    async def do_wait_for(self, op: Op) -> str:
        return await asyncio.wait_for(self.do(op.body[0]), (0, *SECONDS, None)[op.pick % 7])

    async def do_timeout(self, op: Op) -> str:
        async with asyncio.timeout(SECONDS[op.pick % 5]) as limit:
            await self.do(op.body[0])
            if op.pick % 3 == 0 and not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time() + 1)
            await asyncio.sleep(op.pick % 2)  # simulated time
        return f"{limit.expired()}"

    async def do_shield(self, op: Op) -> str:
        return await asyncio.shield(self.do(op.body[0]))

    async def do_shielded(self, op: Op) -> str:
        return await workflow.shielded(self.do(op.body[0]))

    async def do_catch(self, op: Op) -> str:
        try:
            return await self.do(op.body[0])
        except Exception:
            return await self.do(op.body[1])

    async def do_swallow(self, op: Op) -> str:
        try:
            return await self.do(op.body[0])
        except asyncio.CancelledError:
            return "swallowed"

    async def do_finally(self, op: Op) -> str:
        try:
            return await self.do(op.body[0])
        finally:
            await self.do(op.body[1])

    async def do_exit_stack(self, op: Op) -> str:
        async with contextlib.AsyncExitStack() as stack:
            for each in op.body[1:]:
                stack.push_async_callback(self.do, each)
            await stack.enter_async_context(asyncio.timeout(SECONDS[op.pick % 5]))
            return await self.do(op.body[0])

    async def numbers(self, op: Op) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                await self.do(op.body[0])
                yield number
        finally:
            self.tell(f"{op.id}: closes")
            await asyncio.sleep(1)  # simulated time
            self.tell(f"{op.id}: closed")

    async def do_generator(self, op: Op) -> str:
        generator = self.numbers(op)
        async with contextlib.AsyncExitStack() as stack:
            if op.pick % 2:  # else nobody closes it, and the loop does
                await stack.enter_async_context(contextlib.aclosing(generator))
            async for number in generator:
                if number == op.pick % 4:
                    break
        del generator
        return "left"

    async def do_saga(self, op: Op) -> str:
        async with workflow.saga() as saga:
            await saga.do(work(f"{op.id} first"), undo=undo)
            steps = op.body[1:]
            if op.pick % 2:
                await asyncio.gather(*[saga.do(self.task(each), undo=self.undone) for each in steps])
            else:
                for each in steps:
                    await saga.do(self.do(each), undo=self.undone)
            return await self.do(op.body[0])

    async def undone(self, result: str) -> None:
        self.tell(f"undoes {result}")
        await undo(result)
        self.tell(f"undone: {result}")
