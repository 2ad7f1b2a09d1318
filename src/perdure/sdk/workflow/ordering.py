"""`asyncio.wait`, `as_completed`, `wait_for` and `all_tasks` in a fixed order.

asyncio keeps tasks in sets. Those of a workflow's loop hash by number, so that their order is the same in every
process; but the numbers, and the way in which sets are used, differ between versions of Python, and
`as_completed` makes a set of coroutines, which hash by address. `all_tasks` takes them out of one set of all loops'
tasks, so that their order depends on what else the process does. A history that was recorded under one version
must replay under another: so inside workflows these keep to the order in which things were given to them, or made.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future, Queue, Task
from collections.abc import Awaitable, Iterable, Iterator
from typing import Final, Generic, TypeVar, cast

from perdure.sdk.coroutines import close
from perdure.sdk.workflow.loop import DeterministicLoop

T = TypeVar("T")

# Bound before `determinism.install` puts the functions below in their places.
_asyncio_wait: Final = asyncio.wait
_asyncio_all_tasks: Final = asyncio.all_tasks


class OrderedSet(set[T]):
    """A set that iterates in the order in which its members came; what set operators return is a plain set."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        ordered = list(items)
        super().__init__(ordered)
        self._order = dict.fromkeys(ordered)

    def __iter__(self) -> Iterator[T]:
        rank = {item: place for place, item in enumerate(self._order)}
        return iter(sorted(super().__iter__(), key=lambda item: rank.get(item, len(rank))))

    def add(self, item: T) -> None:
        super().add(item)
        self._order[item] = None

    def discard(self, item: object) -> None:
        super().discard(item)
        self._order.pop(cast(T, item), None)

    def remove(self, item: T) -> None:
        super().remove(item)
        self._order.pop(item, None)

    def pop(self) -> T:
        for item in self:
            self.discard(item)
            return item
        raise KeyError("pop from an empty set")


def all_tasks(loop: AbstractEventLoop | None = None) -> set[Task[object]]:
    """As `asyncio.all_tasks`; those of the workflow are in the order of their creation."""
    own = asyncio.get_running_loop()
    if not isinstance(own, DeterministicLoop) or loop not in (None, own):
        return _asyncio_all_tasks(loop)
    return OrderedSet(own.live_tasks())


async def wait(
    fs: Iterable[Future[T]], *, timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED
) -> tuple[set[Future[T]], set[Future[T]]]:
    """As `asyncio.wait`; the sets that it returns are in the order of `fs`."""
    if isinstance(cast(object, fs), Future) or asyncio.iscoroutine(fs):
        return await _asyncio_wait(fs, timeout=timeout, return_when=return_when)  # which refuses it
    futures = list(dict.fromkeys(fs))
    done, pending = await _asyncio_wait(futures, timeout=timeout, return_when=return_when)
    return OrderedSet(f for f in futures if f in done), OrderedSet(f for f in futures if f in pending)


class as_completed(Generic[T]):  # it stands for a function
    """As `asyncio.as_completed`: iterate over it, or from Python 3.13 on also with `async for`."""

    def __init__(self, fs: Iterable[Awaitable[T]], *, timeout: float | None = None) -> None:
        if isinstance(cast(object, fs), Future) or asyncio.iscoroutine(fs):
            raise TypeError("as_completed expects several awaitables in an iterable, not one")
        futures: list[Future[T]] = [asyncio.ensure_future(awaitable) for awaitable in dict.fromkeys(fs)]
        self._left = len(futures)  # to be given out
        self._pending = dict.fromkeys(futures)
        self._done: Queue[Future[T] | None] = Queue()
        self._timer = None
        for future in futures:
            future.add_done_callback(self._on_done)
        if futures and timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._on_timeout)

    def _on_done(self, future: Future[T]) -> None:
        if future not in self._pending:
            return  # the time was over first, but this was on its way already
        del self._pending[future]
        self._done.put_nowait(future)
        if not self._pending and self._timer is not None:
            self._timer.cancel()

    def _on_timeout(self) -> None:
        for future in self._pending:
            future.remove_done_callback(self._on_done)
            self._done.put_nowait(None)
        self._pending.clear()

    def __iter__(self) -> Iterator[Awaitable[T]]:
        return self

    def __next__(self) -> Awaitable[T]:
        if self._left == 0:
            raise StopIteration
        self._left -= 1
        return self._result()

    async def _result(self) -> T:
        return (await self._next_done()).result()

    async def _next_done(self) -> Future[T]:
        future = await self._done.get()
        if future is None:
            raise TimeoutError
        return future

    def __aiter__(self) -> as_completed[T]:
        return self

    async def __anext__(self) -> Future[T]:
        if self._left == 0:
            raise StopAsyncIteration
        self._left -= 1
        return await self._next_done()


async def wait_for(fut: Awaitable[T], timeout: float | None) -> T:
    """As `asyncio.wait_for`, which before Python 3.12 waited in another task: the order of steps was another."""
    if timeout is None or timeout > 0:
        begun = False
        try:
            async with asyncio.timeout(timeout):
                begun = True
                return await fut
        finally:
            if not begun:  # no timer can be started, such as while the run is torn down
                close(fut)
    future = asyncio.ensure_future(fut)
    if future.done():
        return future.result()
    future.cancel()
    await _asyncio_wait([future])
    try:
        return future.result()
    except asyncio.CancelledError as error:
        raise TimeoutError from error
