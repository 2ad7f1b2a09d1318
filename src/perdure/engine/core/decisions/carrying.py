"""What goes over to the next run of a chain, so that nothing is lost between them, and nothing is there twice.

Messages that the code has not used come from two sides: it says itself which of those it was told of it has not
(signals that nobody has received); what arrived while it worked is in the buffer, or waits for its validator. In the
next run they stand where a signal-with-start has its signal: after the first event, in their order.
"""

from __future__ import annotations

from collections.abc import Collection

from perdure.engine.core.decisions.closing import children_of, send
from perdure.engine.core.decisions.postponing import give
from perdure.engine.core.effects import ContinueRun
from perdure.engine.core.queries import CLOSED
from perdure.engine.core.starting import ends_child
from perdure.engine.core.transition import Transition
from perdure.limits import MAX_REMEMBERED_UPDATES
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.state import FinishedUpdate, State


def carry(state: State, command: c.ContinueAsNew) -> ContinueRun:
    """What the run, which is about to close, leaves to the next one."""
    signals = [e.WorkflowExecutionSignaled(0, 0, x.signal_name, x.input, x.identity, x.header) for x in command.signals]
    arrived: list[e.HistoryEvent] = [
        event
        for event in state.buffered
        if isinstance(event, e.WorkflowExecutionSignaled | e.WorkflowExecutionCancelRequested)
    ]
    if command.pass_cancel and not any(isinstance(event, e.WorkflowExecutionCancelRequested) for event in arrived):
        arrived.insert(0, e.WorkflowExecutionCancelRequested(0, 0, state.cancel_reason))
    # The close cuts off what was accepted: the caller hears that now, and whoever asks again, too.
    finished = state.finished | {id: FinishedUpdate(None, CLOSED, rejected=True) for id in state.accepted}
    remembered = [
        r.UpdateRemembered(id, update.result, update.failure, update.rejected)
        for id, update in list(finished.items())[-MAX_REMEMBERED_UPDATES:]
    ]
    children = children_of(state) if command.keep_children else ()
    return ContinueRun(
        (*signals, *arrived),
        (*remembered, *children, *state.admitted.values()),
        starts_of(state, children),
        tuple(state.postponed),
    )


def starts_of(state: State, children: Collection[r.ChildInherited]) -> tuple[r.OutboxAdded, ...]:
    """The starts of children that are on their way still. Who ends them later must know of it (see `outbox`), and learn
    of one that is refused."""
    kept = {(child.begun_by, child.initiated_event_id) for child in children}
    return tuple(
        entry.added
        for entry in state.outbox.values()
        if isinstance(message := entry.added.message, r.OutboxStart)
        and (message.parent.run_id, message.parent.initiated_event_id) in kept
    )


def endings(state: State) -> tuple[r.OutboxAdded, ...]:
    """What ends the children of a run that has closed, and has no answer yet; with their starts, as far as those have
    none. The next run of the workflow id sends it, too, before it starts others of their ids."""
    sent = [entry.added for entry in state.outbox.values()]
    ended = {added.message.child_of for added in sent if ends_child(added.message)}
    return tuple(added for added in sent if ends_child(added.message) or _starts(added.message, ended))


def _starts(message: r.Outgoing, children: Collection[e.ParentRef | None]) -> bool:
    return isinstance(message, r.OutboxStart) and message.parent in children


def send_again(tx: Transition, sent: Collection[r.OutboxAdded]) -> None:
    """Send what another run has sent: whoever receives it recognises it."""
    for added in sent:
        send(tx, 0, added.message, added.time)


def take_over(tx: Transition, carried: ContinueRun) -> None:
    """The next run begins with what was left to it."""
    for record in carried.records:
        tx.note(record)
    send_again(tx, carried.starts)
    for event in carried.messages:
        tx.arrive(_renewed(event))
    for message in carried.postponed:
        tx.note(r.MessagePostponed(message))
    give(tx)


def _renewed(event: e.HistoryEvent) -> e.HistoryEvent:
    """A copy for another history: `arrive` sets the id and the time of what it is given."""
    if isinstance(event, e.WorkflowExecutionSignaled):
        return e.WorkflowExecutionSignaled(0, 0, event.signal_name, event.input, event.identity, event.header)
    assert isinstance(event, e.WorkflowExecutionCancelRequested)
    return e.WorkflowExecutionCancelRequested(0, 0, event.reason, event.identity)
