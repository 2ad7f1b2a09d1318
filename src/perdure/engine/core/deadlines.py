"""When a run next needs attention: its timers, timeouts, retries, and what it has to send.

A lazy heap: every change pushes the deadline it makes, and nothing is searched for or removed. An entry
holds only if the thing it names still has that deadline; else it is dropped, or moved to where the deadline
is now, when it comes up. So no transition does work that grows with what is pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from perdure.limits import MAX_SCHEDULE_BUFFER, OUTBOX_RETRY_INITIAL, SCHEDULE_STARTS
from perdure.model.payloads import Payloads
from perdure.model.schedules import ScheduleState
from perdure.model.state import PendingActivity, State

RUN: Final = 0
TASK: Final = 1
ACTIVITY: Final = 2
TIMER: Final = 3
OUTBOX: Final = 4
SCHEDULE: Final = 5

Stalls = Sequence[tuple[int, int]]
"""Intervals (start, end) in which the node itself could not read or commit."""


Key = tuple[int, int, str]
"""What a deadline belongs to: one of the constants above, and the id within it; for a timer, the event that started
it (so that timers of one time fire in the order in which they were started) and its name. Plain tuples: each step
makes some."""

RUN_KEY: Final[Key] = (RUN, 0, "")
TASK_KEY: Final[Key] = (TASK, 0, "")
SCHEDULE_KEY: Final[Key] = (SCHEDULE, 0, "")


class Beat(NamedTuple):
    """A heartbeat that only memory knows."""

    time: int
    details: Payloads


UNLIMITED: Final = (0, 0, 0, 0)


def limits_of(activity: PendingActivity) -> tuple[int, int, int, int]:
    """The timeouts in force for an activity, microseconds, 0: none. What was asked for when it was scheduled, or by
    the last release.

    Returns:
        schedule_to_close, schedule_to_start, start_to_close, heartbeat.
    """
    event = activity.event
    return (
        event.schedule_to_close_timeout
        if activity.schedule_to_close_timeout is None
        else activity.schedule_to_close_timeout,
        event.schedule_to_start_timeout
        if activity.schedule_to_start_timeout is None
        else activity.schedule_to_start_timeout,
        event.start_to_close_timeout if activity.start_to_close_timeout is None else activity.start_to_close_timeout,
        event.heartbeat_timeout if activity.heartbeat_timeout is None else activity.heartbeat_timeout,
    )


def activity_deadline(
    activity: PendingActivity, beat: Beat | None = None, stalls: Stalls = (), *, paused: bool = False
) -> tuple[int, str]:
    """When an activity next needs attention, and why; (0, "") if it doesn't.

    The reason is the name of a timeout, or "retry". `beat` is a heartbeat that is not in the state yet. What
    measures whether workers do their part is extended by the node's own stalls, and stands still while the run is
    paused, or the activity itself.
    """
    status = activity.status
    if status == "held":
        return 0, ""
    schedule_to_close, schedule_to_start, start_to_close, heartbeat = limits = limits_of(activity)
    if limits == UNLIMITED and status != "backing_off":
        return 0, ""
    best, reason = 0, ""
    if status == "backing_off":
        best, reason = activity.next_attempt_at, "retry"
    elif status == "scheduled":
        if schedule_to_start and not (paused or activity.paused):
            best, reason = _extended(activity.queued_at, schedule_to_start, stalls), "schedule_to_start"
    else:
        if start_to_close:
            best, reason = _extended(activity.started_at, start_to_close, stalls), "start_to_close"
        if heartbeat:
            alive_at = max(activity.heartbeat_at, beat.time if beat is not None else 0)
            silent = _extended(alive_at, heartbeat, stalls)
            if not best or silent < best:
                best, reason = silent, "heartbeat"
    if schedule_to_close:
        end = activity.event.time + schedule_to_close + activity.held_for
        if not best or end <= best:
            best, reason = end, "schedule_to_close"
    return best, reason


def _extended(since: int, timeout: int, stalls: Stalls) -> int:
    """When a timeout that began at `since` is over, if the clock stood still in our own stalls."""
    deadline = since + timeout
    for begin, end in sorted(stalls):
        if begin < deadline and end > since:
            deadline += end - max(begin, since)
    return deadline


def run_deadline(state: State) -> int:
    """When the run's time is over; 0: never."""
    started = state.started
    chain = execution_deadline(state)
    ends = [chain] if chain else []
    if started.run_timeout:
        begun = state.forked_at or started.time + started.first_workflow_task_backoff
        ends.append(begun + started.run_timeout)
    return min(ends, default=0)


def execution_deadline(state: State) -> int:
    """When the time of the whole chain is over; 0: never. A reset gives it as much again as the run had."""
    deadline = state.started.execution_deadline
    return deadline + (state.forked_at - state.started.time if state.forked_at else 0) if deadline else 0


def schedule_has_room(state: State) -> bool:
    """Whether a schedule may send more starts on their way."""
    return len(state.outbox) < SCHEDULE_STARTS


def buffer_has_room(schedule: ScheduleState) -> bool:
    """Whether more starts of a schedule may wait for those before them."""
    return len(schedule.buffer) < MAX_SCHEDULE_BUFFER


def schedule_deadline(state: State) -> int:
    """When a schedule next has something to start; 0: never, or not before something else has happened."""
    schedule = state.schedule
    if schedule is None or not schedule_has_room(state):
        return 0
    times: list[int] = []
    if state.paused is None and schedule.remaining != 0 and schedule.next_at:
        times.append(schedule.next_at)
    if schedule.backfills and buffer_has_room(schedule):  # a backfill waits rather than lose a start
        times.append(schedule.backfills[0].asked_at)
    return min(times, default=0)


class Deadlines:
    """The deadlines of one run, kept beside its state.

    stalls: intervals in which the node itself could not work, as far as they are known; they extend deadlines.
    """

    __slots__ = ("_beats", "_heap", "_state", "retention", "stalls")

    def __init__(self, state: State, beats: Mapping[int, Beat], retention: int) -> None:
        self._state = state
        self._beats = beats
        self.retention = retention
        self.stalls: Stalls = ()
        self._heap: list[tuple[int, Key]] = []
        self._rebuild()

    def _rebuild(self) -> None:
        state = self._state
        keys = [RUN_KEY, TASK_KEY, SCHEDULE_KEY]
        keys += [(ACTIVITY, id, "") for id in state.activities]
        keys += [(TIMER, timer.id, name) for name, timer in state.timers.items()]
        keys += [(OUTBOX, id, "") for id in state.outbox]
        self._heap = [(at, key) for key in keys if (at := self.at(key))]
        heapify(self._heap)

    def at(self, key: Key) -> int:
        """The deadline of one thing; 0: none (any more)."""
        state = self._state
        kind, id, name = key
        if kind == ACTIVITY:
            activity = state.activities.get(id)
            if activity is None:
                return 0
            return activity_deadline(activity, self._beats.get(id), self.stalls, paused=state.paused is not None)[0]
        if kind == TIMER:
            timer = state.timers.get(name)
            return timer.fire_at if timer is not None and timer.id == id else 0
        if kind == OUTBOX:
            entry = state.outbox.get(id)
            if entry is None:
                return 0
            return entry.next_attempt_at or entry.added.time + OUTBOX_RETRY_INITIAL
        if kind == TASK:
            return state.task.next_attempt_at if state.task is not None else state.start_at
        if state.status != "Running":
            if kind == SCHEDULE or state.outbox:
                return 0
            # A schedule that goes on in another run needs the last one no more.
            rolled_over = state.schedule is not None and state.status == "ContinuedAsNew"
            return state.close_time + (0 if rolled_over else self.retention)
        if kind == SCHEDULE:
            return schedule_deadline(state)
        return run_deadline(state)

    def extend(self, stalls: Stalls) -> None:
        """What is known of the node's stalls; where that has changed, any deadline may have."""
        if stalls != self.stalls:
            self.stalls = stalls
            self._rebuild()

    def watch(self, key: Key) -> None:
        """Something changed that may have made a deadline."""
        at = self.at(key)
        if at:
            heappush(self._heap, (at, key))
            if len(self._heap) > 64 and len(self._heap) > 4 * self._pending():
                self._rebuild()

    def _pending(self) -> int:
        state = self._state
        return len(state.activities) + len(state.timers) + len(state.outbox) + 16

    def next(self) -> int:
        """The earliest deadline of all; 0: none."""
        heap = self._heap
        while heap:
            at, key = heap[0]
            actual = self.at(key)
            if actual == at:
                return at
            heappop(heap)
            if actual:
                heappush(heap, (actual, key))
        return 0

    def due(self, now: int) -> list[Key]:
        """What is due, the longest due first. What isn't acted on must be watched again."""
        due: dict[Key, None] = {}
        while (at := self.next()) and at <= now:
            due[heappop(self._heap)[1]] = None
        return list(due)
