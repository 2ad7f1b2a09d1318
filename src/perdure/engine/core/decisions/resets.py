"""Resets: another run begins with the history that one had up to a workflow task, and that task is run again.

::

    base:   1 … started (completed …)            what came after: signals, updates, what became of children
    new:    1 … started, failed (reset), ◀────── those again, WorkflowTaskScheduled

What was pending at that point is pending again: activities are handed out anew, timers keep their times, children that
were asked for are the new run's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from perdure.engine.core.decisions.activities import offer
from perdure.engine.core.decisions.closing import close, send
from perdure.engine.core.effects import EvictCopy
from perdure.engine.core.evolve import begin
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import RunWasReset
from perdure.engine.core.queries import CLOSED
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest
from perdure.limits import MAX_REMEMBERED_UPDATES
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.journal import encode_event
from perdure.model.requests import ResetPoint, ResetWorkflow, Started
from perdure.model.state import FinishedUpdate, OutboxEntry, State

SHOWN: Final = 10
"""Workflow tasks that are named to somebody who has named none."""

ChildEvent = (
    e.ChildWorkflowExecutionStarted
    | e.StartChildWorkflowExecutionFailed
    | e.ChildWorkflowExecutionCompleted
    | e.ChildWorkflowExecutionFailed
)
Outcome = e.WorkflowTaskCompleted | e.WorkflowTaskFailed | e.WorkflowTaskTimedOut


def point_of(events: Sequence[e.HistoryEvent], event_id: int, to: ResetPoint) -> int:
    """The last event that a reset keeps: the start of the workflow task that is run again.

    Args:
        events: a whole history.
        event_id: of that workflow task's started, completed, failed or timed out event; 0: `to` says which task.

    Raises:
        InvalidRequest: there is no such task; the message says which there are.
    """
    if bool(event_id) == bool(to):
        raise InvalidRequest("a reset needs either the event_id of a workflow task, or to='first' or 'last'")
    tasks = [event.started_event_id for event in events if isinstance(event, e.WorkflowTaskCompleted)]
    if to:
        if not tasks:
            raise InvalidRequest(f"there is no {to} workflow task to reset to: none was completed yet")
        return tasks[0 if to == "first" else -1]
    event = events[event_id - 1] if 0 < event_id <= len(events) else None
    if isinstance(event, e.WorkflowTaskStarted):
        return event.id
    if isinstance(event, Outcome):
        return event.started_event_id
    what = f"a {type(event).__name__}" if event is not None else f"none of its {len(events)} events"
    shown = ", ".join(str(started + 1) for started in tasks[-SHOWN:]) or "none yet"
    raise InvalidRequest(
        f"a run is reset to a workflow task, but event {event_id} is {what}; workflow tasks were completed by: {shown}"
    )


def shared_by(run: Sequence[e.HistoryEvent], base: Sequence[e.HistoryEvent]) -> int:
    """How many events a run of the chain has in common with the one that is reset, being a copy of it."""
    if _mark_of(run) == 0:
        return 0
    return 1 + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(run[1:], base[1:], strict=False)))


def _mark_of(run: Sequence[e.HistoryEvent]) -> int:
    """The event by which a run was made as a copy of another; 0: it wasn't."""
    started = run[0]
    assert isinstance(started, e.WorkflowExecutionStarted)
    marks = (x.id for x in run if isinstance(x, e.WorkflowTaskFailed) and x.new_run_id == started.run_id)
    return next(marks, 0)


def counts(event: e.HistoryEvent, shared: int) -> bool:
    """Whether an event of a later run is for the new one: a message; or what became of something that the runs have
    both asked for, in the events that they share. Later ids are others."""
    return type(event) in MESSAGES or 0 < getattr(event, "initiated_event_id", 0) <= shared


def added_by(
    run: Sequence[e.HistoryEvent], before: Sequence[e.HistoryEvent], base: Sequence[e.HistoryEvent]
) -> list[e.HistoryEvent]:
    """What a later run of the chain tells beyond the histories of the run before it, and of the one that is reset."""
    mark = _mark_of(run)
    if mark:  # what follows it, up to the next task, was given to it again
        own = dropwhile(lambda event: not isinstance(event, e.WorkflowTaskScheduled), run[mark:])
    else:
        end = before[-1]
        own = iter(run[1 + (end.passed_on if isinstance(end, e.WorkflowExecutionContinuedAsNew) else 0) :])
    shared = shared_by(run, base)
    return [event for event in own if counts(event, shared)]


class Left(Struct, frozen=True):
    """What the latest run, which may be the one that is reset, leaves to the new run; its history does not tell it.

    outbox, inherited: only where it is the one that is reset, and was open.
    admitted: updates that were not accepted yet; open: the ids of all that were not completed; finished: those that
    were, and what came of them.
    """

    outbox: Sequence[OutboxEntry] = ()
    inherited: Sequence[r.ChildInherited] = ()
    admitted: Sequence[r.UpdateAdmitted] = ()
    open: Sequence[str] = ()
    finished: Mapping[str, FinishedUpdate] = {}


NOTHING: Final = Left()


def left_by(state: State, *, is_base: bool) -> Left:
    """What a run leaves; to be asked before it ends. It is of the same chain as the one that is reset."""
    goes_on = is_base and state.status == "Running"
    return Left(
        tuple(state.outbox.values()) if goes_on else (),
        tuple(state.inherited.values()) if goes_on else (),
        tuple(state.admitted.values()),
        (*state.admitted, *state.accepted),
        dict(state.finished),
    )


def end_for_reset(tx: Transition, request: ResetWorkflow, new_run_id: str, kept: int, left: Collection[str]) -> None:
    """The open run ends, since another one goes on in its place.

    Args:
        new_run_id: that one.
        kept: the last event that both have; 0: they have none in common.
        left: open updates that are that one's now (see `Fork.takes`).
    """
    if kept:
        tx.note(r.RunReset(new_run_id, kept))
    tx.flush()
    reason = f"reset: {request.reason}" if request.reason else "reset"
    close(
        tx,
        e.WorkflowExecutionTerminated(0, tx.now, reason, request.identity, new_run_id),
        spared=kept,
        left=left,
    )
    tx.effects.append(EvictCopy())


def was_reset(tx: Transition, reset: RunWasReset) -> None:
    """A closed run knows who goes on in its place: reports for it may come still."""
    tx.note(r.RunReset(reset.new_run_id, reset.event_id))


class Fork:
    """A run that begins with the first part of another one's history.

    Args:
        request: the reset.
        kept: the events that both have, the last one the start of the workflow task that is run again.
        run_id, run_no: those of the new run.
    """

    def __init__(
        self, request: ResetWorkflow, kept: Sequence[e.HistoryEvent], run_id: str, run_no: int, now: int, retention: int
    ) -> None:
        first, started = kept[0], kept[-1]
        assert isinstance(first, e.WorkflowExecutionStarted) and isinstance(started, e.WorkflowTaskStarted)
        self._request, self._base, self._point = request, first.run_id, started
        own = replace(first, run_id=run_id, original_run_id=first.original_run_id or first.run_id)
        execution = Execution(begin(request.namespace, request.workflow_id, run_no, own), retention)
        self.tx = tx = Transition(execution, max(now, started.time))
        tx.events.append(own)
        tx.encoded.append(encode_event(own))
        tx.listed = True
        for event in kept[1:]:
            self._keep(event)

    def _keep(self, event: e.HistoryEvent) -> None:
        if isinstance(event, e.WorkflowTaskScheduled) and event.attempt > 1:
            # The attempts before it left a private record, which is what keeps the task open.
            failure = Failure("it had failed before the reset", kind="engine")
            self.tx.note(r.WorkflowTaskAttemptFailed(event.attempt - 1, failure, 0, event.time))
        self.tx.add(event)

    def takes(self, left: Left) -> Collection[str]:
        """Of the updates that were open, those that are open in this run, too: their callers wait for it now."""
        return left.open if self._request.reapply else [id for id in left.open if id in self.tx.state.accepted]

    def go_on(self, later: Sequence[e.HistoryEvent], left: Left = NOTHING, *, was_open: bool = True) -> Transition:
        """Fail the workflow task, give the run what came later, and run the task again.

        Args:
            later: the events after the last one that is kept, also those of later runs of the chain.
            left: what else the latest run has left; what it had on its way, and was asked for before, is on this run's
                way now.
            was_open: whether the other run was open until now; else its end has ended its children.
        """
        tx, request, point = self.tx, self._request, self._point
        takes = self.takes(left)
        ref = tx.execution.ref
        tx.note(r.RunForked(self._base, request.reason, request.identity, tx.now))
        text = f"reset to this workflow task: {request.reason}" if request.reason else "reset to this workflow task"
        tx.add(
            e.WorkflowTaskFailed(
                tx.next_id,
                tx.now,
                point.scheduled_event_id,
                point.id,
                Failure(text, kind="engine"),
                request.identity,
                self._written_by(later),
                ref.run_id,
            )
        )
        for activity in list(tx.state.activities.values()):
            if activity.cancel_requested:  # nobody works on it any more
                tx.arrive(e.ActivityTaskCanceled(0, tx.now, activity.event.id, 0))
        for event in later:
            again = AGAIN.get(type(event))
            if again is not None and (request.reapply or type(event) not in MESSAGES):
                again(self, event)
        self._take_over(left, takes)
        for entry in left.outbox:
            self._send_again(entry)
        if not was_open:
            self._lose_children()
        tx.schedule_task()
        for activity in tx.state.activities.values():
            offer(tx, activity)
        tx.dedup.append(request.request_id)
        tx.reply = Started(ref.run_id)
        return tx

    def _written_by(self, later: Iterable[e.HistoryEvent]) -> str:
        """The run that the last events before the point are from: the one that is reset may have been reset to later
        ones itself, and children know the run that has asked for them."""
        for event in later:
            if isinstance(event, e.WorkflowExecutionStarted):
                break  # a later run of the chain
            if isinstance(event, e.WorkflowTaskFailed) and event.base_run_id:
                return event.base_run_id
        return self._base

    def _take_over(self, left: Left, takes: Collection[str]) -> None:
        """Whoever repeats an update hears what its first caller has, as far as this run doesn't do it again."""
        tx, state = self.tx, self.tx.state
        for record in left.inherited:
            tx.note(record)
        for update in left.admitted:
            if update.update_id in takes and not self._knows(update.update_id):
                tx.note(update)
        finished = dict(left.finished) | {id: FinishedUpdate(None, CLOSED, rejected=True) for id in left.open}
        again = state.admitted.keys() | state.accepted.keys() | state.finished.keys()
        remembered = [(id, update) for id, update in finished.items() if id not in again]
        for id, update in remembered[-MAX_REMEMBERED_UPDATES:]:
            tx.note(r.UpdateRemembered(id, update.result, update.failure, update.rejected))

    # --- What came later --------------------------------------------------------------------------------
    def signaled(self, event: e.WorkflowExecutionSignaled) -> None:
        """A message."""
        self.tx.arrive(replace(event, id=0, time=self.tx.now))

    def update_accepted(self, event: e.WorkflowExecutionUpdateAccepted) -> None:
        """An update: the validator is asked again."""
        if not self._knows(event.update_id):
            self.tx.note(r.UpdateAdmitted(event.update_id, event.name, event.input, event.identity, self.tx.now))

    def _knows(self, update_id: str) -> bool:
        state = self.tx.state
        return update_id in state.admitted or update_id in state.accepted or update_id in state.finished

    def child_progressed(self, event: ChildEvent) -> None:
        """What became of a child that was asked for before."""
        child = self._asked_for(event, self.tx.state.children)
        if child is None or (isinstance(event, e.ChildWorkflowExecutionStarted) and child.run_id):
            return
        again = replace(event, id=0, time=self.tx.now)
        if isinstance(again, e.ChildWorkflowExecutionCompleted | e.ChildWorkflowExecutionFailed):
            again = replace(again, started_event_id=child.started_event_id)
        self.tx.arrive(again)

    def signal_settled(
        self, event: e.ExternalWorkflowExecutionSignaled | e.SignalExternalWorkflowExecutionFailed
    ) -> None:
        """What became of a signal to another run."""
        if self._asked_for(event, self.tx.state.signals_sent) is not None:
            self.tx.arrive(replace(event, id=0, time=self.tx.now))

    def cancel_settled(
        self, event: e.ExternalWorkflowExecutionCancelRequested | e.RequestCancelExternalWorkflowExecutionFailed
    ) -> None:
        """What became of a cancel request to another run."""
        if self._asked_for(event, self.tx.state.cancels_sent) is not None:
            self.tx.arrive(replace(event, id=0, time=self.tx.now))

    def _asked_for(self, event: Any, pending: Mapping[int, Any]) -> Any:
        """What an event is about, if it was asked for by what is kept: later ids are others here."""
        initiated = event.initiated_event_id
        return pending.get(initiated) if initiated <= self._point.id else None

    def _lose_children(self) -> None:
        """Nobody will tell what became of children that ended because their parent had: their code is told so now."""
        tx = self.tx
        for id, child in list(tx.state.children.items()):
            if child.event.parent_close_policy == "abandon":
                continue  # it may run still, and reports then
            workflow_id = child.event.workflow_id
            text = f"child workflow {workflow_id!r} ended with the run that was reset, or was never started"
            failure = Failure(text, kind="terminated")
            tx.arrive(
                e.ChildWorkflowExecutionFailed(0, tx.now, id, child.started_event_id, failure)
                if child.run_id
                else e.StartChildWorkflowExecutionFailed(0, tx.now, id, workflow_id, failure)
            )

    def _send_again(self, entry: OutboxEntry) -> None:
        """It may have arrived: the receiver knows it by the id that it had."""
        tx, added = self.tx, entry.added
        state, message = tx.state, added.message
        request_id = f"{self._base}:{added.entry_id}"
        if isinstance(message, r.OutboxStart) and added.event_id in state.children:
            # Its parent is the run that has asked for it: it may have begun.
            send(tx, added.event_id, replace(message, request_id=message.request_id or request_id))
        elif isinstance(message, r.OutboxSignal) and added.event_id in state.signals_sent:
            send(tx, added.event_id, replace(message, request_id=message.request_id or request_id))
        elif isinstance(message, r.OutboxCancel) and added.event_id in state.cancels_sent:
            send(tx, added.event_id, message)


MESSAGES: Final[frozenset[type[Any]]] = frozenset({e.WorkflowExecutionSignaled, e.WorkflowExecutionUpdateAccepted})
"""What is given again only where the reset says so."""

AGAIN: Final[dict[type[Any], Callable[[Fork, Any], None]]] = {
    e.WorkflowExecutionSignaled: Fork.signaled,
    e.WorkflowExecutionUpdateAccepted: Fork.update_accepted,
    e.ChildWorkflowExecutionStarted: Fork.child_progressed,
    e.StartChildWorkflowExecutionFailed: Fork.child_progressed,
    e.ChildWorkflowExecutionCompleted: Fork.child_progressed,
    e.ChildWorkflowExecutionFailed: Fork.child_progressed,
    e.ExternalWorkflowExecutionSignaled: Fork.signal_settled,
    e.SignalExternalWorkflowExecutionFailed: Fork.signal_settled,
    e.ExternalWorkflowExecutionCancelRequested: Fork.cancel_settled,
    e.RequestCancelExternalWorkflowExecutionFailed: Fork.cancel_settled,
}
"""What of the later events the new run is given."""
