"""One atomic step of one execution, while it is being decided.

A decision reads `execution.state` and adds events and records; each is folded into the state at once, so
that what follows sees it. What was added becomes one part of one journal row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from perdure.engine.core.deadlines import ACTIVITY, OUTBOX, RUN_KEY, SCHEDULE_KEY, TASK_KEY, TIMER, Key
from perdure.engine.core.deduplication import dedup_id
from perdure.engine.core.effects import ActivityOffer, Effect, OfferWorkflowTask
from perdure.engine.core.evolve import evolve_event, evolve_record
from perdure.engine.core.execution import Execution
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.journal import encode_event
from perdure.model.requests import Request
from perdure.model.state import State


class Transition(Struct, eq=False):
    """Records, effects and the reply of one decision. Nothing here has left the engine yet.

    now: microseconds since the epoch; workflow time never goes back, whatever the machine's clock does.
    next_id: that of the next event.
    listed: what listings show has changed.
    offers: attempts that may start. Where a worker has a free slot, they are started in this very transition
    (`decisions.activities.start`), which the node then goes on with; else they join the backlog.
    """

    execution: Execution
    now: int
    next_id: int = 0
    events: list[e.HistoryEvent] = []
    encoded: list[bytes] = []
    private: list[tuple[int, r.PrivateRecord]] = []
    effects: list[Effect] = []
    offers: list[ActivityOffer] = []
    dedup: tuple[str, ...] = ()
    listed: bool = False
    reply: object = None
    state: State = cast(State, None)  # that of the execution, see below

    def __post_init__(self) -> None:
        self.state = state = self.execution.state
        self.next_id = state.last_event_id + 1
        if state.last_time > self.now:
            self.now = state.last_time

    @property
    def changed(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.encoded or self.private)

    def add(self, event: e.HistoryEvent) -> None:
        """The next event of the history."""
        encoded = encode_event(event)
        evolve_event(self.state, event, encoded)
        self.next_id = event.id + 1
        self.events.append(event)
        self.encoded.append(encoded)
        watch = WATCHED_EVENTS.get(type(event))
        if watch is not None and (key := watch(event)) is not None:
            self.execution.deadlines.watch(key)

    def note(self, record: r.PrivateRecord) -> None:
        """A private record."""
        evolve_record(self.state, record)
        self.private.append((len(self.encoded), record))
        watch = WATCHED_RECORDS.get(type(record))
        if watch is not None:
            self.execution.deadlines.watch(watch(record))

    def arrive(self, event: e.HistoryEvent) -> None:
        """Something from outside: into the history, or into the buffer while a worker has the task.

        The event was made for this call, with the id 0: its id and time are set here.
        """
        if self.execution.taken is None:
            if self.state.buffered:
                self.flush()  # what waited for a task that was lost with its process goes first
            force_setattr(event, "id", self.next_id)
            force_setattr(event, "time", self.now)
            self.add(event)
        else:
            self.note(r.InputBuffered(event))

    def remember(self, request: Request[object]) -> None:
        """A repetition of this request, which has a request id or not, has no effect."""
        if id := dedup_id(request):
            self.dedup += (id,)

    def flush(self) -> bool:
        """Let what was buffered enter the history; whether there was anything."""
        state = self.state
        if not state.buffered:
            return False
        buffered, fired, before = list(state.buffered), set(state.ended_timers), len(self.events)
        self.note(r.BufferFlushed())
        begun: dict[int, int] = {}  # where the started events landed, by what they started
        for event in buffered:
            if isinstance(event, e.TimerFired) and event.timer_id not in fired:
                continue  # it was cancelled meanwhile
            # It arrived at its own time, but the task that it waited for may have been answered later.
            id, time = self.next_id, max(event.time, state.last_time)
            if isinstance(event, e.ActivityTaskStarted):
                begun[event.scheduled_event_id] = id
            elif isinstance(event, e.ChildWorkflowExecutionStarted):
                begun[event.initiated_event_id] = id
            elif getattr(event, "started_event_id", None) == 0:
                origin = getattr(event, "scheduled_event_id", 0) or getattr(event, "initiated_event_id", 0)
                self.add(replace(event, id=id, time=time, started_event_id=begun.get(origin, 0)))
                continue
            self.add(replace(event, id=id, time=time))
        self.now = max(self.now, state.last_time)
        return len(self.events) > before

    def schedule_task(self, *, at_once: bool = False) -> None:
        """There is news for the code: see that there is a workflow task. At most one is open.

        While a worker has one, the news is in the buffer, and the next task begins when that one is over. The first
        one waits for the start's delay, or (at_once) does not wait any more.
        """
        state = self.state
        if (state.start_at > self.now and not at_once) or state.schedule is not None:
            return
        if state.task is None and self.execution.taken is None and state.status == "Running" and not state.held:
            self.add(e.WorkflowTaskScheduled(self.next_id, self.now, self.state.started.task_queue))
            self.effects.append(OfferWorkflowTask())


def _run(_: object) -> Key:
    return RUN_KEY


def _schedule(_: object) -> Key:
    return SCHEDULE_KEY


def _task(_: object) -> Key:
    return TASK_KEY


def _activity(record: Any) -> Key:
    return ACTIVITY, record.scheduled_event_id, ""


def _scheduled(event: e.ActivityTaskScheduled) -> Key | None:
    limited = event.schedule_to_close_timeout or event.schedule_to_start_timeout
    return (ACTIVITY, event.id, "") if limited else None


def _timer(event: e.TimerStarted) -> Key:
    return TIMER, event.id, event.timer_id


def _entry(record: Any) -> Key:
    return OUTBOX, record.entry_id, ""


WATCHED_EVENTS: Final[dict[type[e.Event], Callable[[Any], Key | None]]] = {
    e.WorkflowExecutionStarted: _run,
    e.ActivityTaskScheduled: _scheduled,
    e.TimerStarted: _timer,
    e.WorkflowExecutionCompleted: _run,
    e.WorkflowExecutionFailed: _run,
    e.WorkflowExecutionTimedOut: _run,
    e.WorkflowExecutionCanceled: _run,
    e.WorkflowExecutionTerminated: _run,
    e.WorkflowExecutionContinuedAsNew: _run,
}
"""Events that make a deadline; None: this one doesn't."""

WATCHED_RECORDS: Final[dict[type[r.Record], Callable[[Any], Key]]] = {
    r.ActivityAttemptStarted: _activity,
    r.ActivityAttemptFailed: _activity,
    r.ActivityAttemptDue: _activity,
    r.ActivityReleased: _activity,
    r.ActivityUnpaused: _activity,
    r.ActivityReset: _activity,
    r.ActivityOptionsChanged: _activity,
    r.HeartbeatRecorded: _activity,
    r.WorkflowTaskAttemptFailed: _task,
    r.OutboxAdded: _entry,
    r.OutboxDelayed: _entry,
    r.OutboxSettled: _run,
    r.ScheduleDefined: _schedule,
    r.ScheduleCarried: _schedule,
    r.ScheduleAdvanced: _schedule,
    r.ScheduleActed: _schedule,
    r.ScheduleSkipped: _schedule,
    r.BackfillAdded: _schedule,
    r.BackfillAdvanced: _schedule,
    r.RunResumed: _schedule,
}
"""Private records that make a deadline."""
