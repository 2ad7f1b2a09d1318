"""What crosses from one execution to another: answers to what was sent, and reports from children.

An entry stays in the sender's journal until it was delivered or refused for good; the receiver recognises a
second delivery by its request id. After `limits.OUTBOX_RETRY_LIFETIME` it is given up visibly.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.engine.core.deadlines import SCHEDULE_KEY
from perdure.engine.core.decisions.messages import DONE
from perdure.engine.core.decisions.schedules import roll_over, start_answered
from perdure.engine.core.effects import Send
from perdure.engine.core.inputs import ChildReported, OutboxAnswered, OutboxUndelivered
from perdure.engine.core.transition import Transition
from perdure.errors import NotFound
from perdure.limits import OUTBOX_RETRY_INITIAL, OUTBOX_RETRY_LIFETIME, OUTBOX_RETRY_MAXIMUM
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.payloads import NULL
from perdure.model.state import OutboxEntry


class Elsewhere(NamedTuple):
    """The reply to a child's report: the run has not the child any more; the latest of its chain may."""


def answered(tx: Transition, answer: OutboxAnswered) -> None:
    """An entry has arrived, or was refused for good; the code hears of it, if it asked for it."""
    entry = tx.state.outbox.get(answer.entry_id)
    if entry is None:
        raise NotFound("that outbox entry was settled before")
    if answer.error and not _is_old(tx, entry) and tx.execution.starting.waits(answer.entry_id):
        undelivered(tx, OutboxUndelivered(answer.entry_id, answer.error))  # whoever refused it is not who it is for
        return
    tx.note(r.OutboxSettled(answer.entry_id))
    event_id = entry.added.event_id
    message = entry.added.message
    if answer.error and isinstance(message, r.OutboxStart):
        inherited = message.parent.run_id, message.parent.initiated_event_id
        if inherited in tx.state.inherited:
            tx.note(r.InheritedChildOver(*inherited))
    for id in tx.execution.starting.answered(answer.entry_id, message):
        if (waits := tx.state.outbox.get(id)) is not None:
            resend(tx, waits)
    if tx.state.schedule is not None:
        if isinstance(message, r.OutboxScheduledStart):
            start_answered(tx, message, answer)
        roll_over(tx)
        tx.execution.deadlines.watch(SCHEDULE_KEY)  # there may be room for another start
    if not event_id or not tx.execution.open:
        return
    failure = Failure(answer.error, answer.types, "engine") if answer.error else None
    if isinstance(message, r.OutboxStart | r.OutboxAsk):
        child = tx.state.children.get(event_id)
        if child is None or (child.run_id and failure is None):
            return  # its report was here before, or it was known that it has begun
        if failure is None:
            tx.arrive(e.ChildWorkflowExecutionStarted(0, tx.now, event_id, message.workflow_id, answer.run_id))
        elif not child.run_id:
            tx.arrive(e.StartChildWorkflowExecutionFailed(0, tx.now, event_id, message.workflow_id, failure))
        elif isinstance(message, r.OutboxAsk):
            tx.arrive(e.ChildWorkflowExecutionFailed(0, tx.now, event_id, child.started_event_id, failure))
    elif isinstance(message, r.OutboxSignal):
        tx.arrive(
            e.SignalExternalWorkflowExecutionFailed(0, tx.now, event_id, failure)
            if failure is not None
            else e.ExternalWorkflowExecutionSignaled(0, tx.now, event_id)
        )
    else:
        tx.arrive(
            e.RequestCancelExternalWorkflowExecutionFailed(0, tx.now, event_id, failure)
            if failure is not None
            else e.ExternalWorkflowExecutionCancelRequested(0, tx.now, event_id)
        )
    tx.schedule_task()


def undelivered(tx: Transition, undelivered: OutboxUndelivered) -> None:
    """An entry could not be delivered now: it is tried again, until it is given up."""
    entry = tx.state.outbox.get(undelivered.entry_id)
    if entry is None:
        raise NotFound("that outbox entry was settled before")
    if _is_old(tx, entry):
        answered(tx, OutboxAnswered(undelivered.entry_id, f"given up: {undelivered.error}"))
        return
    tx.note(r.OutboxDelayed(entry.added.entry_id, entry.attempt, tx.now + _backoff(entry), undelivered.error))


def _is_old(tx: Transition, entry: OutboxEntry) -> bool:
    return tx.now - entry.added.time > OUTBOX_RETRY_LIFETIME


def resend(tx: Transition, entry: OutboxEntry) -> None:
    """It is due (again): after a crash nobody knows whether it was delivered. What waits for something
    before it goes on waiting."""
    tx.note(r.OutboxDelayed(entry.added.entry_id, entry.attempt + 1, tx.now + _backoff(entry), entry.failure))
    if not tx.execution.starting.waits(entry.added.entry_id):
        tx.effects.append(Send(entry.added.entry_id, entry.added.message))


def _backoff(entry: OutboxEntry) -> int:
    """How long an entry that was sent so often waits until it is sent again."""
    return min(OUTBOX_RETRY_INITIAL * 2 ** min(entry.attempt - 1, 16), OUTBOX_RETRY_MAXIMUM)


def child_reported(tx: Transition, report: ChildReported) -> None:
    """A child has ended, perhaps before the answer to its start was here."""
    state = tx.state
    tx.reply = DONE
    child = state.children.get(report.initiated_event_id)
    if child is None or report.begun_by != (child.begun_by or state.started.run_id):
        # None of its own, which may have the same event in another history.
        if (report.begun_by, report.initiated_event_id) in state.inherited:
            tx.note(r.InheritedChildOver(report.begun_by, report.initiated_event_id))
        elif not tx.execution.open:
            tx.reply = Elsewhere()
    else:
        if tx.execution.taken is None:
            tx.flush()  # that it was started may still be in the buffer
        if not child.run_id:
            workflow_id = child.event.workflow_id
            tx.arrive(e.ChildWorkflowExecutionStarted(0, tx.now, child.event.id, workflow_id, report.run_id))
        started = child.started_event_id
        tx.arrive(
            e.ChildWorkflowExecutionFailed(0, tx.now, report.initiated_event_id, started, report.failure)
            if report.failure is not None
            else e.ChildWorkflowExecutionCompleted(0, tx.now, report.initiated_event_id, started, report.result or NULL)
        )
        tx.schedule_task()
