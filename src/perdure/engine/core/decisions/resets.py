"""Resets: another run begins with the history that one had up to a workflow task, and that task is run again.

::

    base:   1 … started (completed …)            what came after: signals, updates, what became of children
    new:    1 … started, failed (reset), ◀────── those again, WorkflowTaskScheduled

What was pending at that point is pending again: activities are handed out anew, timers keep their times, children that
were asked for are the new run's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import dropwhile, takewhile
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from perdure.clock import DAY
from perdure.engine.core.decisions import sending
from perdure.engine.core.decisions.activities import offer
from perdure.engine.core.decisions.carrying import send_again, starts_of
from perdure.engine.core.decisions.closing import children_of, close, report_to_schedule
from perdure.engine.core.decisions.postponing import give, receive
from perdure.engine.core.decisions.starts import first_event
from perdure.engine.core.effects import EvictCopy
from perdure.engine.core.queries import CLOSED
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest
from perdure.limits import MAX_REMEMBERED_UPDATES, OUTBOX_RETRY_LIFETIME
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.requests import ResetPoint, ResetWorkflow, Started
from perdure.model.state import FinishedUpdate, State

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
    run: Sequence[e.HistoryEvent], before: Sequence[e.HistoryEvent], base: Sequence[e.HistoryEvent], *, repeats: bool
) -> list[e.HistoryEvent]:
    """What a later run of the chain tells beyond the histories of the run before it, and of the one that is reset.

    repeats: the signals that a reset has given to it again are those runs' (see `is_copy`).
    """
    mark = _mark_of(run)
    if mark:  # what follows it, up to the next task, was given to it again
        own = dropwhile(lambda event: not isinstance(event, e.WorkflowTaskScheduled), run[mark:])
    else:
        end = before[-1]
        own = iter(run[1 + (end.passed_on if isinstance(end, e.WorkflowExecutionContinuedAsNew) else 0) :])
    shared = shared_by(run, base)
    return [event for event in own if counts(event, shared) and not (repeats and _is_again(event))]


def is_copy(run: Sequence[e.HistoryEvent]) -> bool:
    """Whether a run was begun by a reset. If it is later than the one that is reset now, what it and those that follow
    it were given again is told by earlier runs; else by none, where the run that is reset has passed it on."""
    return bool(_mark_of(run))


def _is_again(event: object) -> bool:
    return isinstance(event, e.WorkflowExecutionSignaled) and event.again


def earlier_updates(base: Sequence[e.HistoryEvent], answered: Collection[str]) -> Collection[str]:
    """Updates from before the run that is reset: where an even earlier run was reset meanwhile, later ones are given
    them once more.

    answered: the updates that the run that is reset knows to be over, those of the runs before it, too.
    """
    own = {event.update_id for event in base if isinstance(event, e.WorkflowExecutionUpdateAccepted)}
    return frozenset(answered) - own


def without(earlier: Collection[str], added: Sequence[e.HistoryEvent]) -> list[e.HistoryEvent]:
    """What later runs have added, without those updates."""
    return [
        event
        for event in added
        if not isinstance(event, e.WorkflowExecutionUpdateAccepted) or event.update_id not in earlier
    ]


class Left(Struct, frozen=True):
    """What the latest run, which may be the one that is reset, leaves to the new run; its history does not tell it.

    children: those that go on, if the new run has them (see `Fork.children`).
    inherited: those that it has taken over itself, with the starts that are on their way; only where it is the one that
    is reset.
    waiting: updates that were not accepted yet, in order with signals that were to be given after some of them.
    open: the ids of all updates that were not completed; finished: those that were, and what came of them.
    earlier: updates that were completed before the run that is reset began (see `earlier_updates`).
    released: how much longer the history may get (see `records.RunForked`); only where it is the one that is reset.
    """

    children: Collection[r.ChildInherited] = ()
    inherited: Sequence[r.ChildInherited] = ()
    starts: Sequence[r.OutboxAdded] = ()
    waiting: Sequence[r.UpdateAdmitted | e.WorkflowExecutionSignaled] = ()
    open: Sequence[str] = ()
    finished: Mapping[str, FinishedUpdate] = {}
    earlier: Collection[str] = ()
    released: tuple[int, int] = (0, 0)


NOTHING: Final = Left()


def left_by(state: State, *, is_base: bool, repeats: bool = False, earlier: Collection[str] = ()) -> Left:
    """What a run leaves; to be asked before it ends. It is of the same chain as the one that is reset.

    repeats: see `added_by`.
    """
    queue = [message for message in state.postponed or state.admitted if not (repeats and _is_again(message))]
    inherited = tuple(state.inherited.values()) if is_base else ()
    return Left(
        frozenset(children_of(state)),
        inherited,
        starts_of(state, inherited),
        [state.admitted[message] if isinstance(message, str) else message for message in queue],
        (*state.admitted, *state.accepted),
        dict(state.finished),
        earlier,
        (state.released_events, state.released_bytes) if is_base else (0, 0),
    )


def scheduled_as(base: e.WorkflowExecutionStarted, latest: State, run_no: int) -> e.ScheduleRef | None:
    """As which start the schedule knows the new run; to be asked before the latest run ends.

    base: how the run that is reset began. run_no: that of the new run.
    """
    if base.scheduled_by is None:
        return None
    if latest.status == "Running" and latest.started.first_run_id == base.first_run_id:
        return latest.started.scheduled_by  # the new one goes on in its place, and the schedule hears of neither
    return replace(base.scheduled_by, reset=run_no)


def end_for_reset(
    tx: Transition, request: ResetWorkflow, new_run_id: str, spared: Collection[r.ChildInherited], left: Collection[str]
) -> Sequence[e.HistoryEvent]:
    """The open run ends, since another one goes on in its place. Returns what was in the buffer.

    Args:
        new_run_id: that one.
        spared: children that are that one's now (see `Fork.spares`).
        left: open updates that are (see `Fork.takes`).
    """
    tx.flush()
    buffered = tuple(tx.events)
    give(tx, everything=True)  # for who reads its history; `Left.waiting` has them
    reason = f"reset: {request.reason}" if request.reason else "reset"
    close(
        tx,
        e.WorkflowExecutionTerminated(0, tx.now, reason, request.identity, new_run_id),
        spared=spared,
        left=left,
    )
    tx.effects.append(EvictCopy())
    return buffered


class Fork:
    """A run that begins with the first part of another one's history.

    Args:
        request: the reset.
        kept: the events that both have, the last one the start of the workflow task that is run again.
        later: what came after it in the other run, and in later ones of the chain (see `added_by`).
        run_id, run_no: those of the new run.
        scheduled_by: what has started it (see `scheduled_as`).
    """

    def __init__(
        self,
        request: ResetWorkflow,
        kept: Sequence[e.HistoryEvent],
        later: Sequence[e.HistoryEvent],
        run_id: str,
        run_no: int,
        now: int,
        retention: int,
        scheduled_by: e.ScheduleRef | None = None,
    ) -> None:
        first, started = kept[0], kept[-1]
        assert isinstance(first, e.WorkflowExecutionStarted) and isinstance(started, e.WorkflowTaskStarted)
        self._request, self._base, self._point, self._later = request, first.run_id, started, later
        # The run that is reset may have been reset to itself: those that wrote its first parts.
        self._writers = [
            (event.id, event.base_run_id)
            for event in (*kept, *later)
            if isinstance(event, e.WorkflowTaskFailed) and event.base_run_id
        ]
        original = first.original_run_id or first.run_id
        own = replace(first, run_id=run_id, original_run_id=original, scheduled_by=scheduled_by)
        self.tx = first_event(request.namespace, request.workflow_id, run_no, own, retention)
        self.tx.now = max(now, started.time)
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
        own, earlier = self.tx.state.accepted, left.earlier
        return {id for id in left.open if id in own or (self._request.reapply and id not in earlier)}

    @property
    def children(self) -> list[r.ChildInherited]:
        """The children that were asked for by what is kept, and have no outcome there."""
        return [
            r.ChildInherited(child.event.workflow_id, self._written_by(id), child.event.parent_close_policy, id)
            for id, child in self.tx.state.children.items()
        ]

    def spares(self, left: Left) -> Collection[r.ChildInherited]:
        """The children that do not end with the latest run, since they are this one's now."""
        return {*self.children, *left.inherited}

    def go_on(
        self, left: Left = NOTHING, buffered: Sequence[e.HistoryEvent] = (), ending: Collection[r.OutboxAdded] = ()
    ) -> Transition:
        """Fail the workflow task, give the run what came later, and run the task again.

        Args:
            left: what else the latest run has left.
            buffered: what was in the buffer of that one (see `end_for_reset`).
            ending: what ends the children that are not this one's (see `carrying.endings`).
        """
        tx, request, point = self.tx, self._request, self._point
        takes = self.takes(left)
        ref = tx.execution.ref
        tx.note(r.RunForked(self._base, request.reason, request.identity, tx.now, *left.released))
        text = f"reset to this workflow task: {request.reason}" if request.reason else "reset to this workflow task"
        children = self.children
        tx.add(
            e.WorkflowTaskFailed(
                tx.next_id,
                tx.now,
                point.scheduled_event_id,
                point.id,
                Failure(text, kind="engine"),
                request.identity,
                self._written_by(point.id),
                ref.run_id,
            )
        )
        for activity in list(tx.state.activities.values()):
            if activity.cancel_requested:  # nobody works on it any more
                tx.arrive(e.ActivityTaskCanceled(0, tx.now, activity.event.id, 0))
        for event in (*self._later, *buffered):
            again = AGAIN.get(type(event))
            if again is not None and (request.reapply or type(event) not in MESSAGES):
                again(self, event)
        send_again(tx, ending)
        self._take_over(left, takes)
        self._ask_again({child.initiated_event_id for child in children if child in left.children})
        tx.schedule_task()
        for activity in tx.state.activities.values():
            offer(tx, activity)
        by = tx.state.started.scheduled_by
        if by is not None and by.reset == tx.state.run_no:
            report_to_schedule(tx)
        tx.remember(request)
        tx.reply = Started(ref.run_id)
        return tx

    def _written_by(self, event_id: int) -> str:
        """The run that an event is from. What was sent for it, and children, know that one."""
        return next((run_id for mark, run_id in self._writers if event_id <= mark), self._base)

    def _take_over(self, left: Left, takes: Collection[str]) -> None:
        """Whoever repeats an update hears what its first caller has, as far as this run doesn't do it again."""
        tx, state = self.tx, self.tx.state
        for record in left.inherited:
            tx.note(record)
        send_again(tx, left.starts)
        for message in left.waiting:
            if not isinstance(message, r.UpdateAdmitted):
                if self._request.reapply:
                    self.signaled(message)
            elif message.update_id in takes and not self._knows(message.update_id):
                self._admit(message)
        finished = dict(left.finished) | {id: FinishedUpdate(None, CLOSED, rejected=True) for id in left.open}
        again = state.admitted.keys() | state.accepted.keys() | state.finished.keys()
        remembered = [(id, update) for id, update in finished.items() if id not in again]
        for id, update in remembered[-MAX_REMEMBERED_UPDATES:]:
            tx.note(r.UpdateRemembered(id, update.result, update.failure, update.rejected))

    # --- What came later --------------------------------------------------------------------------------
    def signaled(self, event: e.WorkflowExecutionSignaled) -> None:
        """A message."""
        receive(self.tx, replace(event, id=0, time=self.tx.now, again=True))

    def update_accepted(self, event: e.WorkflowExecutionUpdateAccepted) -> None:
        """An update: the validator is asked again."""
        if not self._knows(event.update_id):
            admitted = event.update_id, event.name, event.input, event.identity, self.tx.now, event.header
            self._admit(r.UpdateAdmitted(*admitted))

    def _admit(self, update: r.UpdateAdmitted) -> None:
        self.tx.note(update)
        self.tx.note(r.MessagePostponed(update.update_id))  # what comes after it is to wait for it

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

    def _ask_again(self, going: Collection[int]) -> None:
        """Send what has no answer yet: the other run may have closed before that came. It may have arrived: then the
        receiver knows it, for as long as an outbox would try. A child that may have ended meanwhile, and told a run
        that is closed or has kept no record of it, is asked.

        going: the events that asked for children which are to tell the latest run yet.
        """
        tx, state = self.tx, self.tx.state
        for child in state.children.values():
            begins = not child.run_id and self._too_old(child.event) is None
            if begins:
                sending.start_child(tx, child.event)
            if child.event.id not in going or not (begins or child.run_id):
                sending.ask_child(tx, child.event)
        for signal in list(state.signals_sent.values()):
            if (failure := self._too_old(signal)) is None:
                sending.signal_external(tx, signal, self._written_by(signal.id))
            else:
                tx.arrive(e.SignalExternalWorkflowExecutionFailed(0, tx.now, signal.id, failure))
        for cancel in list(state.cancels_sent.values()):
            if (failure := self._too_old(cancel)) is None:
                sending.cancel_external(tx, cancel, self._written_by(cancel.id))
            else:
                tx.arrive(e.RequestCancelExternalWorkflowExecutionFailed(0, tx.now, cancel.id, failure))

    def _too_old(self, event: e.Event) -> Failure | None:
        if self.tx.now - event.time <= OUTBOX_RETRY_LIFETIME:
            return None
        days = OUTBOX_RETRY_LIFETIME // DAY
        return Failure(
            f"the run that was reset closed before it was answered, more than {days} days ago", kind="engine"
        )


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
