"""Runs attempts of activities: `async def` on the loop, each in a task; plain `def` in threads, or in processes.

::

    ActivityTask → start → running → ActivityCompletion | ActivityFailure    it returned, or raised
                                   → ActivityCancellation                    it stopped because it was told to
                                   → ActivityEvicted                         it stopped without an outcome
                                   → ActivityDetached                        it goes on elsewhere

Exactly one of these leaves for each attempt, when it really ends: its slot is taken until then, also if the engine
has given it up long before (it timed out, or its workflow is closed).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.clock import SECOND
from perdure.errors import CodecError, InvalidRequest, NotFound
from perdure.limits import HEARTBEAT_INTERVAL_MINIMUM, HEARTBEAT_JOURNAL_INTERVAL, MAX_THREADS, SHUTDOWN_GRACE
from perdure.model.failures import Failure
from perdure.model.payloads import Payloads
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityDetached,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityTask,
    ActivityToken,
    CancelActivity,
    FromWorker,
)
from perdure.sdk.activity.context import ActivityContext, current_context
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.activity.outcomes import Outcome, encoding_failure, raised, returned, unread_failure, value_of
from perdure.sdk.activity.threads import Job, ThreadPool
from perdure.sdk.converter import hand_on_room
from perdure.sdk.failures import failure_of
from perdure.sdk.interceptors import ActivityCall, Chain, decode_headers
from perdure.sdk.unknown import unknown_name

if TYPE_CHECKING:
    from perdure.sdk.activity.pool import ProcessPool

_log = logging.getLogger(__name__)


class Attempt(ActivityContext):
    """An attempt, and what the executor knows of it."""

    __slots__ = (
        "begun",
        "definition",
        "executor",
        "job",
        "latest",
        "next_beat",
        "reason",
        "running",
        "timer",
        "unsent",
    )

    def __init__(self, executor: ActivityExecutor, task: ActivityTask, definition: ActivityDefinition) -> None:
        super().__init__(task)
        self.executor = executor
        self.definition = definition
        self.running: asyncio.Task[None] | None = None
        self.job: Job[Outcome | BaseException] | None = None
        self.begun = False
        self.reason = ""
        self.latest: Payloads = task.heartbeat_details
        self.unsent = False
        self.next_beat = 0.0
        self.timer: asyncio.TimerHandle | None = None

    # --- Heartbeats ---------------------------------------------------------------------------------
    def alive(self) -> None:
        self._send_soon()

    def in_thread(self, thread: int) -> bool:
        return thread != self.executor.thread

    def report(self, details: Payloads) -> None:
        # May run in any thread. The details are set before `unsent` is looked at, and `send_beat` clears it
        # before it takes them; so the latest are always either sent or still to be sent.
        self.latest = details
        self._send_soon()

    def _send_soon(self) -> None:
        if self.unsent or self.ended:
            return
        self.unsent = True
        if get_ident() == self.executor.thread:
            self._beat()
        else:
            self.executor.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        loop = self.executor.loop
        if loop.time() < self.next_beat:
            self.timer = loop.call_at(self.next_beat, self.send_beat)
        else:
            self.send_beat()

    def send_beat(self) -> None:
        """Send the latest details, if they weren't."""
        if not self.unsent or self.ended:
            return
        self.unsent = False
        self.next_beat = self.executor.loop.time() + self._interval()
        self.executor.send(ActivityHeartbeat(self.task.token, self.latest))

    def _interval(self) -> float:
        # More often than details are journaled is of no use, unless a timeout asks for it: the next attempt has what
        # was sent before.
        task, interval = self.task, HEARTBEAT_JOURNAL_INTERVAL
        if task.heartbeat_timeout:
            interval = min(interval, task.heartbeat_timeout // 3)
        if task.start_to_close_timeout:
            interval = min(interval, task.start_to_close_timeout // 20)
        return max(HEARTBEAT_INTERVAL_MINIMUM, interval) / SECOND

    # --- Outcomes -----------------------------------------------------------------------------------
    def returned(self, result: object) -> Outcome:
        """The outcome of an attempt that returned."""
        return returned(self.task, self.definition, result)

    def raised(self, error: BaseException) -> Outcome:
        """The outcome of an attempt that raised."""
        return raised(self.task, error, asked=self.cancelled or self._all_cancelled(), reason=self.reason)

    def _all_cancelled(self) -> bool:
        """Whether all that the loop runs was cancelled, as when `asyncio.run` ends it. An attempt that was cancelled by
        itself was so by code of its own."""
        if self.running is None or not self.running.cancelling():
            return False
        return all(task.cancelling() for task in asyncio.all_tasks(self.executor.loop))


class ActivityExecutor:
    """Runs the attempts that a worker is handed. Its methods are called on the loop's thread only.

    Args:
        activities: the definitions that it has, by name; looked at for each attempt, so that it may grow.
        send: takes the messages for the node, in order.
        slots: attempts that run at once at most; the node sees to it.
        processes: how many of them in processes of their own at most; by default as many as there are processors.
        around: interceptors of attempts.
    """

    def __init__(
        self,
        activities: Mapping[str, ActivityDefinition],
        send: Callable[[FromWorker], None],
        *,
        slots: int,
        processes: int | None = None,
        around: Chain | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.send = send
        self._activities = activities
        self._attempts: dict[ActivityToken, Attempt] = {}
        self._threads = ThreadPool[Outcome | BaseException](self.loop, min(slots, MAX_THREADS))
        self._around = around
        self._processes = processes or os.cpu_count() or 1
        self._pool: ProcessPool | None = None
        # Attempts begin in a copy of this context, not in that of whoever happened to cause their start.
        self._context = contextvars.copy_context()
        self._stopping: asyncio.Future[None] | None = None

    def start(self, task: ActivityTask) -> None:
        """Run an attempt. One that runs already, delivered again after a reconnection, goes on."""
        token = task.token
        if token in self._attempts:
            return
        if self._stopping is not None:
            self.send(ActivityEvicted(token, begun=False))
            return
        definition = self._activities.get(task.activity_type)
        if definition is None:
            self.send(ActivityFailure(token, self._unknown(task.activity_type)))
            return
        if definition.executor == "process" and self._around is None:  # which decodes its arguments there
            self._attempts[token] = attempt = Attempt(self, task, definition)
            context = self._context.copy()
            hand_on_room(context)
            running = self._run_in_process(attempt)
            attempt.running = self.loop.create_task(running, name=definition.name, context=context)
            return
        try:
            args, kwargs = definition.signature.decode(task.input)
        except InvalidRequest as error:
            self.send(ActivityFailure(token, encoding_failure(error)))
            return
        except CodecError as error:
            self.send(ActivityFailure(token, unread_failure(error)))
            return
        except Exception as error:  # a bug of the definition, such as an annotation that can't be read
            self.send(ActivityFailure(token, failure_of(error)))
            return
        self._attempts[token] = attempt = Attempt(self, task, definition)
        context = self._context.copy()
        hand_on_room(context)
        if self._around is not None:
            running = self._run_intercepted(self._around, attempt, args, kwargs)
            attempt.running = self.loop.create_task(running, name=definition.name, context=context)
        elif definition.is_async:
            running = self._run(attempt, args, kwargs)
            attempt.running = self.loop.create_task(running, name=definition.name, context=context)
        else:
            attempt.job = self._threads.submit(
                lambda: context.run(self._run_plain, attempt, args, kwargs), partial(self._end_plain, attempt)
            )

    def cancel(self, message: CancelActivity) -> None:
        """Tell an attempt that it is not wanted any more."""
        attempt = self._attempts.get(message.token)
        if attempt is not None:
            attempt.reason = message.reason
            self._cancel(attempt)

    async def stop(self, grace: float = SHUTDOWN_GRACE) -> None:
        """Cancel all attempts, and let go those that have no outcome after `grace` seconds."""
        self._stopping = self.loop.create_future()
        for attempt in [*self._attempts.values()]:
            self._cancel(attempt)
        try:
            if self._attempts:
                await asyncio.wait([self._stopping], timeout=grace)
        finally:
            for attempt in [*self._attempts.values()]:
                name = attempt.task.activity_type
                _log.warning("activity %r did not stop within %g s and is left behind; it will run again", name, grace)
                self._end(attempt, ActivityEvicted(attempt.task.token))
            self._threads.close()
            if self._pool is not None:
                await self._pool.stop()

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call something on the loop, from a thread; nothing happens if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            _log.debug("a thread of an activity outlived its event loop")

    # --- Running ------------------------------------------------------------------------------------
    async def _run(self, attempt: Attempt, args: list[object], kwargs: dict[str, object]) -> None:
        attempt.begun = True
        current_context.set(attempt)
        function: Callable[..., Any] = attempt.definition.function
        try:
            outcome = attempt.returned(await function(*args, **kwargs))
        except BaseException as error:
            outcome = self._ended_by(attempt, error)
        self._end(attempt, outcome)

    async def _run_in_process(self, attempt: Attempt) -> None:
        current_context.set(attempt)
        try:
            outcome = await self._process_pool().run(attempt, attempt.definition)
        except BaseException as error:
            outcome = self._ended_by(attempt, error)
        self._end(attempt, outcome)

    async def _run_intercepted(
        self, around: Chain, attempt: Attempt, args: list[object], kwargs: dict[str, object]
    ) -> None:
        attempt.begun = True
        current_context.set(attempt)
        task = attempt.task
        call = ActivityCall(task.activity_type, args, kwargs, decode_headers(task.header))
        try:
            outcome = attempt.returned(await around(call, partial(self._called, attempt)))
        except BaseException as error:
            outcome = self._ended_by(attempt, error)
        self._end(attempt, outcome)

    async def _called(self, attempt: Attempt, call: ActivityCall) -> object:
        """The function, inside all interceptors."""
        definition = attempt.definition
        function: Callable[..., Any] = definition.function
        if definition.is_async:
            return await function(*call.args, **call.kwargs)
        if definition.executor == "thread":
            return await self._threads.call(partial(function, *call.args, **call.kwargs), lambda: attempt.ended)
        attempt.task = replace(attempt.task, input=definition.signature.encode(call.args, call.kwargs))
        return value_of(definition, await self._process_pool().run(attempt, definition))

    def _ended_by(self, attempt: Attempt, error: BaseException) -> Outcome:
        """The outcome of an attempt that raised. Raises what is none: an interrupt, which ends the loop; or a
        GeneratorExit of a task that was thrown away with its loop, when nobody is there to be told. What raises that in
        a step of the task is the activity's code."""
        if isinstance(error, KeyboardInterrupt):
            self._end(attempt, ActivityEvicted(attempt.task.token))
            raise error
        if isinstance(error, GeneratorExit) and asyncio.current_task(self.loop) is not attempt.running:
            raise error
        return attempt.raised(error)

    def _process_pool(self) -> ProcessPool:
        if self._pool is None:
            from perdure.sdk.activity.pool import ProcessPool

            self._pool = ProcessPool(self._processes)
        return self._pool

    def _run_plain(self, attempt: Attempt, args: list[object], kwargs: dict[str, object]) -> Outcome | BaseException:
        current_context.set(attempt)
        try:
            return attempt.returned(attempt.definition.function(*args, **kwargs))
        except KeyboardInterrupt as error:
            return error
        except BaseException as error:
            return attempt.raised(error)

    def _end_plain(self, attempt: Attempt, outcome: Outcome | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._end(attempt, ActivityEvicted(attempt.task.token))
            raise outcome  # it ends the loop, as it would have from a coroutine
        self._end(attempt, outcome)

    def _cancel(self, attempt: Attempt) -> None:
        attempt.cancelled = True
        if attempt.running is not None:
            attempt.running.cancel()
            never_ran = not attempt.begun  # before its first step, or while it waits for a process
        else:
            never_ran = attempt.job is not None and self._threads.cancel(attempt.job)
        if never_ran:
            token = attempt.task.token
            wanted = attempt.reason != "cancel_requested"
            self._end(attempt, ActivityEvicted(token, begun=False) if wanted else ActivityCancellation(token))

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.ended:
            return
        del self._attempts[attempt.task.token]
        if attempt.unsent and isinstance(outcome, (ActivityFailure, ActivityEvicted, ActivityDetached)):
            attempt.send_beat()  # how far it came, for the next attempt
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.ended = True
        attempt.running = None  # its context holds the attempt: so nothing is left for the garbage collector
        self.send(outcome)
        if self._stopping is not None and not self._attempts and not self._stopping.done():
            self._stopping.set_result(None)

    def _unknown(self, name: str) -> Failure:
        # Retried as any failure is: the next deploy may have it.
        return failure_of(NotFound(unknown_name("this worker", "activity", name, self._activities)))
