"""What a run has asked for, and what of it is still open.

A command that makes something (an activity, a timer, a child) has a live side: the future or timer that ends when
the history says so. The ledger numbers the live sides, and finds them again by the events that record them.

::

    issued → collect() → sent → bind() → open, by event id → resolve / fire / cancel
       └─ cancelled in the same workflow task: dropped, nobody hears of either
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final

from perdure.errors import CodecError, Evicted
from perdure.limits import EVICTION_REFUSALS
from perdure.model import events as e
from perdure.model.commands import (
    CancelTimer,
    Command,
    RequestCancelExternalWorkflow,
    ScheduleActivity,
    SignalExternalWorkflow,
    StartChildWorkflow,
    StartTimer,
)
from perdure.model.payloads import Payload, Payloads
from perdure.model.tasks import RunRef
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions, CancellationType
from perdure.sdk.workflow.child_ids import child_id, child_number
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.displaced import Displaced
from perdure.sdk.workflow.futures import (
    ActivityFuture,
    AnswerFuture,
    ChildFuture,
    Outcome,
    PlainActivityFuture,
    PlainChildFuture,
)
from perdure.sdk.workflow.loop import DeterministicLoop, LoopTask, LoopTimer
from perdure.sdk.workflow.matching import Issued, Pair, Subject, identity, issued_text
from perdure.sdk.workflow.source import user_line

Header = dict[str, Payload] | None
"""What goes with a call, beside its input."""

EVICTED: Final = "evicted"
"""The refusal while a run is taken out of memory."""


class Ledger:
    """The commands and open futures of one run, and its loop.

    Args:
        ref: the run's name; ids of children that are made up begin with it.
    """

    __slots__ = (
        "_activities", "_activity", "_child", "_children", "_dropped", "_issued", "_news", "_open", "_ref",
        "_refusals", "_resolved", "_timers", "displaced", "elapsed", "loop", "refusal", "step",
    )  # fmt: skip

    def __init__(self, ref: RunRef) -> None:
        seed = zlib.crc32(ref.run_id.encode())
        self.loop = DeterministicLoop(self, seed)  # type: ignore[abstract]  # its module refuses the rest
        self.refusal = ""
        """Why nothing may be asked for at present; "" where it may."""
        self.elapsed = 0
        """Microseconds by which the workflow's time is ahead of that of its task, since local activities took them."""
        self.step = 0
        """Which step of the code runs: one begins with each task, and with each outcome of a local activity."""
        self.displaced = Displaced(ref)
        self._ref = ref
        self._issued: list[Issued] = []
        self._dropped = False
        self._open: dict[int, Subject] = {}
        self._activity: type[ActivityFuture] = ActivityFuture
        self._child: type[ChildFuture] = ChildFuture
        self._activities = self._timers = self._children = 0
        self._refusals = 0
        self._news: list[e.HistoryEvent] = []
        self._resolved: set[int] | None = None

    def make_plain(self) -> None:
        """The run is that of a plain function: results are waited for without `await`."""
        self._activity, self._child = PlainActivityFuture, PlainChildFuture

    def begin(self, news: list[e.HistoryEvent], *, replaying: bool) -> None:
        """A workflow task begins, with the events that it delivers."""
        self._news = news
        self._resolved = None
        self.elapsed = 0
        self.step += 1
        self.loop.replaying = replaying

    # --- Asking -----------------------------------------------------------------------------------------
    def issue(self, command: Command, subject: Subject | None = None) -> None:
        """Ask for something, with the live side of it."""
        self._issued.append((command, subject, _line() if self.loop.replaying else ""))

    def check(self, what: str) -> None:
        """Raises RuntimeError where `what` may not be done now, Evicted while the run is torn down."""
        if self.refusal:
            self._refuse(what)

    def schedule(
        self, definition: ActivityDefinition, options: ActivityOptions, payloads: Payloads, header: Header = None
    ) -> ActivityFuture:
        """Ask for an activity."""
        self._activities += 1
        decode = definition.signature.decode_result
        future = self._activity(self, str(self._activities), decode, options.cancellation_type)
        command = ScheduleActivity(
            future.name,
            definition.name,
            options.task_queue,
            payloads,
            options.schedule_to_close_timeout,
            options.schedule_to_start_timeout,
            options.start_to_close_timeout,
            options.heartbeat_timeout,
            options.retry_policy,
            options.priority,
            header,
        )
        self.issue(command, future)
        return future

    def start_child(
        self, definition: WorkflowDefinition, terms: ChildTerms, payloads: Payloads, header: Header = None
    ) -> ChildFuture:
        """Ask for a child workflow."""
        self._children += 1
        id = terms.id or child_id(self._ref.workflow_id, self._ref.run_id, self._children)
        future = self._child(self, id, definition.signature.decode_result, terms.cancellation_type)
        command = StartChildWorkflow(
            id,
            definition.name,
            terms.task_queue or definition.task_queue,
            payloads,
            terms.parent_close_policy,
            terms.execution_timeout,
            terms.run_timeout,
            header,
            terms.task_timeout,
            terms.retry_policy,
            terms.id_reuse_policy,
            terms.memo,
        )
        self.issue(command, future)
        return future

    def send(self, command: SignalExternalWorkflow | RequestCancelExternalWorkflow) -> AnswerFuture:
        """Ask for something to be sent to another workflow."""
        future = AnswerFuture(self, command.workflow_id)
        self.issue(command, future)
        return future

    def start_timer(self, timer: LoopTimer) -> None:
        """Ask for a timer (the loop does)."""
        if self.refusal:
            self._refuse("a timer can't be started")
        self._timers += 1
        timer.name = str(self._timers)
        self.issue(StartTimer(timer.name, timer.duration + self.elapsed), timer)

    def cancel_timer(self, timer: LoopTimer) -> None:
        """A timer is not wanted any more (the loop says so)."""
        self.cancel(timer, CancelTimer(timer.name))

    def forget(self, subject: Subject) -> None:
        """Nobody waits for its end any more; but it is not asked for, unless nobody heard of it."""
        if self.refusal and self.refusal != EVICTED:
            self._refuse("nothing can be cancelled")
        if subject.event_id == 0:
            subject.dropped = self._dropped = True
        self._open.pop(subject.event_id, None)

    def cancel(self, subject: Subject, command: Command, how: CancellationType = "try") -> bool:
        """Something is not wanted any more: ask for its end, unless nobody heard of it or it is over.

        Returns:
            Whether this is the end of it here; False where its own end is to be waited for.
        """
        if self.refusal:
            if self.refusal != EVICTED:
                self._refuse("nothing can be cancelled")
        elif subject.event_id == 0:
            subject.dropped = self._dropped = True
        elif how == "wait":
            if not self._is_over(subject.event_id):
                self.issue(command, subject)
            return False
        elif (
            self._open.pop(subject.event_id, None) is not None and how == "try" and not self._is_over(subject.event_id)
        ):
            self.issue(command, subject)
        return True

    def _refuse(self, what: str) -> None:
        if self.refusal != EVICTED:
            raise RuntimeError(f"{what} in {self.refusal}, which must only read")
        self._refusals += 1
        # Code that catches even this, in a loop, would never end. So in the end it gets what it wants, and waits.
        if self._refusals <= EVICTION_REFUSALS:
            raise Evicted(f"{what}: the workflow is being taken out of memory")

    def _is_over(self, event_id: int) -> bool:
        """Whether this very task's events, perhaps later ones, tell its end."""
        if self._resolved is None:
            endings = ((event, _ENDED.get(type(event))) for event in self._news)
            self._resolved = {ended(event) for event, ended in endings if ended is not None}
        return event_id in self._resolved

    # --- Recording --------------------------------------------------------------------------------------
    def collect(self) -> list[Issued]:
        """What was asked for since the last call, without what was dropped."""
        issued, self._issued = self._issued, []
        if self._dropped:
            self._dropped = False
            issued = [item for item in issued if item[1] is None or not item[1].dropped]
        return issued

    def check_order(self) -> None:
        """Raises NondeterminismError where a command asks for what has lost its recorded place to another call."""
        for item in self._issued:
            self.displaced.check(identity(item, self._ref.workflow_id))

    def asked(self) -> list[str]:
        """What was asked for in this workflow task, for people."""
        return issued_text(self._issued, self._ref.workflow_id)

    def pending(self) -> Iterator[Subject]:
        """The live sides of all that was asked for and has no end yet."""
        yield from self._open.values()
        for _, subject, _ in self._issued:
            if subject is not None and subject.event_id == 0 and not subject.dropped:
                yield subject

    def bind(self, pairs: Iterable[Pair]) -> None:
        """Take over which event records which command; what the history calls it is its name."""
        opened = self._open
        for (_, subject, _), event in pairs:
            if subject is not None and subject.event_id == 0:
                subject.event_id = event.id
                opened[event.id] = subject
                name = _NAMED[type(event)](event)
                if name != subject.name:
                    self._rename(subject, name)

    def _rename(self, subject: Subject, name: str) -> None:
        """A replay that asks in another order: later names must not repeat those of the history."""
        subject.name = name
        if isinstance(subject, ActivityFuture):
            self._activities = max(self._activities, int(name))
        elif isinstance(subject, ChildFuture):
            self._children = max(self._children, child_number(self._ref.workflow_id, name))
        elif isinstance(subject, LoopTimer):
            self._timers = max(self._timers, int(name))

    def release(self) -> None:
        """Let go of what is open: the run is out of memory."""
        self._open.clear()
        self._issued.clear()
        self._news.clear()
        self.loop.release()

    # --- Ending -----------------------------------------------------------------------------------------
    def fire(self, event_id: int) -> None:
        """A timer's time has come."""
        timer = self._open.pop(event_id, None)
        if isinstance(timer, LoopTimer):
            self.loop.fire(timer)

    def answer(self, event_id: int, make: Callable[[], BaseException] | None) -> bool:
        """What was sent to another workflow has arrived, or could not be (`make`). Whether anybody waits for that.

        Nobody waits for the answer to a cancellation of a child, and it must change nothing.
        """
        future = self._open.pop(event_id, None)
        if not isinstance(future, AnswerFuture):
            return False
        if make is None:
            future.set_result(None)
        else:
            future.set_exception(make())
        return True

    def child_started(self, event: e.ChildWorkflowExecutionStarted) -> None:
        """A child exists."""
        child = self._open.get(event.initiated_event_id)
        if isinstance(child, ChildFuture):
            child.run_id = event.run_id

    def complete(self, event_id: int, result: Payload) -> None:
        """An activity or a child has returned. A result that doesn't fit the hint is raised where it is awaited."""
        future = self._open.pop(event_id, None)
        if isinstance(future, Outcome):
            try:
                value = future.decode(result)
            except CodecError:
                raise  # no other worker may have this trouble, so the code must not hear of it
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(value)

    def fail(self, event_id: int, make: Callable[[], BaseException]) -> None:
        """An activity or a child has ended otherwise; `make` is called if anybody is to hear of it."""
        future = self._open.pop(event_id, None)
        if isinstance(future, Outcome):
            future.set_exception(make())

    def stop(self, event_id: int, make: Callable[[], BaseException]) -> None:
        """An activity or a child was cancelled: from here, as `CancelledError`, or by others, which is a failure."""
        future = self._open.get(event_id)
        if isinstance(future, Outcome) and future.asked:
            del self._open[event_id]
            future.stopped()
        else:
            self.fail(event_id, make)


def _line() -> str:
    """The user's line that asks; where a task does nothing but ask, as those of `gather`, the line that made it."""
    line = user_line()
    if not line:
        task = asyncio.current_task()
        line = task.origin if isinstance(task, LoopTask) else ""
    return line


_NAMED: Final[dict[type[Any], Callable[[Any], str]]] = {
    e.ActivityTaskScheduled: attrgetter("activity_id"),
    e.TimerStarted: attrgetter("timer_id"),
    e.StartChildWorkflowExecutionInitiated: attrgetter("workflow_id"),
    e.SignalExternalWorkflowExecutionInitiated: attrgetter("workflow_id"),
    e.RequestCancelExternalWorkflowExecutionInitiated: attrgetter("workflow_id"),
}
"""What the history calls the things that it records the beginning of."""

_ENDED: Final[dict[type[Any], Callable[[Any], int]]] = {
    e.ActivityTaskCompleted: attrgetter("scheduled_event_id"),
    e.ActivityTaskFailed: attrgetter("scheduled_event_id"),
    e.ActivityTaskTimedOut: attrgetter("scheduled_event_id"),
    e.ActivityTaskCanceled: attrgetter("scheduled_event_id"),
    e.TimerFired: attrgetter("started_event_id"),
    e.ChildWorkflowExecutionCompleted: attrgetter("initiated_event_id"),
    e.ChildWorkflowExecutionFailed: attrgetter("initiated_event_id"),
    e.StartChildWorkflowExecutionFailed: attrgetter("initiated_event_id"),
}
"""Events that end something, and what: the event that began it."""
