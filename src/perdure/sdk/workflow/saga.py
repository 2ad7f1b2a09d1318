"""`workflow.saga`: steps that are undone, the last first, when what comes after them fails.

::

    do(step, undo) ──▶ the step's result, and the undo is remembered
         │ cancelled   the step is asked to stop, and waited for: its result may be there all the same
    the run ends   ──▶ tasks that are in the block yet are cancelled, and the run ends after them
    the block ends ──▶ well: the undos are forgotten
                   ──▶ by a failure or a cancellation: steps and sagas in it that still run are ended, the undos run, it
                       is raised again
                   ──▶ by a bug: nothing is undone; the workflow task fails, and the next version goes on in the block
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast, overload

import msgspec

from perdure.sdk.activity.definition import ActivityOptions
from perdure.sdk.calls import PlainActivity
from perdure.sdk.coroutines import close
from perdure.sdk.workflow.calls import start_child
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.classes import call_record
from perdure.sdk.workflow.context import OpenSagas, WorkflowContext, require, thread
from perdure.sdk.workflow.decorators import PlainClassWorkflow
from perdure.sdk.workflow.futures import Cancellable
from perdure.sdk.workflow.plain import block
from perdure.sdk.workflow.shielding import shielded

R = TypeVar("R")

_role: Final[ContextVar[Literal["", "step", "undo"]]] = ContextVar("perdure_saga", default="")
"""What the code that runs is, in a saga."""


_inside: Final[ContextVar[Saga | None]] = ContextVar("perdure_saga_block", default=None)
"""The innermost saga in whose block the code runs, or was begun as a task."""


class Saga:
    """The block of `workflow.saga`. Made by it."""

    def __init__(self, undo_on: Sequence[type[Exception]]) -> None:
        self._undo_on = tuple(undo_on)
        self._undos: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._running = Counter[asyncio.Task[Any]]()
        self._state: Literal["new", "entered", "left"] = "new"
        self._open: OpenSagas
        self._outer: Saga | None = None

    @overload
    async def do(self, step: Awaitable[R], /, *, undo: PlainActivity[[R], object]) -> R: ...
    @overload
    async def do(self, step: Awaitable[R], /, *, undo: Callable[[R], Awaitable[object]]) -> R: ...
    @overload
    async def do(self, step: Awaitable[R], /, *, undo: Callable[[R], PlainClassWorkflow[object]]) -> R: ...
    async def do(self, step: Awaitable[R], /, *, undo: Callable[[R], object]) -> R:
        """Do something, and remember how it is undone.

        A step that fails is not undone itself: it has no result. A step that is cancelled is waited for, so that it is
        undone if it was done all the same (unless its own `cancellation_type` is "abandon").

        Args:
            step: a call of an activity or of a workflow, a coroutine, or a handle.
            undo: an activity, a workflow or a function, called with the step's result. What it gives is awaited.
                Activities in it hold rather than fail: whatever they fail of, a person can release or complete them.

        Returns:
            The step's result.

        Raises:
            Exception: what the step raises.
            RuntimeError: not inside the saga's block.
            TypeError: the step can't be awaited, or `undo` can't be called.
        """
        task = asyncio.current_task()
        try:
            if self._state != "entered" or task is None:
                raise RuntimeError(
                    "saga.do() belongs into the block of the saga: `async with workflow.saga() as saga:`"
                )
            _check(step, undo)
        except BaseException:
            close(step)
            close(undo)
            raise
        handle = cast(object, step)
        if isinstance(handle, Cancellable):
            handle.insist()
        self._running[task] += 1
        before = _role.get()
        _role.set("step")
        cancels = task.cancelling()
        try:
            result = await step
            self._undos.append((_name(undo), lambda: _carry_out(undo, result)))
            if task.cancelling() > cancels:  # asked for while it was waited for, and done all the same
                await asyncio.sleep(0)  # where the task is owed a CancelledError yet, this is it
                raise asyncio.CancelledError
            return result
        finally:
            _role.set(before)  # not by a token: an eviction runs this in another context
            self._running -= Counter({task: 1})

    async def __aenter__(self) -> Self:
        context = require("workflow.saga()")
        if self._state != "new":
            raise RuntimeError("a saga is for one block: make another, by workflow.saga()")
        self._state, self._open, self._outer = "entered", context.sagas, _inside.get()
        _inside.set(self)
        self._open[self] = _current_task(), undoes()  # what undoes is not told to end
        return self

    def __enter__(self) -> Self:
        """In a plain `def` workflow: `with workflow.saga() as saga:`, and `workflow.block(saga.do(…))` inside."""
        if not thread.plain:
            raise RuntimeError("`with` is for plain workflows: write `async with workflow.saga() as saga:`")
        return block(self.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block(self.__aexit__(kind, error, traceback))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = "left"
        self._open[self] = _current_task(), True
        _inside.set(self._outer)
        try:
            await self._leave(error)
        finally:
            self._open.pop(self, None)

    async def _leave(self, error: BaseException | None) -> None:
        if error is None:
            if self._running:
                raise RuntimeError("the block of a saga has ended, but steps of it still run: await them inside")
        elif isinstance(
            error, Exception | asyncio.CancelledError
        ):  # others end the run without its code's having a say
            context = require("workflow.saga()")
            if self._is_failure(context, error):
                await shielded(self._undo(context, error))
            else:
                error.add_note(
                    f"A saga undoes failures only, and {type(error).__name__} is none: raise an ApplicationError, or "
                    f"name the class in failure_exceptions of the workflow or in workflow.saga(undo_on=…)"
                )
                context.report_bug(error)

    def _is_failure(self, context: WorkflowContext, error: BaseException) -> bool:
        # That time is over, is no bug, whoever says so.
        expected = (asyncio.CancelledError, TimeoutError, *self._undo_on)
        return context.is_failure(error, expected)

    async def _undo(self, context: WorkflowContext, error: BaseException) -> None:
        _role.set("undo")
        tasks = list(self._running)
        for saga in self._inner():
            task, ending = self._open[saga]
            self._open[saga] = task, True
            if not ending:
                tasks.append(task)
        for task in dict.fromkeys(tasks):
            task.cancel()
        await context.wait_until(lambda: not self._running and not self._inner(), None)
        while self._undos:
            name, undo = self._undos.pop()
            try:
                await undo()
            except Exception as failed:
                if not self._is_failure(context, failed):
                    context.report_bug(failed)
                    raise
                # A person's decision, or a child's: the other undos don't depend on it.
                context.logger.warning("the undo %s failed: %s: %s", name, type(failed).__name__, failed)
                error.add_note(f"The undo {name} failed: {type(failed).__name__}: {failed}")

    def _inner(self) -> list[Saga]:
        """The sagas that other tasks have opened in this one's block, and not left."""
        return [
            each
            for each, (task, _) in self._open.items()
            if isinstance(each, Saga) and each.is_in(self) and not task.done()
        ]

    def is_in(self, other: Saga) -> bool:
        """Whether it was opened in the block of another."""
        return self._outer is not None and (self._outer is other or self._outer.is_in(other))


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # whoever can wait is in one
    return task


def undoes() -> bool:
    """Whether the code that runs is an undo: what it calls may have to wait for a person."""
    return _role.get() == "undo"


def for_activity(options: ActivityOptions) -> ActivityOptions:
    """The options with which an activity is scheduled by the code that runs."""
    role = _role.get()
    if not role:
        return options
    if options.cancellation_type == "try":
        options = replace(options, cancellation_type="wait")
    if role == "undo":
        policy = msgspec.structs.replace(options.retry_policy, on_exhausted="hold", hold_non_retryable=True)
        # The timeouts that no attempt follows are none; but one that hangs is to end.
        limits = [each for each in (options.start_to_close_timeout, options.schedule_to_close_timeout) if each]
        options = replace(
            options,
            retry_policy=policy,
            start_to_close_timeout=min(limits, default=0),
            schedule_to_close_timeout=0,
            schedule_to_start_timeout=0,
        )
    return options


def for_child(terms: ChildTerms) -> ChildTerms:
    """The same for a child workflow."""
    return replace(terms, cancellation_type="wait") if _role.get() and terms.cancellation_type == "try" else terms


async def _carry_out(undo: Callable[[R], object], result: R) -> None:
    made: object = (
        cast("PlainActivity[..., object]", undo).start(result) if isinstance(undo, PlainActivity) else undo(result)
    )
    if call_record(made) is not None:
        made = start_child(made, {})
    if not inspect.isawaitable(made):
        raise TypeError(
            f"the undo {_name(cast(object, undo))} gave {made!r}, which can't be awaited: give an activity, or a "
            f"function that returns its call"
        )
    await made


def _name(undo: object) -> str:
    return str(getattr(undo, "__qualname__", repr(undo)))


def _check(step: object, undo: object) -> None:
    record = call_record(step)
    if record is not None:
        record.fresh = False
        raise TypeError(f"{step!r} can't be awaited as it is: write saga.do(workflow.run(…), undo=…)")
    if not inspect.isawaitable(step):
        raise TypeError(f"a step of a saga is a call of an activity or a workflow, or a handle, not {step!r}")
    if inspect.isawaitable(undo):
        raise TypeError(f"undo is called with the step's result: give {_name(undo)} itself, or a lambda; not its call")
    if not callable(undo):
        raise TypeError(f"undo must be an activity or a function that is called with the result, not {undo!r}")
