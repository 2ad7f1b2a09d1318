"""Threads for plain `def` activities.

Unlike `concurrent.futures`, the threads are daemons: one that hangs in a call without a timeout can't keep the
process from ending. Nothing is lost by that, since its attempt was let go before.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

Result = TypeVar("Result")


class Job(Generic[Result]):
    """Something to be run in a thread, until a thread or a canceller takes it: never both."""

    __slots__ = ("_run", "done")

    def __init__(self, run: Callable[[], Result], done: Callable[[Result], None]) -> None:
        self._run = [run]
        self.done = done

    def take(self) -> Callable[[], Result] | None:
        """What is to be run, for the first caller; None for any other."""
        try:
            return self._run.pop()  # atomic
        except IndexError:
            return None


class ThreadPool(Generic[Result]):
    """Up to `size` threads, started when they are needed.

    Its methods are called on the loop's thread only, so that its counts need no lock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self._loop = loop
        self._size = size
        self._queue: SimpleQueue[Job[Result] | None] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    def submit(self, run: Callable[[], Result], done: Callable[[Result], None]) -> Job[Result]:
        """Call `run`, which must not raise, in a thread, and `done` with its result on the loop."""
        job = Job(run, done)
        self._unfinished += 1
        self._queue.put(job)
        if self._threads < min(self._unfinished, self._size):
            self._threads += 1
            threading.Thread(target=self._work, name=f"perdure-activity-{self._threads}", daemon=True).start()
        return job

    async def call(self, function: Callable[[], object], let_go: Callable[[], bool]) -> object:
        """Call a function in a thread, in a copy of this context, and wait for its end, also when this is cancelled;
        not so once it was let go. Gives what it returns, raises what it raises."""
        ended: asyncio.Future[tuple[object, BaseException | None]] = self._loop.create_future()
        context = contextvars.copy_context()

        def run() -> Result:
            try:
                outcome = context.run(function), None
            except BaseException as error:
                outcome = None, error
            return cast(Result, outcome)

        def done(outcome: Result) -> None:
            if not ended.done():
                ended.set_result(cast("tuple[object, BaseException | None]", outcome))

        job = self.submit(run, done)
        while not ended.done():
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                if self.cancel(job) or let_go():
                    raise
        value, error = ended.result()
        if error is not None:
            raise error
        return value

    def cancel(self, job: Job[Result]) -> bool:
        """Whether a job could be kept from running, since it had not begun."""
        if job.take() is None:
            return False
        self._unfinished -= 1
        return True

    def close(self) -> None:
        """Let each thread end after the job that it has."""
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            run = job.take()
            if run is None:
                continue
            result = run()
            try:
                self._loop.call_soon_threadsafe(self._finish, job.done, result)
            except RuntimeError:  # the loop is closed: nobody waits for the result any more
                return
            del job, run, result  # what the job holds should not live until the next one

    def _finish(self, done: Callable[[Result], None], result: Result) -> None:
        self._unfinished -= 1
        done(result)
