"""Whether a workflow task's commands can be carried out. Checked as a whole, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from perdure.engine.core.retries import wrong_policy
from perdure.limits import (
    MAX_COMMANDS,
    MAX_DURATION,
    MAX_PENDING_ACTIVITIES,
    MAX_PENDING_CHILDREN,
    MAX_PENDING_TIMERS,
)
from perdure.model import commands as c
from perdure.model.failures import Failure
from perdure.model.state import State

CLOSING: Final[frozenset[type[Any]]] = frozenset(
    {c.CompleteWorkflow, c.FailWorkflow, c.CancelWorkflow, c.ContinueAsNew}
)
"""Commands that end a run."""


def check(state: State, commands: Sequence[c.Command]) -> Failure | None:
    """Why the commands can't be carried out; None if they can."""
    wrong = _too_many(state, commands) or _first_wrong(state, commands)
    return Failure(wrong, kind="engine") if wrong else None


def _too_many(state: State, commands: Sequence[c.Command]) -> str:
    if len(commands) > MAX_COMMANDS:
        return f"{len(commands)} commands at once; limits.MAX_COMMANDS is {MAX_COMMANDS}"
    pending = max(len(state.activities), len(state.timers), len(state.children))
    if pending + len(commands) <= min(MAX_PENDING_ACTIVITIES, MAX_PENDING_TIMERS, MAX_PENDING_CHILDREN):
        return ""  # as nearly always, whatever the commands are
    counts = Counter[type](map(type, commands))
    for kind, pending, limit, name in (
        (c.ScheduleActivity, len(state.activities), MAX_PENDING_ACTIVITIES, "MAX_PENDING_ACTIVITIES"),
        (c.StartTimer, len(state.timers), MAX_PENDING_TIMERS, "MAX_PENDING_TIMERS"),
        (c.StartChildWorkflow, len(state.children), MAX_PENDING_CHILDREN, "MAX_PENDING_CHILDREN"),
    ):
        if pending + counts[kind] > limit:
            return f"{pending + counts[kind]} would be pending; limits.{name} is {limit}"
    return ""


def _first_wrong(state: State, commands: Sequence[c.Command]) -> str:
    ahead = Ahead(state)
    for index, command in enumerate(commands, 1):
        check = CHECKS.get(type(command))
        wrong = check(ahead, command) if check is not None else ""
        if type(command) in CLOSING and index != len(commands):
            wrong = "it ends the run, but is not the last"
        if wrong:
            return f"command {index} of {len(commands)}, {type(command).__name__}: {wrong}"
    return ""


class Ahead:
    """What there will be when the commands before have been carried out, as far as ids go."""

    __slots__ = ("_state", "activities", "answered", "open_updates", "over_timers", "timers")

    def __init__(self, state: State) -> None:
        self._state = state
        self.activities: set[str] = set()
        self.timers: set[str] = set()
        self.over_timers: set[str] = set()
        self.answered: set[str] = set()
        self.open_updates = set(state.accepted)

    def schedule_activity(self, command: c.ScheduleActivity) -> str:
        """A new id, and durations that make sense."""
        if self._knows_activity(command.activity_id):
            return f"an activity with the id {command.activity_id!r} is pending"
        self.activities.add(command.activity_id)
        for timeout in (
            command.schedule_to_close_timeout,
            command.schedule_to_start_timeout,
            command.start_to_close_timeout,
            command.heartbeat_timeout,
        ):
            if not 0 <= timeout <= MAX_DURATION:
                return f"timeouts must be between 0 and {MAX_DURATION} microseconds, not {timeout}"
        return wrong_policy(command.retry_policy)

    def cancel_activity(self, command: c.RequestCancelActivity) -> str:
        """One that is pending, or ended without the code's knowing."""
        if self._knows_activity(command.activity_id):
            return ""
        return f"there is no pending activity with the id {command.activity_id!r}"

    def _knows_activity(self, name: str) -> bool:
        state = self._state
        return name in self.activities or name in state.activity_ids or name in state.ended_ids

    def start_timer(self, command: c.StartTimer) -> str:
        """A new id, and a duration that makes sense."""
        if self._knows_timer(command.timer_id):
            return f"a timer with the id {command.timer_id!r} is running"
        self.timers.add(command.timer_id)
        if command.duration > MAX_DURATION:
            return f"a timer's duration must be at most {MAX_DURATION} microseconds, not {command.duration}"
        return ""

    def cancel_timer(self, command: c.CancelTimer) -> str:
        """One that is running, or fired without the code's knowing."""
        name = command.timer_id
        if not self._knows_timer(name):
            return f"there is no running timer with the id {name!r}"
        self.timers.discard(name)
        self.over_timers.add(name)
        return ""

    def _knows_timer(self, name: str) -> bool:
        if name in self.timers:
            return True
        return name not in self.over_timers and started_timer(self._state, name) > 0

    def answer_update(self, command: c.AcceptUpdate | c.RejectUpdate) -> str:
        """One that waits for its validator."""
        if command.update_id not in self._state.admitted or command.update_id in self.answered:
            return f"no update with the id {command.update_id!r} waits for an answer"
        self.answered.add(command.update_id)
        if isinstance(command, c.AcceptUpdate):
            self.open_updates.add(command.update_id)
        return ""

    def complete_update(self, command: c.CompleteUpdate) -> str:
        """One whose handler runs, with one outcome."""
        if command.update_id not in self.open_updates:
            return f"no update with the id {command.update_id!r} was accepted"
        self.open_updates.discard(command.update_id)
        if (command.result is None) == (command.failure is None):
            return "exactly one of result and failure must be set"
        return ""


def started_timer(state: State, name: str) -> int:
    """The event that started a timer, which runs or has fired without the code's knowing; 0: there is none."""
    timer = state.timers.get(name)
    return timer.id if timer is not None else state.ended_timers.get(name, 0)


CHECKS: Final[dict[type[Any], Callable[[Ahead, Any], str]]] = {
    c.ScheduleActivity: Ahead.schedule_activity,
    c.RequestCancelActivity: Ahead.cancel_activity,
    c.StartTimer: Ahead.start_timer,
    c.CancelTimer: Ahead.cancel_timer,
    c.AcceptUpdate: Ahead.answer_update,
    c.RejectUpdate: Ahead.answer_update,
    c.CompleteUpdate: Ahead.complete_update,
}
"""What each command needs; the others can always be carried out."""
