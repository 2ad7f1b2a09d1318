"""Workflows that do programs and take messages. The trace is their result, and a query tells it at any time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from perdure import ApplicationError, workflow
from tests.sdk.programs.generator import Op
from tests.sdk.programs.interpreter import Interpreter, work


class Talk:
    """What both have: the program, and what others may send."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.does = Interpreter()

    @workflow.query
    def trace(self) -> list[str]:
        """What was seen so far."""
        return self.does.trace

    @workflow.signal
    def poke(self, count: int) -> None:
        """Somebody wakes those that wait."""
        self.does.tell(f"poked {count}")
        self.does.pokes += count
        self.does.event.set()

    @workflow.signal
    async def push(self, what: str) -> None:
        """Somebody wants something done."""
        self.does.tell(f"pushed {what}")
        await work(what)
        async with self.does.changed:
            self.does.changed.notify_all()
        self.does.tell(f"pushed {what}, and done")

    @workflow.signal
    async def hurt(self, what: str) -> None:
        """Somebody ends the run."""
        await work(what)
        raise ApplicationError("hurt")

    @workflow.signal
    def rescue(self) -> None:
        """Nothing goes on by itself."""
        does = self.does
        does.pokes += 100 - does.pokes % 2
        does.event.set()
        does.gate.release()
        does.ranked.put_nowait((9, "rescue"))
        if does.queue.empty():
            does.queue.put_nowait("rescue")
        else:
            does.queue.get_nowait()
        does.tasks.append(asyncio.create_task(self.notify()))

    async def notify(self) -> str:
        async with self.does.changed:
            self.does.changed.notify_all()
        return "notified"

    @workflow.update
    async def ask(self, number: int) -> int:
        """Something to be answered, after a while."""
        self.does.tell(f"asked {number}")
        if number % 3 == 0:
            raise ApplicationError(f"not {number}")
        await (asyncio.sleep(number) if number % 2 else work(f"ask {number}"))  # simulated time
        self.does.tell(f"answered {number}")
        return number

    @ask.validator
    def _(self, number: int) -> None:
        if number > 6 or self.does.pokes > 5:
            raise ValueError("too much")

    @workflow.update
    def count(self, number: int) -> int:
        """Something to be answered at once."""
        self.does.pokes += number
        self.does.tell(f"counted to {self.does.pokes}")
        return self.does.pokes


@workflow(name="programs.program", failure_exceptions=[TimeoutError])
class Program(Talk):
    """Does a program."""

    async def run(self) -> list[str]:
        """The trace; or what the program raises, where its root says so."""
        pick, main = self.op.pick, cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            await self.does.do(self.op)
        except asyncio.CancelledError:
            if pick % 3 and main.cancelling() > self.does.cancelled_itself:  # else it is none of the workflow
                raise
        except Exception:
            if pick % 3 == 0:
                raise
        if pick % 2:
            for task in self.does.tasks:
                task.cancel()
            if self.does.tasks:
                await asyncio.wait(self.does.tasks)
        if pick % 5:
            await workflow.wait_until(workflow.all_handlers_finished)
        return self.does.trace


@workflow(name="programs.plain", failure_exceptions=[TimeoutError])
class PlainProgram(Talk):
    """Does a program out of plain functions: it waits without `await`."""

    def run(self) -> list[str]:
        """The trace; or what the program raises, where its root says so."""
        try:
            self.do_all()
        except Exception:
            if self.op.pick % 3 == 0:
                raise
        return self.does.trace

    def do_all(self) -> None:
        """Each by itself; what only waits for an activity, as plain code does."""
        for op in self.op.body:
            try:
                if op.kind == "activity":
                    self.does.tell(f"{op.id}: {work.start(str(op.id)).result()}")
                elif op.kind == "map":
                    self.does.tell(f"{op.id}: {list(work.map([f'{op.id}.{n}' for n in range(3)], concurrency=2))}")
                else:
                    workflow.block(self.does.do(op))
            except (ApplicationError, TimeoutError, ExceptionGroup) as error:
                self.does.tell(f"{op.id}: {type(error).__name__}")
            except asyncio.CancelledError:
                self.does.tell(f"{op.id} was cancelled")

    @workflow.signal
    def block(self, what: str) -> None:
        """Somebody wants something done by plain code."""
        self.does.tell(f"begins {what}")
        with workflow.saga() as saga:
            workflow.block(saga.do(work.start(what), undo=self.does.undone))
        self.does.tell(f"has done {what}")
