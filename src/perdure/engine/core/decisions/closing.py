"""The end of a run, whatever brings it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from perdure.engine.core.effects import CancelAttempt, RunClosed, Send, UpdateProgressed
from perdure.engine.core.queries import CLOSED
from perdure.engine.core.refusals import in_words
from perdure.engine.core.transition import Transition
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure, FailureKind
from perdure.model.requests import Status, UpdateOutcome
from perdure.model.state import State
from perdure.model.tasks import ActivityToken

CUT_OFF: Final[dict[Status, FailureKind]] = {
    "TimedOut": "timeout",
    "Canceled": "cancelled",
    "Terminated": "terminated",
}
"""Ends that are no failure of the code's own."""


def close(
    tx: Transition, event: e.HistoryEvent, *, spared: Collection[r.ChildInherited] = (), left: Collection[str] = ()
) -> None:
    """End the run with this event (its id is set here), and let go of all that it had going, but for what is another
    run's from now on.

    Where the code closes the run, what it didn't wait for may be in the buffer (messages are not: see
    `workflow_tasks.unseen`). It came too late, and stays there: only the commands' events follow a task.

    Args:
        spared: children that are that run's (see `children_of`).
        left: open updates that are that run's.
    """
    execution, state = tx.execution, tx.state
    tx.offers.clear()
    for activity in state.activities.values():
        if activity.status == "started":
            token = ActivityToken(execution.ref, activity.event.id, activity.attempt)
            tx.effects.append(CancelAttempt(activity.worker, token, "closed"))
    for update_id in (*state.admitted, *state.accepted):
        if update_id not in left:
            tx.effects.append(UpdateProgressed(UpdateOutcome(update_id, "rejected", None, CLOSED)))
    ending = [child for child in children_of(state) if child not in spared]
    execution.give_back()
    execution.beats.clear()
    tx.add(replace(event, id=tx.next_id, time=tx.now))
    for child in ending:
        policy = child.parent_close_policy
        if policy != "abandon":  # it may be in a later run than the one that is known here
            parent = e.ParentRef(state.namespace, state.workflow_id, child.begun_by, child.initiated_event_id)
            send(tx, 0, r.OutboxCancel(child.workflow_id, "", policy == "terminate", parent))
    report_to_parent(tx)
    tx.listed = True
    tx.effects.append(RunClosed())


def children_of(state: State) -> tuple[r.ChildInherited, ...]:
    """All children that have not ended, those that earlier runs began and the run's own, as another run may have
    them."""
    run_id = state.started.run_id
    own = [
        r.ChildInherited(child.event.workflow_id, child.begun_by or run_id, child.event.parent_close_policy, id)
        for id, child in state.children.items()
    ]
    return (*state.inherited.values(), *own)


def parent_of(state: State, initiated_event_id: int) -> e.ParentRef:
    """What a child knows its parent by: the run that asked for it, which may be the one that this one is a copy of."""
    child = state.children.get(initiated_event_id)
    run_id = child.begun_by if child is not None and child.begun_by else state.started.run_id
    return e.ParentRef(state.namespace, state.workflow_id, run_id, initiated_event_id)


def send(tx: Transition, event_id: int, message: r.Outgoing, since: int = 0) -> None:
    """Put something for another execution into the outbox; its delivery begins after the commit, or when the child that
    it is for has begun.

    since: when it was sent first, where another run may have done so: it is given up as that is.
    """
    entry_id = tx.state.next_entry_id
    tx.note(r.OutboxAdded(entry_id, event_id, message, since or tx.now))
    if tx.execution.starting.add(entry_id, message):
        tx.effects.append(Send(entry_id, message))


def failure_for_parent(state: State) -> Failure | None:
    """What a parent is told that its child, which has ended, has failed with; None: it was completed."""
    kind = CUT_OFF.get(state.status)
    if kind is None:
        return state.failure
    reason = f": {state.failure.message}" if state.failure is not None and state.failure.message else ""
    return Failure(f"child workflow {state.workflow_id!r} was {in_words(state.status)}{reason}", kind=kind)


def report_to_parent(tx: Transition) -> None:
    """A child tells its parent how it ended, and what a schedule has started tells that."""
    state, parent = tx.state, tx.state.started.parent
    if state.new_run_id:
        return  # the last run of the chain tells
    report_to_schedule(tx)
    if parent is not None:
        send(tx, 0, r.OutboxReport(parent, state.started.run_id, state.result, failure_for_parent(state)))


def report_to_schedule(tx: Transition) -> None:
    """What a schedule has started tells it how it ended; or that it runs, where it had ended before."""
    state = tx.state
    run_id, by = state.started.run_id, state.started.scheduled_by
    if by is not None:
        send(tx, 0, r.OutboxScheduleReport(by, run_id, state.status, state.result, state.failure))
