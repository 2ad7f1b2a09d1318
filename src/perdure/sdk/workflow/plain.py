"""Plain `def` workflows: code that waits without `await`.

The function runs in a greenlet of its own, inside a task of the workflow's loop. Where it has to wait, it hands what
it waits for to the task, which awaits it as any task does: so cancellation, eviction and replays are the same.

::

    task (the loop's)    run_plain ──switch──▶ the function
                            │ await ◀──block(awaitable)──│      the function stands still
                            └──────────value, or error──▶│      and goes on

A greenlet is made, runs and ends on the thread of its workflow, since its task does.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Final, TypeVar, cast

from greenlet import getcurrent, greenlet

from perdure.sdk.coroutines import close
from perdure.sdk.workflow.context import thread

T = TypeVar("T")
R = TypeVar("R")


class _Code(greenlet):
    """The greenlet of a workflow's function: nobody else's may wait in a workflow."""


async def run_plain(function: Callable[..., R], *args: object, **kwargs: object) -> R:
    """Run a function that may wait by `block`; its result. Raises what it raises."""
    code = _Code(function)
    code.gr_context = getcurrent().gr_context  # the task's own: what one sets, the other sees, as in async code
    wanted = _enter(code, code.switch, *args, **kwargs)
    while not code.dead:
        try:
            value = await wanted
        except BaseException as error:  # cancellation and eviction, too: the function has its `finally`
            wanted = None  # whose error leads to this frame
            wanted = _enter(code, code.throw, error)
        else:
            wanted = _enter(code, code.switch, value)
    return cast("R", wanted)


def _enter(code: _Code, switch: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    """Let the function run until it waits, or ends: what it waits for, or its result."""
    outside = getcurrent()
    if code.parent is not outside:  # the program around the workflow may have greenlets, too
        code.parent = outside
    before, thread.plain = thread.plain, True
    try:
        return switch(*args, **kwargs)
    finally:
        thread.plain = before
        del args  # an error that is thrown in and comes out again leads to this frame, and that to the error


def block(awaitable: Awaitable[T]) -> T:
    """Wait in a plain function, as `await` does in an async one.

    Raises:
        RuntimeError: not in the code of a plain workflow, or in a greenlet that somebody else made.
        TypeError: it can't be awaited.
    """
    try:
        code = waiting_code()
    except RuntimeError:
        close(awaitable)
        raise
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"{awaitable!r} can't be waited for: it is no handle, coroutine or task")
    outside = code.parent
    assert outside is not None
    try:
        return cast("T", outside.switch(awaitable))
    finally:
        del awaitable  # whose error leads to this frame


def waiting_code() -> greenlet:
    """The greenlet of the plain code that calls this. Raises RuntimeError where nothing can wait by `block`."""
    code = getcurrent()
    if not thread.plain or not isinstance(code, _Code):
        raise RuntimeError(
            "this would block, and here nothing can: only a plain `def` workflow and its plain signals, updates and "
            "alarms wait without `await`; its queries, validators, predicates and __init__ can't wait at all"
        )
    return code


def frame_of(coroutine_frame: FrameType) -> FrameType | None:
    """The innermost frame of the function that `run_plain` runs in a coroutine; None for another coroutine."""
    if coroutine_frame.f_code is not _RUN:
        return None
    code = coroutine_frame.f_locals.get("code")
    return code.gr_frame if isinstance(code, _Code) else None


_RUN: Final = run_plain.__code__
