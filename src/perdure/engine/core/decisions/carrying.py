"""What goes over to the next run of a chain, so that nothing is lost between them, and nothing is there twice.

Messages that the code has not used come from two sides: it says itself which of those it was told of it has not
(signals that nobody has received); what arrived while it worked is in the buffer, or waits for its validator. In the
next run they stand where a signal-with-start has its signal: after the first event, in their order.
"""

from __future__ import annotations

from perdure.engine.core.effects import ContinueRun
from perdure.engine.core.queries import CLOSED
from perdure.engine.core.transition import Transition
from perdure.limits import MAX_REMEMBERED_UPDATES
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.state import FinishedUpdate, State


def carry(state: State, command: c.ContinueAsNew) -> ContinueRun:
    """What the run, which is about to close, leaves to the next one."""
    signals = [e.WorkflowExecutionSignaled(0, 0, x.signal_name, x.input, x.identity) for x in command.signals]
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
    children = [
        r.ChildInherited(child.event.workflow_id, child.run_id, child.event.parent_close_policy)
        for child in state.children.values()
    ]
    inherited = (*state.inherited.values(), *children) if command.keep_children else ()
    return ContinueRun((*signals, *arrived), (*remembered, *inherited, *state.admitted.values()))


def take_over(tx: Transition, carried: ContinueRun) -> None:
    """The next run begins with what was left to it."""
    for record in carried.records:
        tx.note(record)
    for event in carried.messages:
        tx.arrive(_renewed(event))


def _renewed(event: e.HistoryEvent) -> e.HistoryEvent:
    """A copy for another history: `arrive` sets the id and the time of what it is given."""
    if isinstance(event, e.WorkflowExecutionSignaled):
        return e.WorkflowExecutionSignaled(0, 0, event.signal_name, event.input, event.identity)
    assert isinstance(event, e.WorkflowExecutionCancelRequested)
    return e.WorkflowExecutionCancelRequested(0, 0, event.reason, event.identity)
