"""The `activity` namespace: the decorator, and what an activity may ask while it runs."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast, get_args, overload

from typing_extensions import ParamSpec

from perdure import errors
from perdure.durations import Duration, optional_microseconds
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions, CancellationType, Executor
from perdure.sdk.calls import Activity, AsyncActivity, PlainActivity, options_from
from perdure.sdk.coroutines import Coro
from perdure.sdk.names import main_place, named
from perdure.sdk.options import one_of, optional_name
from perdure.sdk.registry import REGISTRY
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.definition import WorkflowDefinition

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from perdure.sdk.activity.context import ActivityContext, ActivityInfo
    from perdure.sdk.activity.processes import ProcessResult, Program

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_Decorated = Activity[..., object]


class _Decorator(Protocol):
    """`@activity(…)`."""

    @overload
    def __call__(self, function: Callable[P, Coro[R]], /) -> AsyncActivity[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainActivity[P, R]: ...


class ActivityNamespace:
    """`perdure.activity`: the decorator `@activity`, and functions for use inside activities."""

    Hold: ClassVar[type[errors.Hold]] = errors.Hold
    """Raise it to wait for a person: `raise activity.Hold("the quota is used up")`."""

    CompleteLater: ClassVar[type[errors.CompleteLater]] = errors.CompleteLater
    """Raise it when the attempt goes on elsewhere, with `activity.info().task_token`: `raise activity.CompleteLater()`.
    Then `client.activity(token)` completes it, in whatever process."""

    @overload
    def __call__(self, function: Callable[P, Coro[R]], /) -> AsyncActivity[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainActivity[P, R]: ...
    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        task_queue: str | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        schedule_to_start_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        retry_policy: RetryPolicy | None = None,
        priority: int | None = None,
        cancellation_type: CancellationType | None = None,
        executor: Executor | None = None,
    ) -> _Decorator: ...
    def __call__(
        self,
        function: Callable[..., object] | None = None,
        *,
        name: str | None = None,
        task_queue: str | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        schedule_to_start_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        retry_policy: RetryPolicy | None = None,
        priority: int | None = None,
        cancellation_type: CancellationType | None = None,
        executor: Executor | None = None,
    ) -> _Decorated | Callable[[Callable[..., object]], _Decorated]:
        """Make a function an activity: called from a workflow it is retried, timed and recorded.

        Args:
            function: an `async def`, or a plain function, which runs in a thread.
            name: its name on the wire; by default the function's.
            task_queue: where it runs; by default where its workflow runs.
            start_to_close_timeout: how long one attempt may take.
            schedule_to_close_timeout: how long all attempts may take, waiting included.
            schedule_to_start_timeout: how long an attempt may wait for a worker.
            heartbeat_timeout: how long an attempt may be silent (see `activity.heartbeat`).
            retry_policy: when it is tried again after a failure; by default without end, after 1 s, 2 s, 4 s …
            priority: lower numbers are handed to workers first; the default is 0.
            cancellation_type: what cancelling the call means. "try", the default: the activity is asked to stop, and
                `CancelledError` is raised at once. "wait": it is asked to stop, and waited for; if it ends otherwise
                all the same, that is what the call gives, and `CancelledError` comes at the next wait. "abandon": it
                is not asked, and goes on unheard.
            executor: where a plain function runs: "thread", the default, or "process", for what keeps a processor busy:
                in a process of its own, of a pool that the worker has. Such a function is one of a module, which is
                imported there.

        Raises:
            TypeError, ValueError: it can't be an activity, an option is not what it should be, or the name is taken.
        """
        options = options_from(
            task_queue=task_queue,
            start_to_close_timeout=start_to_close_timeout,
            schedule_to_close_timeout=schedule_to_close_timeout,
            schedule_to_start_timeout=schedule_to_start_timeout,
            heartbeat_timeout=heartbeat_timeout,
            retry_policy=retry_policy,
            priority=priority,
            cancellation_type=cancellation_type,
            base=ActivityOptions(),
        )

        def decorate(function: Callable[..., object]) -> _Decorated:
            return _define(function, name, options, executor)

        return decorate if function is None else decorate(function)

    def info(self) -> ActivityInfo:
        """Facts about the running attempt. Raises RuntimeError outside an activity."""
        return _running("activity.info()").info

    def heartbeat(self, *details: object) -> None:
        """Say that the attempt is alive, and how far it came.

        Args:
            details: what the next attempt needs to go on from here (see `heartbeat_details`). Without any, the attempt
                is alive, and what was told last is kept.

        Raises:
            RuntimeError: outside an activity.
            EncodeError, PayloadTooLarge: the details can't be stored.
            asyncio.CancelledError: in a thread (of a plain function, or of `asyncio.to_thread`): the attempt is not
                wanted any more. A thread is told once, so that what cleans up may call this, too.
        """
        _running("activity.heartbeat()").heartbeat(*details)

    def heartbeat_details(self, type: TypeForm[T]) -> T | None:
        """What the last heartbeat of an earlier attempt said, as a value of the type; None for nothing.

        Raises:
            RuntimeError: outside an activity.
            DecodeError: it doesn't fit the type.
        """
        return cast("T | None", _running("activity.heartbeat_details()").heartbeat_details(type))

    def is_cancelled(self) -> bool:
        """Whether the attempt isn't wanted any more: for plain functions, which can't be interrupted. One that stops
        for this says so by raising `asyncio.CancelledError`; `activity.heartbeat` raises it by itself.

        Raises:
            RuntimeError: outside an activity.
        """
        return _running("activity.is_cancelled()").cancelled

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs (as "perdure.activity") with the attempt's identity. Outside an activity, a plain logger."""
        from perdure.sdk.activity.context import current
        from perdure.sdk.activity.logs import OUTSIDE, ActivityLogger

        attempt = current()
        return OUTSIDE if attempt is None else ActivityLogger(attempt)

    async def run_process(
        self,
        *args: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        grace: Duration | None = None,
        log_level: int = logging.INFO,
    ) -> ProcessResult:
        """Run a program, and wait for its end. For `async def` activities; others use `run_process_sync`.

        Each line that it writes goes to `activity.logger`. While it runs, heartbeats are sent, where the activity has a
        heartbeat timeout. When the attempt is cancelled, times out, or its worker stops, the program is ended with all
        that it has started: by SIGTERM, and after a grace by SIGKILL; also when the worker's process is killed. What is
        left of it when it has ended by itself is ended, too. Only what leaves its process group (a daemon) is not
        reached. ::

            result = await activity.run_process("terraform", "apply", "-auto-approve", cwd=folder)

        Args:
            args: the program and its arguments. No shell is involved.
            cwd: the folder that it runs in.
            env: its environment, instead of this process's.
            input: what it reads from its standard input; by default nothing.
            check: whether an exit code other than 0 is an error.
            grace: duration between SIGTERM and SIGKILL; by default `limits.PROCESS_GRACE`. Where it is longer than the
                worker's own grace, the end of a worker shortens it.
            log_level: with which its lines are logged.

        Raises:
            ProcessFailed: it ended with another exit code than 0. The message tells the end of its output.
            OSError: it can't be started, for example since there is no such program.
            TypeError, ValueError: an argument is not what it should be.
            RuntimeError: inside a workflow.
        """
        from perdure.sdk.activity import processes

        program = _program(args, cwd, env, input, check, grace, log_level)
        return await processes.run(program)

    def run_process_sync(
        self,
        *args: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        grace: Duration | None = None,
        log_level: int = logging.INFO,
    ) -> ProcessResult:
        """The same as `run_process`, for plain functions.

        Raises:
            asyncio.CancelledError: the attempt is not wanted any more; the program has ended.
            RuntimeError: in an `async def` activity, whose worker it would block.
        """
        from perdure.sdk.activity import processes

        return processes.run_blocking(_program(args, cwd, env, input, check, grace, log_level))


activity: ActivityNamespace = ActivityNamespace()


def definition_of(decorated: object) -> ActivityDefinition:
    """The definition of a function decorated with `@activity`. Raises TypeError for anything else."""
    if isinstance(decorated, Activity):
        return cast("Activity[..., object]", decorated).definition
    raise TypeError(f"{decorated!r} is not an activity: decorate the function with @activity")


def _define(
    function: Callable[..., object], name: str | None, options: ActivityOptions, executor: Executor | None
) -> _Decorated:
    function_name = getattr(function, "__name__", None)
    if isinstance(function, type | Activity) or not callable(cast(object, function)) or function_name is None:
        raise TypeError(f"@activity is for functions, not for {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"activity {function_name}: a generator can't be an activity: return all values together")
    if isinstance(getattr(function, "definition", None), WorkflowDefinition):
        raise TypeError(f"{function_name} is a workflow: a function is either that or an activity")
    name = optional_name(name, "name") or named(function, "activity")
    is_async = inspect.iscoroutinefunction(function)
    definition = ActivityDefinition(
        name=name,
        function=function,
        is_async=is_async,
        signature=Signature(function, f"activity {name}"),
        options=options,
        executor=_executor(executor, function, is_async=is_async),
    )
    REGISTRY.add_activity(definition)
    kind = AsyncActivity[..., object] if definition.is_async else PlainActivity[..., object]
    return kind(definition)


def _executor(executor: Executor | None, function: Callable[..., object], *, is_async: bool) -> Executor:
    """Where it runs. Raises TypeError, ValueError where it can't run there."""
    if executor is None:
        return "thread"
    name, where = function.__qualname__, one_of(executor, "executor", get_args(Executor))
    if is_async:
        raise TypeError(f"activity {name}: executor is for plain functions; an `async def` runs on the worker's loop")
    if where == "process" and "<" in name:
        raise TypeError(
            f'activity {name}: executor="process" is for functions of a module, since another process has to find them '
            f"there: move it out of the function that it is in"
        )
    if where == "process" and function.__module__ == "__main__" and not _importable_program():
        raise TypeError(
            f'activity {name}: executor="process" needs a file that another process can import, and there is none of '
            f"this program: put the function into a module"
        )
    return where


def _importable_program() -> bool:
    place = main_place()  # of a program that is read from standard input it is a file called "<stdin>", or a pipe
    return place is not None and (bool(place[0]) or Path(place[1]).is_file())


def _program(
    args: Sequence[object],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    input: str | bytes | None,
    check: bool,
    grace: Duration | None,
    log_level: int,
) -> Program:
    from perdure.sdk.activity.processes import program
    from perdure.sdk.workflow.context import current

    if current() is not None:
        raise RuntimeError(
            "a workflow can't run a program, which can't be repeated: do it in an activity, and call that"
        )
    return program(args, cwd, env, input, check, optional_microseconds(grace, "grace"), log_level)


def _running(what: str) -> ActivityContext:
    from perdure.sdk.activity.context import current

    context = current()
    if context is None:
        raise RuntimeError(f"{what} can only be used inside a running activity")
    return context
