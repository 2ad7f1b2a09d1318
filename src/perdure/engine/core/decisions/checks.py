"""Whether a workflow task's commands can be carried out. Checked as a whole, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from perdure.engine.core.refusals import refusal
from perdure.engine.core.retries import wrong_policy
from perdure.errors import InvalidRequest, LimitExceeded
from perdure.limits import (
    MAX_COMMANDS,
    MAX_DURATION,
    MAX_ID_LENGTH,
    MAX_PENDING_ACTIVITIES,
    MAX_PENDING_CHILDREN,
    MAX_PENDING_MESSAGES,
    MAX_PENDING_TIMERS,
    MAX_PRIORITY,
)
from perdure.model import commands as c
from perdure.model.failures import Failure
from perdure.model.shapes import check_quickly
from perdure.model.state import State

CLOSING: Final[frozenset[type[Any]]] = frozenset(
    {c.CompleteWorkflow, c.FailWorkflow, c.CancelWorkflow, c.ContinueAsNew}
)
"""Commands that end a run."""


ACTIVITY: Final = "activity"
TIMER: Final = "timer"
OVER_TIMER: Final = "over timer"
ANSWERED: Final = "answered update"
ACCEPTED: Final = "accepted update"
COMPLETED: Final = "completed update"


def check(state: State, commands: Sequence[c.Command]) -> Failure | None:
    """Why the commands can't be carried out; None if they can."""
    if too_many := _too_many(state, commands):
        return refusal(LimitExceeded(f"{too_many}: let the code wait for some of them before it asks for more"))
    wrong = _first_wrong(state, commands)
    return refusal(InvalidRequest(wrong)) if wrong else None


def _too_many(state: State, commands: Sequence[c.Command]) -> str:
    if len(commands) > MAX_COMMANDS:
        return f"{len(commands)} commands at once; limits.MAX_COMMANDS is {MAX_COMMANDS}"
    count = len(commands)
    sent = len(state.signals_sent) + len(state.cancels_sent)
    children = len(state.children) + len(state.inherited)
    if (
        len(state.activities) + count <= MAX_PENDING_ACTIVITIES
        and len(state.timers) + count <= MAX_PENDING_TIMERS
        and children + count <= MAX_PENDING_CHILDREN
        and sent + count <= MAX_PENDING_MESSAGES
    ):
        return ""  # as nearly always, whatever the commands are
    counts = Counter[type](map(type, commands))
    counts[c.SignalExternalWorkflow] += counts[c.RequestCancelExternalWorkflow]
    for kind, pending, limit, name in (
        (c.ScheduleActivity, len(state.activities), MAX_PENDING_ACTIVITIES, "MAX_PENDING_ACTIVITIES"),
        (c.StartTimer, len(state.timers), MAX_PENDING_TIMERS, "MAX_PENDING_TIMERS"),
        (c.StartChildWorkflow, children, MAX_PENDING_CHILDREN, "MAX_PENDING_CHILDREN"),
        (c.SignalExternalWorkflow, sent, MAX_PENDING_MESSAGES, "MAX_PENDING_MESSAGES"),
    ):
        if pending + counts[kind] > limit:
            return f"{pending + counts[kind]} would be pending; limits.{name} is {limit}"
    return ""


def _first_wrong(state: State, commands: Sequence[c.Command]) -> str:
    ahead = Ahead(state)
    for index, command in enumerate(commands, 1):
        try:
            check_quickly(command)
        except InvalidRequest as error:
            wrong = str(error)
        else:
            check = CHECKS.get(type(command))
            wrong = check(ahead, command) if check is not None else ""
        if type(command) in CLOSING and index != len(commands):
            wrong = "it ends the run, but is not the last"
        if wrong:
            return f"command {index} of {len(commands)}, {type(command).__name__}: {wrong}"
    return ""


class Ahead:
    """What there will be when the commands before have been carried out, as far as ids go.

    ids: of what those commands made or ended, each with its kind.
    """

    __slots__ = ("_state", "ids")

    def __init__(self, state: State) -> None:
        self._state = state
        self.ids: set[tuple[str, str]] = set()

    def schedule_activity(self, command: c.ScheduleActivity) -> str:
        """A new id, and durations that make sense."""
        if self._knows_activity(command.activity_id):
            return f"an activity with the id {command.activity_id!r} is pending"
        self.ids.add((ACTIVITY, command.activity_id))
        timeouts = (
            command.schedule_to_close_timeout,
            command.schedule_to_start_timeout,
            command.start_to_close_timeout,
            command.heartbeat_timeout,
        )
        for timeout in timeouts if any(timeouts) else ():
            if not 0 <= timeout <= MAX_DURATION:
                return f"timeouts must be between 0 and {MAX_DURATION} microseconds, not {timeout}"
        if not -MAX_PRIORITY <= command.priority <= MAX_PRIORITY:
            return (
                f"priority must be between {-MAX_PRIORITY} and {MAX_PRIORITY} (limits.MAX_PRIORITY), "
                f"not {command.priority}"
            )
        return wrong_policy(command.retry_policy)

    def cancel_activity(self, command: c.RequestCancelActivity) -> str:
        """One that is pending, or ended without the code's knowing."""
        if self._knows_activity(command.activity_id):
            return ""
        return f"there is no pending activity with the id {command.activity_id!r}"

    def _knows_activity(self, name: str) -> bool:
        state = self._state
        return name in state.activity_ids or name in state.ended_ids or (ACTIVITY, name) in self.ids

    def start_timer(self, command: c.StartTimer) -> str:
        """A new id, and a duration that makes sense."""
        if self._knows_timer(command.timer_id):
            return f"a timer with the id {command.timer_id!r} is running"
        self.ids.discard((OVER_TIMER, command.timer_id))
        self.ids.add((TIMER, command.timer_id))
        if command.duration > MAX_DURATION:
            return f"a timer's duration must be at most {MAX_DURATION} microseconds, not {command.duration}"
        return ""

    def cancel_timer(self, command: c.CancelTimer) -> str:
        """One that is running, or fired without the code's knowing."""
        name = command.timer_id
        if not self._knows_timer(name):
            return f"there is no running timer with the id {name!r}"
        self.ids.discard((TIMER, name))
        self.ids.add((OVER_TIMER, name))
        return ""

    def _knows_timer(self, name: str) -> bool:
        if (TIMER, name) in self.ids:
            return True
        return started_timer(self._state, name) > 0 and (OVER_TIMER, name) not in self.ids

    def answer_update(self, command: c.AcceptUpdate | c.RejectUpdate) -> str:
        """One that waits for its validator."""
        id = command.update_id
        if id not in self._state.admitted or (ANSWERED, id) in self.ids:
            return f"no update with the id {id!r} waits for an answer"
        self.ids.add((ANSWERED, id))
        if isinstance(command, c.AcceptUpdate):
            self.ids.add((ACCEPTED, id))
        return ""

    def complete_update(self, command: c.CompleteUpdate) -> str:
        """One whose handler runs, with one outcome."""
        id = command.update_id
        if (id not in self._state.accepted and (ACCEPTED, id) not in self.ids) or (COMPLETED, id) in self.ids:
            return f"no update with the id {id!r} was accepted"
        self.ids.add((COMPLETED, id))
        if (command.result is None) == (command.failure is None):
            return "exactly one of result and failure must be set"
        return ""

    def record_marker(self, command: c.RecordMarker) -> str:
        """A name, by which a replay finds it."""
        if not 0 < len(command.marker_name) <= MAX_ID_LENGTH:
            return f"marker_name must have between 1 and {MAX_ID_LENGTH} characters, not {len(command.marker_name)}"
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
    c.RecordMarker: Ahead.record_marker,
}
"""What each command needs; the others can always be carried out."""
