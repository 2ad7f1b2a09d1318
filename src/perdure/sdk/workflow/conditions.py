"""`workflow.wait_until`: conditions on the workflow's own state, looked at whenever it may have changed."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextvars import Context
from typing import NamedTuple

from perdure.clock import SECOND
from perdure.sdk.workflow.loop import DeterministicLoop, LoopFuture


class _Waiter(NamedTuple):
    predicate: Callable[[], bool]
    context: Context
    future: asyncio.Future[None]


class Conditions:
    """The conditions that a run's tasks wait for, in the order in which they began to."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self, loop: DeterministicLoop) -> None:
        self._loop = loop
        self._waiters: dict[asyncio.Future[None], _Waiter] = {}

    async def wait(self, predicate: Callable[[], bool], timeout: int | None) -> None:
        """Return when the predicate is true. Raises TimeoutError after `timeout` microseconds, TypeError where it is
        none, and whatever it raises."""
        if not callable(predicate):
            raise TypeError(
                f"a condition must be a function, such as `lambda: self.paid`, not {type(predicate).__name__}: it is "
                f"looked at again and again"
            )
        met = predicate()
        if met:
            if met is not True:
                _refuse_coroutine(met)
            return
        future = LoopFuture[None](self._loop)
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout / SECOND, _expire, future, timeout)
        self._waiters[future] = _Waiter(predicate, contextvars.copy_context(), future)
        try:
            await future
        finally:
            self._waiters.pop(future, None)
            if timer is not None:
                timer.cancel()

    def settle(self) -> None:
        """Let go on, one at a time, whose condition is true, until nobody's is.

        One at a time, since the first to go on may make the condition of the next one false again.
        """
        changed = bool(self._waiters)
        while changed:
            changed = False
            for waiter in list(self._waiters.values()):
                if not waiter.future.done() and self._is_met(waiter):
                    changed = True
                    self._loop.run_until_idle()

    def _is_met(self, waiter: _Waiter) -> bool:
        """Whether the waiter goes on: because the predicate is true, or because it raises."""
        try:
            met = waiter.context.run(waiter.predicate)
        except Exception as error:
            waiter.future.set_exception(error)
            return True
        if met:
            waiter.future.set_result(None)
        return bool(met)


def _refuse_coroutine(met: object) -> None:
    if asyncio.iscoroutine(met):
        met.close()
        raise TypeError("a condition must be a plain function: what an `async def` gives counts as true at once")


def _expire(future: asyncio.Future[None], timeout: int) -> None:
    if not future.done():
        future.set_exception(TimeoutError(f"wait_until: the condition did not come true within {timeout / SECOND:g} s"))
