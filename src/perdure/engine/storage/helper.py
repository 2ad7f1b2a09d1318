"""A thread for the few calls that wait for a disk, so that an event loop doesn't."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class HelperThread:
    """Runs functions one after another. Lighter than an executor: one queue, one wake-up of the loop a call."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """Run a function in the thread; the future, of the running loop, has its result or exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def job() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                try:
                    result = function()
                except BaseException as error:
                    loop.call_soon_threadsafe(_fail, future, error)
                else:
                    loop.call_soon_threadsafe(_succeed, future, result)

        self._jobs.put(job)
        return future

    def stop(self) -> None:
        """End the thread when it has done what it was given, and wait for that."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _succeed(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
