"""The `activity` namespace: the decorator, and what an activity may ask while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast, overload

from typing_extensions import ParamSpec

from perdure import errors
from perdure.durations import Duration
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.calls import Activity, AsyncActivity, PlainActivity, options_from
from perdure.sdk.coroutines import Coro
from perdure.sdk.options import optional_name
from perdure.sdk.registry import REGISTRY
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.definition import WorkflowDefinition

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from perdure.sdk.activity.context import ActivityContext, ActivityInfo

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
            base=ActivityOptions(),
        )

        def decorate(function: Callable[..., object]) -> _Decorated:
            return _define(function, name, options)

        return decorate if function is None else decorate(function)

    def info(self) -> ActivityInfo:
        """Facts about the running attempt. Raises RuntimeError outside an activity."""
        return _running("activity.info()").info

    def heartbeat(self, *details: object) -> None:
        """Say that the attempt is alive, and how far it came.

        Args:
            details: what the next attempt needs to go on from here (see `heartbeat_details`).

        Raises:
            RuntimeError: outside an activity.
            EncodeError, PayloadTooLarge: the details can't be stored.
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
        """Whether the attempt isn't wanted any more: for plain functions, which can't be interrupted.

        Raises:
            RuntimeError: outside an activity.
        """
        return _running("activity.is_cancelled()").cancelled


activity: ActivityNamespace = ActivityNamespace()


def definition_of(decorated: object) -> ActivityDefinition:
    """The definition of a function decorated with `@activity`. Raises TypeError for anything else."""
    if isinstance(decorated, Activity):
        return cast("Activity[..., object]", decorated).definition
    raise TypeError(f"{decorated!r} is not an activity: decorate the function with @activity")


def _define(function: Callable[..., object], name: str | None, options: ActivityOptions) -> _Decorated:
    function_name = getattr(function, "__name__", None)
    if isinstance(function, type | Activity) or not callable(cast(object, function)) or function_name is None:
        raise TypeError(f"@activity is for functions, not for {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"activity {function_name}: a generator can't be an activity: return all values together")
    if isinstance(getattr(function, "definition", None), WorkflowDefinition):
        raise TypeError(f"{function_name} is a workflow: a function is either that or an activity")
    name = optional_name(name, "name") or cast(str, function_name)
    definition = ActivityDefinition(
        name=name,
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        signature=Signature(function, f"activity {name}"),
        options=options,
    )
    REGISTRY.add_activity(definition)
    kind = AsyncActivity[..., object] if definition.is_async else PlainActivity[..., object]
    return kind(definition)


def _running(what: str) -> ActivityContext:
    from perdure.sdk.activity.context import current

    context = current()
    if context is None:
        raise RuntimeError(f"{what} can only be used inside a running activity")
    return context
