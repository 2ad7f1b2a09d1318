"""An asyncio event loop without time, I/O or threads.

It runs callbacks in the order in which they became ready, and stops when there are none. Time stands still
while it runs; a timer is a command to the engine. Tasks are numbered in the order of their creation, and so are
futures; they hash by that number, so that the sets which asyncio and users make of them iterate in the same order
in every process. Futures of asyncio's own code have numbers of their own: how many it makes, depends on the version
of Python.

::

    call_soon   → ready queue → run_until_idle
    call_later  → TimerHost.start_timer → (durable) → fire → ready queue
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast

from perdure.clock import SECOND
from perdure.durations import microseconds
from perdure.errors import GuardError
from perdure.limits import MAX_DURATION
from perdure.sdk.workflow.guard import ACTIVITY, PROCESS, THREAD, stop
from perdure.sdk.workflow.source import Line, awaited_lines, place_of, user_line, user_stack

T = TypeVar("T")

_Callback = Callable[..., object]
_Code = Generator[Any, None, T] | Coroutine[Any, Any, T]

_logger = logging.getLogger("perdure.workflow")


class TimerHost(Protocol):
    """What makes timers durable."""

    def start_timer(self, timer: LoopTimer) -> None:
        """Take a timer that is not due yet. Raises RuntimeError where none may be started."""
        ...

    def cancel_timer(self, timer: LoopTimer) -> None:
        """A timer that was taken is not wanted any more."""
        ...


class _NoHost:
    """Of a loop that is over."""

    def start_timer(self, timer: LoopTimer) -> None:
        raise RuntimeError("the workflow is out of memory: no timer can be started")

    def cancel_timer(self, timer: LoopTimer) -> None:
        """Nothing is left to be cancelled."""


_FOREVER: Final = MAX_DURATION / SECOND
_NO_HOST: Final = _NoHost()
MAKE_INSIDE: Final = (
    "Make asyncio's locks, events, queues and futures inside the workflow that uses them; from outside, send it a "
    "signal"
)
"""What to do instead of sharing them."""


class LoopHandle(asyncio.Handle):
    """A callback that is ready to run."""

    # The base's __init__ is not called: this runs for every step of every task.
    __slots__ = ("args", "callback", "context")

    def __init__(self, callback: _Callback | None, args: tuple[object, ...], context: Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context

    def __repr__(self) -> str:
        return f"<LoopHandle {self.callback!r}>"

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def get_context(self) -> Context:
        return self.context


class LoopTimer(asyncio.TimerHandle):
    """A callback that runs when the engine says that its time has come.

    name: its id in the history. event_id: the event that started it; 0 until that is recorded.
    dropped: it was cancelled before anybody heard of it.
    """

    __slots__ = ("args", "callback", "context", "dropped", "due", "duration", "event_id", "host", "name")

    def __init__(
        self,
        due: float,
        duration: int,
        callback: _Callback,
        args: tuple[object, ...],
        context: Context,
        host: TimerHost | None,
    ) -> None:
        self.due = due
        self.duration = duration
        self.callback: _Callback | None = callback
        self.args = args
        self.context = context
        self.host = host
        self.name = ""
        self.event_id = 0
        self.dropped = False

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<LoopTimer {self.name} of {self.duration / SECOND} s>"

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        host, self.host = self.host, None
        if self.callback is not None:
            self.callback = None
            self.args = ()
            if host is not None:
                host.cancel_timer(self)

    def cancelled(self) -> bool:
        return self.callback is None

    def get_context(self) -> Context:
        return self.context


class LoopFuture(asyncio.Future[T]):
    """A future that hashes by its number."""

    __slots__ = ("_number",)

    def __init__(self, loop: DeterministicLoop, number: int = 0) -> None:
        self._number = number or next(loop.futures)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class OwnFuture(LoopFuture[T]):
    """A future of asyncio's locks, events and queues, or of the user's code: only what runs in its loop may end it."""

    __slots__ = ("_home",)

    def __init__(self, loop: DeterministicLoop) -> None:
        super().__init__(loop, next(loop.own_futures))
        self._home = loop

    def set_result(self, result: T) -> None:
        self._home.check()
        super().set_result(result)

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        self._home.check()
        super().set_exception(exception)

    def cancel(self, msg: object = None) -> bool:
        self._home.check()
        return super().cancel(msg)


class LoopTask(asyncio.Task[T]):
    """A task that hashes by its number.

    context: what its code runs in. origin: the user's line that made it, known in a replay only.
    """

    __slots__ = ("_late", "_number", "_owed", "_own", "_requests", "context", "origin")

    def __init__(
        self,
        coro: _Code[T],
        loop: DeterministicLoop,
        name: str | None,
        context: Context | None,
        options: dict[str, object],
    ) -> None:
        self.origin = user_line() if loop.replaying else ""
        number = next(loop.tasks)
        self._number = number  # asyncio hashes the task while it is being made
        name = name or f"Task-{number - loop.salt}"
        self._owed = 0
        self._own: LoopHandle | None = None
        self._late = False
        self._requests = 0
        self.context = context = contextvars.copy_context() if context is None else context
        super().__init__(coro, loop=loop, name=name, context=context, **cast("dict[str, Any]", options))

    def __hash__(self) -> int:
        return self._number

    def cancel(self, msg: object = None) -> bool:
        """Request the cancellation, as asyncio does. Where the task waits for what must end by itself first, neither
        is lost: it gets that outcome, and `CancelledError` when it waits the next time.

        A task that cancels itself, as a TaskGroup's does, hears of it when it waits the next time, unless all requests
        were taken back by then. asyncio allows that from Python 3.13 on, and does not count requests otherwise; so
        they are counted here."""
        if self.done():
            return False
        loop = cast("DeterministicLoop", self.get_loop())
        loop.check()
        self._requests += 1
        if asyncio.current_task(loop) is self:
            if self._own is None:
                self._owed += 1
                self._own = loop.call_soon(self._cancel_own, msg)
            return True
        waited = cast("asyncio.Future[Any] | None", getattr(self, "_fut_waiter", None))
        asked = super().cancel(msg)
        if waited is not None and _goes_on(waited):
            self._owed += 1
            # It is called after the task's own step, since the task began to wait before.
            waited.add_done_callback(partial(self._cancel_again, self._requests, msg))
        return asked

    def cancelling(self) -> int:
        return self._requests

    def uncancel(self) -> int:
        self._requests = max(self._requests - 1, 0)
        return self._requests

    @property
    def missed(self) -> bool:
        """Whether a cancellation was requested that has not been raised: it waits yet for what must end by itself, or
        it has ended without having waited again."""
        return self._late or (self._owed > 0 and not self.done())

    def _cancel_own(self, msg: object) -> None:
        self._own = None
        self._cancel_again(1, msg)

    def _cancel_again(self, level: int, msg: object, waited: asyncio.Future[Any] | None = None) -> None:
        self._owed -= 1
        # A lower level: whoever requested it, such as asyncio.timeout, has taken it back.
        if (waited is not None and waited.cancelled()) or self._requests < level:
            return
        self._late = self.done()
        if not self._late:
            self._requests -= 1
            self.cancel(msg)


def _goes_on(waited: asyncio.Future[Any]) -> bool:
    """Whether something that was just cancelled goes on until its own end."""
    if waited.done():
        return False
    if isinstance(waited, LoopTask):
        return cast("LoopTask[object]", waited)._owed > 0  # pyright: ignore[reportPrivateUsage]
    return isinstance(waited, LoopFuture)  # asyncio's own, such as that of a gather, see to themselves


class PatientFuture(LoopFuture[T]):
    """A future that can't be cancelled, only waited for: whoever waits hears of the cancellation afterwards."""

    __slots__ = ()

    def cancel(self, msg: object = None) -> bool:
        return not self.done()


class DeterministicLoop(asyncio.AbstractEventLoop):
    """The event loop of one workflow run.

    Args:
        host: where timers become durable.
        seed: a number that differs from run to run. Numbers start behind it: asyncio keeps the tasks of all
            loops in one set, which would be slow if every run's first task had the same hash.
    """

    logger: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(_logger, {})
    """What takes asyncio's complaints about forgotten tasks and exceptions."""

    def __init__(self, host: TimerHost, seed: int) -> None:
        self.reseed(seed)
        self._host: TimerHost = host
        self._ready: deque[LoopHandle | LoopTimer] = deque()
        self._tasks: list[LoopTask[Any]] = []
        self._until_pruned = 0
        self.clock = 0.0
        """What `time()` tells: seconds since the run began."""
        self.replaying = False
        self.running = False
        """Whether the run's code is being executed."""
        self.steps = 0
        """How often code was given control: while this stands still, one step is being executed."""
        self.rounds = 0
        """How often all that was ready was run: while this stands still, there is always more."""
        self.struck: str | None = None
        """Where ("file:line") a step was interrupted, because it took too long; None: it was not."""
        self.silent = False
        """Whether such complaints are dropped."""

    def reseed(self, seed: int) -> None:
        """Begin the numbers of tasks elsewhere: before the first one."""
        self.salt = (seed & 0xFFFF_FFFF) << 24
        self.tasks, self.futures, self.own_futures = (count(self.salt + 1) for _ in range(3))  # the next numbers

    def __repr__(self) -> str:
        return f"<DeterministicLoop at {self.clock} s>"

    # --- Running ----------------------------------------------------------------------------------------
    def run_until_idle(self) -> None:
        """Run what is ready, and what that makes ready. Raises what a callback raises."""
        ready = self._ready
        self.rounds += 1
        while ready:
            handle = ready.popleft()
            callback = handle.callback
            if callback is not None:
                self.steps += 1
                handle.context.run(callback, *handle.args)

    @property
    def idle(self) -> bool:
        """Whether nothing is ready to run."""
        return not self._ready

    def clear(self) -> None:
        """Forget what is ready to run."""
        self._ready.clear()

    def release(self) -> None:
        """Let go of all that leads back here, so that the end of the run leaves nothing to the garbage collector."""
        self._ready.clear()
        for task in self._tasks[:1]:  # the workflow's own
            if task.done():
                try:
                    task.result()
                except BaseException as error:
                    error.__traceback__ = None  # its frames may lead back to it, as that of a TaskGroup does
        self._tasks.clear()
        self._host = _NO_HOST

    def fire(self, timer: LoopTimer) -> None:
        """A timer's time has come."""
        timer.host = None
        self._ready.append(timer)

    def prune(self) -> None:
        """Let go of tasks that are done: of one whose exception nobody will ask for, asyncio complains then.

        Called at the end of each workflow task, and as seldom as costs nothing for each of many tasks.
        """
        self._until_pruned -= 32
        if self._until_pruned <= 0 and len(self._tasks) > 1:  # the first is the workflow's own
            self._tasks[1:] = [task for task in self._tasks[1:] if not task.done()]
            self._until_pruned = len(self._tasks)

    def live_tasks(self) -> list[LoopTask[object]]:
        """The tasks that are not done, in the order of their creation."""
        return [task for task in self._tasks if not task.done()]

    def waiting_lines(self) -> list[Line]:
        """The lines of the user's code at which those tasks wait."""
        return [line for task in self.live_tasks() for line in awaited_lines(task.get_coro())]

    def check(self) -> None:
        """Raises GuardError where what runs is not the run's code: then nothing would take what becomes ready."""
        if not self.running:
            raise self._from_outside()

    def _from_outside(self) -> GuardError:
        who = (self.logger.extra or {}).get("workflow_id")
        waits = f", which waits at {place}," if (place := place_of(self.waiting_lines())) else ""
        here = place_of(user_stack(sys._getframe(1)))  # pyright: ignore[reportPrivateUsage]
        return stop(here, f"waking workflow {who!r}{waits} from outside of it", MAKE_INSIDE)

    # --- asyncio's interface ----------------------------------------------------------------------------
    def time(self) -> float:
        return self.clock

    def call_soon(self, callback: _Callback, *args: object, context: Context | None = None) -> LoopHandle:
        if not self.running:
            raise self._from_outside()
        if context is None:  # an empty one is false
            context = contextvars.copy_context()
        handle = LoopHandle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: _Callback, *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if context is None:
            context = contextvars.copy_context()
        if delay > _FOREVER:
            return LoopTimer(self.clock + delay, 0, callback, args, context, None)  # as asyncio: it never fires
        if delay > 0:
            duration = microseconds(delay, "the delay of a timer")
            timer = LoopTimer(self.clock + delay, duration, callback, args, context, self._host)
            self._host.start_timer(timer)
        else:
            timer = LoopTimer(self.clock, 0, callback, args, context, None)
            self._ready.append(timer)
        return timer

    def call_at(
        self, when: float, callback: _Callback, *args: object, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.clock, callback, *args, context=context)

    def create_future(self) -> OwnFuture[object]:
        return OwnFuture(self)

    def create_task(
        self, coro: _Code[T], *, name: str | None = None, context: Context | None = None, **options: object
    ) -> LoopTask[T]:
        task = LoopTask(coro, self, name, context, options)
        # asyncio holds its tasks weakly; here one that were collected would run its `finally` at any time.
        self._tasks.append(task)
        return task

    def is_running(self) -> bool:
        return self.running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, object]) -> None:
        if not self.silent and not self.replaying:
            about = context.get("task") or context.get("future")
            name = f" ({about.get_name()})" if isinstance(about, asyncio.Task) else ""
            message = str(context["message"]).removeprefix("Loop")  # a LoopTask is to its user a Task
            text = f"{message}{name}, in workflow {(self.logger.extra or {}).get('workflow_id')!r}"
            self.logger.error(text, exc_info=cast("BaseException | None", context.get("exception")))

    # --- Asynchronous generators ------------------------------------------------------------------------
    def generator_begins(self, generator: AsyncGenerator[object, object]) -> None:
        """Nothing to do, but the hook of the loop outside must not be called."""

    def generator_dropped(self, generator: AsyncGenerator[object, object]) -> None:
        """User code left a generator in its middle: run its `finally`, unless that comes at a random time."""
        if self.running and not self.silent:
            self.create_task(generator.aclose())


_REFUSED: Final = {
    ("using the network", ACTIVITY): (
        "create_connection create_server create_unix_connection create_unix_server create_datagram_endpoint start_tls "
        "connect_accepted_socket sendfile getaddrinfo getnameinfo sock_recv sock_recv_into sock_recvfrom "
        "sock_recvfrom_into sock_sendall sock_sendto sock_connect sock_accept sock_sendfile"
    ),
    ("waiting for files and sockets", ACTIVITY): (
        "connect_read_pipe connect_write_pipe add_reader remove_reader add_writer remove_writer"
    ),
    ("starting a process", PROCESS): "subprocess_shell subprocess_exec",
    ("running something in a thread", THREAD): "run_in_executor set_default_executor",
    ("being called by a thread", "Send the workflow a signal from outside"): "call_soon_threadsafe",
    ("the process's signals", ACTIVITY): "add_signal_handler remove_signal_handler",
}
"""Methods that no replay could repeat, by what they do and what to do instead."""

_USELESS: Final = {
    "The workflow runs already: await, or asyncio.create_task": (
        "run_forever run_until_complete stop close shutdown_asyncgens shutdown_default_executor"
    ),
    "The workflow's loop can't be configured": (
        "set_debug set_task_factory set_exception_handler get_exception_handler default_exception_handler"
    ),
}


def _refused(name: str, what: str, instead: str) -> Callable[..., NoReturn]:
    def method(loop: DeterministicLoop, *_: object, **__: object) -> NoReturn:
        # A task of asyncio's own coroutine has no line of the user's: then those at which the others wait.
        place = place_of(user_stack(sys._getframe(1)) or loop.waiting_lines())  # pyright: ignore[reportPrivateUsage]
        raise stop(place, f"{what} (loop.{name})", instead)

    method.__name__ = name
    return method


def _useless(name: str, why: str) -> Callable[..., NoReturn]:
    def method(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"loop.{name}() doesn't work inside a workflow. {why}")

    method.__name__ = name
    return method


for (_what, _instead), _names in _REFUSED.items():
    for _name in _names.split():
        setattr(DeterministicLoop, _name, _refused(_name, _what, _instead))
for _why, _names in _USELESS.items():
    for _name in _names.split():
        setattr(DeterministicLoop, _name, _useless(_name, _why))
