"""The ends of a run's code: what counts as an outcome, and how what still waits is torn down.

::

    main_code → returns | raises an outcome | raises a bug (its task is tried again) | ContinueAsNewRequested
                end_sagas: what else has a saga open is cancelled, and undoes it before the run ends (but not
                before one that continues as new)
    tear_down: Evicted, until the code ends
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import logging
from asyncio import Future, InvalidStateError
from collections.abc import Callable, Coroutine, Sequence
from types import CodeType
from typing import Any, Final, NoReturn, cast

from msgspec.structs import replace

from perdure.errors import ApplicationError, Evicted, GuardError, NondeterminismError
from perdure.limits import EVICTION_THROWS
from perdure.model.commands import ContinueAsNew
from perdure.model.failures import Failure
from perdure.sdk.failures import origin_of
from perdure.sdk.interceptors import Header
from perdure.sdk.workflow.context import OpenSagas
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.loop import MAKE_INSIDE, DeterministicLoop, LoopTask
from perdure.sdk.workflow.plain import run_plain
from perdure.sdk.workflow.source import awaited_lines, place_of

Log = logging.LoggerAdapter[logging.Logger]

_SAGAS_OPEN: Final = (
    "the code of workflow %r has ended, but other tasks have sagas open, at %s: they are cancelled, and the run ends "
    "when they have; to end them before, await them"
)
_SAGAS_LEFT: Final = (
    "workflow %r continues as new while other tasks have sagas open, at %s: what those did is not undone; to end them "
    "before, await them"
)
_AWAIT: Final = "`await` what is not done yet, rather than ask it for its result"
_ELSEWHERE: Final = ("a different event loop", "a different loop")
"""How asyncio's errors end about what belongs to another workflow, or to the program outside."""


class ContinueAsNewRequested(BaseException):
    """Ends the code of a run that goes on as a new one. Not an Exception: no `except` should swallow it."""

    def __init__(self, command: Callable[[], ContinueAsNew]) -> None:
        super().__init__("workflow.continue_as_new() must end the workflow's run, or one of its handlers")
        self.command = command


def told_end(error: BaseException) -> BaseException:
    """What an exception says of the run's end: in a group, such as a TaskGroup raises, `continue_as_new` stands for all
    of it where it is all there is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    ends = [told_end(each) for each in group.exceptions]
    return ends[0] if all(isinstance(end, ContinueAsNewRequested) for end in ends) else group


def continue_with(
    definition: WorkflowDefinition, args: Sequence[object], kwargs: dict[str, object], header: Header | None
) -> NoReturn:
    """End the code, and go on as a new run."""

    def command() -> ContinueAsNew:
        payloads = definition.signature.encode(args, kwargs)
        return ContinueAsNew(definition.name, definition.task_queue, payloads, header=header)

    command()  # what can't be encoded is an error of this line
    raise ContinueAsNewRequested(command)


def main_code(
    definition: WorkflowDefinition, target: object, args: list[object], kwargs: dict[str, object]
) -> Coroutine[Any, Any, object]:
    """What the main task runs."""
    function = definition.make
    if definition.is_class:
        function, args, kwargs = cast("Any", target).run, [], {}
    if definition.is_async:
        return cast("Coroutine[Any, Any, object]", function(*args, **kwargs))
    return run_plain(function, *args, **kwargs)


def is_failure(
    definition: WorkflowDefinition, error: BaseException, also: tuple[type[BaseException], ...] = ()
) -> bool:
    """Whether an exception is an outcome: raised as one, listed by the workflow or in `also`, or the end of an
    activity or a child; or a group of such."""
    if isinstance(error, (ApplicationError, *definition.failure_exceptions, *also)) or origin_of(error) is not None:
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    group = cast("BaseExceptionGroup[BaseException]", error)
    return all(is_failure(definition, each, also) for each in group.exceptions)


class ChangedByReader(BaseException):
    """A query or a validator changed the workflow: the live copy can't be used any more. `line` is its first one, as
    "file:line"."""

    def __init__(self, message: str, line: str) -> None:
        super().__init__(message)
        self.line = line


def first_line(code: Callable[..., object]) -> str:
    """Where a function begins, as "file:line"; "" of what is none."""
    found = getattr(inspect.unwrap(code), "__code__", None)
    return f"{found.co_filename}:{found.co_firstlineno}" if isinstance(found, CodeType) else ""


def located(failure: Failure, error: BaseException, definition: WorkflowDefinition | None) -> Failure:
    """A bug, with what helps to mend it: a line to look at, where no line of the code has raised it (such as a result
    that can't be stored); and what to do, where asyncio says little."""
    if type(error) is InvalidStateError and not failure.message.endswith(_AWAIT):
        failure = replace(failure, message=f"{failure.message.removesuffix('.')}: {_AWAIT}")
    if type(error) is RuntimeError and failure.message.endswith(_ELSEWHERE):
        failure = replace(failure, message=f"{failure.message}. {MAKE_INSIDE}")
    if failure.location or definition is None:
        return failure
    code = definition.code
    line = error.line if isinstance(error, (NondeterminismError, GuardError, ChangedByReader)) and error.line else ""
    file, number = line.rsplit(":", 1) if line else (code.co_filename, str(code.co_firstlineno))
    return replace(failure, traceback=f'  File "{file}", line {number}, in {code.co_qualname}\n')


def end_sagas(open: OpenSagas, main: LoopTask[object] | None, log: Log, workflow_id: str, *, goes_on: bool) -> bool:
    """The code has ended: what has a saga open yet is cancelled, once, so that it undoes what was done; and `run`,
    where it was a handler that ended it. Whether there was something to cancel.

    goes_on: as a new run, which is to have what comes, so nothing may hold it up.
    """
    for saga, (task, _) in list(open.items()):
        if task.done():  # its block was left without a word, such as that of an async generator that nobody has closed
            del open[saga]
    tasks = dict.fromkeys(task for task, ending in open.values() if not ending)
    for saga, (task, _) in open.items():
        open[saga] = task, True
    if tasks:
        lines = ", ".join([place_of(awaited_lines(task.get_coro())) or task.get_name() for task in tasks])
        log.warning(_SAGAS_LEFT if goes_on else _SAGAS_OPEN, workflow_id, lines)
    if not tasks or goes_on:
        return False
    if main is not None and not main.done():
        tasks[main] = None
    for task in tasks:
        task.cancel("the workflow has ended")
    return True


def tear_down(loop: DeterministicLoop) -> None:
    """End all tasks of a run's code, the last made first."""
    torn = set[LoopTask[object]]()
    while tasks := [task for task in loop.live_tasks() if task not in torn]:  # a `finally` may have made new ones
        torn.update(tasks)
        for task in reversed(tasks):
            _end(task)


def _end(task: LoopTask[object]) -> None:
    """Throw Evicted into a task until it ends."""
    coroutine = cast("Coroutine[object, object, object]", task.get_coro())
    for _ in range(EVICTION_THROWS):
        try:
            task.context.run(_throw, task, coroutine)
        except KeyboardInterrupt:
            raise
        except BaseException:  # it ended, one way or another
            waited_for = getattr(task, "_fut_waiter", None)
            if waited_for is not None:  # which leads back to the task: a circle, for the garbage collector
                Future[object].cancel(waited_for)
            return
    logging.getLogger("perdure.workflow").warning(
        "task %s doesn't end when its workflow is evicted: does it catch BaseException in a loop?", task.get_name()
    )
    # Python throws once more when it collects a coroutine, and this one would run for ever then. So it stays.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _throw(task: LoopTask[object], coroutine: Coroutine[object, object, object]) -> None:
    """Throw Evicted, as a step of the task: asyncio's timeouts and groups ask which task they are in."""
    loop, tasks = task.get_loop(), cast(Any, asyncio.tasks)
    tasks._enter_task(loop, task)
    try:
        coroutine.throw(Evicted("the workflow is being taken out of memory"))
    finally:
        tasks._leave_task(loop, task)
