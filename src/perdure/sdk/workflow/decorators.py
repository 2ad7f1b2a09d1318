"""The types of the decorators: what they take, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Protocol, TypeVar, overload

from typing_extensions import ParamSpec, deprecated

from perdure.sdk.coroutines import Coro
from perdure.sdk.workflow.calls import WorkflowFunction
from perdure.sdk.workflow.handlers import (
    AsyncAlarm,
    AsyncSignal,
    AsyncUpdate,
    PlainAlarm,
    PlainQuery,
    PlainSignal,
    PlainUpdate,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class ClassWorkflow(Protocol[R_co]):
    """What `@workflow` needs of a class."""

    def run(self) -> Coro[R_co]: ...


class PlainClassWorkflow(Protocol[R_co]):
    """The same with a plain `run`. An async one fits it too, so it comes second where both are possible."""

    def run(self) -> R_co: ...


class NotAWorkflow:
    """What the type checkers take a class without `run` for: nothing can be done with it."""


Class = TypeVar("Class", bound=type[PlainClassWorkflow[object]])


class Decorator(Protocol):
    """`@workflow(…)`."""

    @overload
    def __call__(self, target: Class, /) -> Class: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, target: Callable[P, Coro[R]], /) -> WorkflowFunction[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    @deprecated("a workflow class needs `async def run(self)`, without parameters")
    def __call__(self, target: type[object], /) -> NotAWorkflow: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> WorkflowFunction[P, R]: ...


class EntityDecorator(Protocol):
    """`@workflow(entity=True)`."""

    def __call__(self, target: Class, /) -> Class: ...


class SignalDecorator(Protocol):
    """`@workflow.signal(…)`."""

    @overload
    def __call__(self, function: Callable[Concatenate[S, P], Coro[None]], /) -> AsyncSignal[P]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], None], /) -> PlainSignal[P]: ...


class QueryDecorator(Protocol):
    """`@workflow.query(…)`."""

    def __call__(self, function: Callable[Concatenate[S, P], R], /) -> PlainQuery[P, R]: ...


class UpdateDecorator(Protocol):
    """`@workflow.update(…)`."""

    @overload
    def __call__(self, function: Callable[Concatenate[S, P], Coro[R]], /) -> AsyncUpdate[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R], /) -> PlainUpdate[P, R]: ...


class AlarmDecorator(Protocol):
    """`@workflow.on_alarm(…)`."""

    @overload
    def __call__(self, function: Callable[[S], Coro[None]], /) -> AsyncAlarm: ...
    @overload
    def __call__(self, function: Callable[[S], None], /) -> PlainAlarm: ...
