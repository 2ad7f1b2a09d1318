"""What asyncio does otherwise from one Python to the next, as Python 3.13 does it.

A history that was recorded under one version must replay under another: so inside workflows these stand in place of
asyncio's own, under every version.
"""

from __future__ import annotations

import asyncio
from asyncio import Condition, Future, Semaphore, Task, TaskGroup
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Literal, cast

from perdure.sdk.workflow.ordering import OrderedSet

# Bound before `determinism.install` puts the functions below in their places.
_asyncio_enter_task_group: Final = TaskGroup.__aenter__
_asyncio_exit_task_group: Final = TaskGroup.__aexit__
_asyncio_acquire: Final = Semaphore.acquire
_asyncio_gather: Final = cast("Callable[..., Future[list[object]]]", asyncio.gather)


class _Parent:
    """The task that a group is in, as the group sees it: what it was asked before does not count."""

    def __init__(self, task: Task[Any]) -> None:
        self._task = task
        self._before = task.cancelling()
        self._asked = 0  # how often the group has cancelled it, and not taken that back

    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> bool:
        self._asked += 1
        return self._task.cancel()

    def uncancel(self) -> int:
        self._asked -= 1
        self._task.uncancel()
        return self.cancelling()

    def cancelling(self) -> int:
        return max(self._task.cancelling() - self._before, 0)

    def failed(self) -> None:
        """The group raises the failures of its tasks: a cancellation that has come meanwhile is still to be raised."""
        while self._asked > 0:  # Python 3.11 forgets it where it came while the group was being left
            self.uncancel()
        if self.cancelling():
            self.uncancel()
            self.cancel()


async def enter_task_group(group: TaskGroup) -> TaskGroup:
    """As `TaskGroup.__aenter__`; the group cancels its tasks in the order of their creation."""
    group._tasks = OrderedSet[Task[Any]]()
    entered = await _asyncio_enter_task_group(group)
    cast(Any, group)._parent_task = _Parent(cast("Task[Any]", asyncio.current_task()))
    return entered


async def exit_task_group(
    group: TaskGroup, et: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
) -> bool | None:
    """As `TaskGroup.__aexit__`. Where a task fails while the group is being cancelled, that failure is raised, and
    `CancelledError` when the parent waits the next time; before Python 3.13 that was lost. One that was caught before
    the group began is not raised again; by Python 3.13 it is."""
    try:
        return await _asyncio_exit_task_group(group, et, exc, tb)
    except BaseExceptionGroup:
        cast(_Parent, cast(Any, group)._parent_task).failed()
        raise


def gather(*awaitables: Awaitable[object], return_exceptions: bool = False) -> Future[list[object]]:
    """As `asyncio.gather`. It ends at once where what it is given has; before Python 3.12, a turn of the loop later."""
    outer = _asyncio_gather(*awaitables, return_exceptions=return_exceptions)
    if outer.done():
        return outer
    children: list[Future[object]] = cast(Any, outer)._children
    outcomes = [_outcome(child) for child in children if child.done()]
    failures = [outcome for failed, outcome in outcomes if failed and not return_exceptions]
    if failures:
        outer.set_exception(cast(BaseException, failures[0]))
    elif len(outcomes) == len(children):
        outer.set_result([outcome for _, outcome in outcomes])
    return outer


def _outcome(ended: Future[object]) -> tuple[bool, object]:
    """Whether it has failed, and with what; or its result."""
    if ended.cancelled():
        return True, asyncio.CancelledError()
    error = ended.exception()
    return (False, ended.result()) if error is None else (True, error)


async def acquire_semaphore(semaphore: Semaphore) -> Literal[True]:
    """As `Semaphore.acquire`. All that there is room for are let through at once; before Python 3.13, each lets in the
    next."""
    inner = cast(Any, semaphore)
    try:
        return await _asyncio_acquire(semaphore)
    finally:
        while inner._value > 0 and any(not waiter.done() for waiter in inner._waiters or ()):
            inner._wake_up_next()


async def wait_on_condition(condition: Condition) -> Literal[True]:
    """As `Condition.wait`. Who is cancelled after a notice hands that on; before Python 3.13 it was lost."""
    if not condition.locked():
        raise RuntimeError("cannot wait on un-acquired lock")
    waiters: deque[Future[bool]] = cast(Any, condition)._waiters
    notice: Future[bool] = asyncio.get_running_loop().create_future()
    waiters.append(notice)
    condition.release()
    ended: BaseException | None = None
    try:
        await notice
    except BaseException as error:
        ended = error
    waiters.remove(notice)
    while True:  # however often it is cancelled meanwhile
        try:
            await condition.acquire()
            break
        except asyncio.CancelledError as error:
            ended = error
    if ended is None:
        return True
    if notice.done() and not notice.cancelled():
        condition.notify()
    try:
        raise ended
    finally:
        del ended  # it leads here by its traceback
