"""Activities as user code calls them.

Inside a workflow a call schedules the activity; anywhere else it is the function itself. A call has the shape of
the function: a coroutine function is awaited, and a plain function is called through `start`, since a plain call
could not wait.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import CoroutineType
from typing import Any, Final, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar, cast

from typing_extensions import ParamSpec

from perdure.durations import Duration, optional_microseconds
from perdure.limits import MAX_PENDING_ACTIVITIES
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions, CancellationType
from perdure.sdk.coroutines import Coro
from perdure.sdk.options import cancellation_type as checked_cancellation_type
from perdure.sdk.options import optional_name, whole_number
from perdure.sdk.options import priority as checked_priority
from perdure.sdk.retry import RetryPolicy, optional_policy
from perdure.sdk.workflow.context import WorkflowContext, current, require, thread
from perdure.sdk.workflow.plain import block, waiting_code

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

ActivityHandle: TypeAlias = asyncio.Future[R]
"""A scheduled activity: await it for the result, cancel it to ask for its end."""


def options_from(
    *,
    task_queue: str | None = None,
    start_to_close_timeout: Duration | None = None,
    schedule_to_close_timeout: Duration | None = None,
    schedule_to_start_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    retry_policy: RetryPolicy | None = None,
    priority: int | None = None,
    cancellation_type: CancellationType | None = None,
    base: ActivityOptions,
) -> ActivityOptions:
    """Options as users write them, over those of `base`. Raises TypeError or ValueError naming the option."""
    return base.changed(
        task_queue=optional_name(task_queue, "task_queue"),
        start_to_close_timeout=optional_microseconds(start_to_close_timeout, "start_to_close_timeout"),
        schedule_to_close_timeout=optional_microseconds(schedule_to_close_timeout, "schedule_to_close_timeout"),
        schedule_to_start_timeout=optional_microseconds(schedule_to_start_timeout, "schedule_to_start_timeout"),
        heartbeat_timeout=optional_microseconds(heartbeat_timeout, "heartbeat_timeout"),
        retry_policy=optional_policy(retry_policy),
        priority=checked_priority(priority),
        cancellation_type=checked_cancellation_type(cancellation_type),
    )


class _Startable(Protocol[T_contra, R]):
    """What can be started with one argument."""

    def start(self, item: T_contra, /) -> ActivityHandle[R]: ...


class Activity(Generic[P, R_co]):
    """A function decorated with `@activity`."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., object]

    def __init__(self, definition: ActivityDefinition, options: ActivityOptions | None = None) -> None:
        functools.update_wrapper(cast(Any, self), definition.function)
        self.definition = definition
        self._options = options or definition.options
        self._function = cast("Callable[P, Any]", definition.function)

    @property
    def name(self) -> str:
        """The activity's name on the wire."""
        return self.definition.name

    def start(self, *args: P.args, **kwargs: P.kwargs) -> ActivityHandle[R_co]:
        """Schedule the activity at once, from a workflow.

        Returns:
            A handle to await or cancel.

        Raises:
            RuntimeError: outside a workflow.
            TypeError, EncodeError, PayloadTooLarge: the arguments are not what the activity takes.
        """
        context = current() or require(f"{self.__name__}.start()")
        handle = context.start_activity(self.definition, self._options, args, kwargs)
        return cast("ActivityHandle[R_co]", handle)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> ActivityHandle[R_co]:
        """Run the activity in the worker that runs this workflow's code, without a task queue: for what is short.

        Its outcome is recorded with the workflow task that it belongs to, so many cost one commit. Meanwhile the
        workflow hears of nothing else. It runs at least once: whatever ends the worker before that commit makes all
        local activities of that task run again. See docs/local-activities.md.

        Returns:
            A handle to await or cancel.

        Raises:
            RuntimeError: outside a workflow.
            ValueError: its retry policy holds, which a local activity can't.
            TypeError, EncodeError, PayloadTooLarge: the arguments are not what the activity takes.
        """
        context = current() or require(f"{self.__name__}.local()")
        return cast("ActivityHandle[R_co]", context.start_local(self.definition, self._options, args, kwargs))

    def options(
        self,
        *,
        task_queue: str | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        schedule_to_start_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        retry_policy: RetryPolicy | None = None,
        priority: int | None = None,
        cancellation_type: CancellationType | None = None,
    ) -> Self:
        """The same activity with other options, for the calls made through what this returns.

        A timeout of 0 means none. See `@activity` for what the options mean.

        Raises:
            TypeError, ValueError: an option is not what it should be.
        """
        changed = options_from(
            task_queue=task_queue,
            start_to_close_timeout=start_to_close_timeout,
            schedule_to_close_timeout=schedule_to_close_timeout,
            schedule_to_start_timeout=schedule_to_start_timeout,
            heartbeat_timeout=heartbeat_timeout,
            retry_policy=retry_policy,
            priority=priority,
            cancellation_type=cancellation_type,
            base=self._options,
        )
        return type(self)(self.definition, changed)

    def map(self: _Startable[T, R], items: Iterable[T], /, *, concurrency: int | None = None) -> ActivityMap[R]:
        """Start the activity for every item, from a workflow.

        Args:
            items: one argument each; taken from only as fast as activities are started.
            concurrency: how many run at once at most; by default all.

        Returns:
            To await, for the list of results in the items' order; or for `async for`, which gives them one by
            one in that order. If one fails, the others that run are cancelled.
        """
        return ActivityMap(self.start, items, concurrency)

    def __set_name__(self, owner: type[object], name: str) -> None:
        if self.__qualname__ == f"{owner.__qualname__}.{name}":
            raise TypeError(
                f"{self.__qualname__}: a method can't be an activity, since its object isn't there when the "
                f"activity runs. Make it a function of the module, and pass what it needs as arguments"
            )

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


class AsyncActivity(Activity[P, R_co]):
    """An `async def` decorated with `@activity`."""

    _function: Callable[P, Coro[R_co]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coro[R_co]:
        context = thread.context
        if context is None:
            return self._function(*args, **kwargs)
        if thread.plain:
            self._refuse_async_call()
        call = _schedule(context, self.definition, self._options, args, kwargs)
        call.__qualname__ = self.__qualname__  # for Python's warning about calls that nobody awaits
        return call

    def _refuse_async_call(self) -> NoReturn:
        name = self.__name__
        raise TypeError(
            f"{name} is an `async def`, and a plain workflow has no `await`: write `{name}.start(…).result()`, or make "
            f"the activity a plain function"
        )


class PlainActivity(Activity[P, R_co]):
    """A plain function decorated with `@activity`."""

    _function: Callable[P, R_co]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        context = thread.context
        if context is not None:
            if not thread.plain:
                self._refuse_plain_call()
            return cast("R_co", block(context.start_activity(self.definition, self._options, args, kwargs)))
        return self._function(*args, **kwargs)

    def _refuse_plain_call(self) -> NoReturn:
        name = self.__name__
        raise TypeError(
            f"{name} is a plain function, and a call of it would block the workflow: in an `async def` write "
            f"`await {name}.start(…)`, or make {name} one; the undo of a saga is {name} itself, or a lambda that "
            f"returns `{name}.start(…)`. (Queries, validators, predicates and __init__ can't call activities at all.)"
        )


async def _scheduled(
    context: WorkflowContext,
    definition: ActivityDefinition,
    options: ActivityOptions,
    args: Sequence[object],
    kwargs: dict[str, object],
) -> object:
    return await context.start_activity(definition, options, args, kwargs)


_schedule: Final = cast("Callable[..., CoroutineType[Any, Any, Any]]", _scheduled)


class ActivityMap(Generic[R]):
    """One activity over many items: see `Activity.map`."""

    def __init__(self, start: Callable[[T], ActivityHandle[R]], items: Iterable[T], concurrency: int | None) -> None:
        require("map()")
        if hasattr(items, "__aiter__"):
            raise TypeError("map() takes a plain iterable: collect an asynchronous one before, [item async for …]")
        if concurrency is not None:
            whole_number(concurrency, "concurrency", 1, MAX_PENDING_ACTIVITIES)
        self._handles = map(start, items)
        self._concurrency = concurrency

    def __await__(self) -> Generator[object, None, list[R]]:
        return self._all().__await__()

    def __aiter__(self) -> _InOrder[R]:
        return _InOrder(self._handles, self._concurrency)

    def result(self) -> list[R]:
        """The list of results; for a plain `def` workflow, which waits without `await`."""
        waiting_code()  # before anything is started
        started: list[ActivityHandle[R]] = []
        running = _Running(self._concurrency)
        try:
            for handle in self._handles:  # whose items may be waited for, too
                started.append(handle)
                block(running.add(handle))
            block(running.finish())
        finally:
            if going_on := _cancelled(started):
                block(asyncio.wait(going_on))
        return [handle.result() for handle in started]

    def __iter__(self) -> Iterator[R]:
        """The results one by one, in a plain `def` workflow."""
        waiting_code()
        return _InOrder(self._handles, self._concurrency)

    async def _all(self) -> list[R]:
        started: list[ActivityHandle[R]] = []
        running = _Running(self._concurrency)
        try:
            for handle in self._handles:
                started.append(handle)
                await running.add(handle)
            await running.finish()
        finally:
            if going_on := _cancelled(started):
                await asyncio.wait(going_on)
        return [handle.result() for handle in started]


def _cancelled(handles: Sequence[ActivityHandle[R]]) -> list[ActivityHandle[R]]:
    """Cancel them; those that go on until their own end, since that is what was asked for."""
    for handle in handles:
        handle.cancel()  # of those that are done already, this changes nothing
    return [handle for handle in handles if not handle.done()]


class _Running:
    """Counts handles that are not done, and waits until there are fewer."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._count = 0
        self._failed: asyncio.Future[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0

    async def add(self, handle: asyncio.Future[Any]) -> None:
        """Count the handle, and wait until another one may be started."""
        self._count += 1
        handle.add_done_callback(self._done)
        if self._limit is not None:
            await self._fewer_than(self._limit)

    async def finish(self) -> None:
        """Wait until all are done. Raises what the first one raised that failed."""
        await self._fewer_than(1)

    async def _fewer_than(self, count: int) -> None:
        if self._count >= count and self._failed is None:
            self._until = count
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failed is not None:
            self._failed.result()

    def _done(self, handle: asyncio.Future[Any]) -> None:
        self._count -= 1
        if self._failed is None and (handle.cancelled() or handle.exception() is not None):
            self._failed = handle
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (self._count < self._until or self._failed is not None):
            waiter.set_result(None)


class _InOrder(Generic[R]):
    """The results one by one. At most `concurrency` are running or waiting to be taken."""

    def __init__(self, handles: Iterable[ActivityHandle[R]], concurrency: int | None) -> None:
        self._handles = iter(handles)
        self._concurrency = concurrency
        self._ahead: deque[ActivityHandle[R]] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        try:
            handle = self._next()
            if handle is not None:
                return await handle
        except BaseException:
            self._give_up()
            raise
        raise StopAsyncIteration

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        try:
            handle = self._next()
            if handle is not None:
                return block(handle)
        except BaseException:
            self._give_up()
            raise
        raise StopIteration

    def _next(self) -> ActivityHandle[R] | None:
        """Start as many as may run; the one whose result comes next."""
        while self._concurrency is None or len(self._ahead) < self._concurrency:
            handle = next(self._handles, None)
            if handle is None:
                break
            self._ahead.append(handle)
        return self._ahead.popleft() if self._ahead else None

    def _give_up(self) -> None:
        """One has failed: the others are cancelled, and no more follow."""
        for handle in self._ahead:
            handle.cancel()
        self._ahead.clear()
        self._handles = iter(())
