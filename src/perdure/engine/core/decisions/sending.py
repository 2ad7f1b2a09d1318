"""What is sent to other executions for an event of the history: a child's start, a signal, a request to stop.

Whoever receives it recognises a second delivery by a request id, which is made of that event and of the run that wrote
it. So it may be sent again by any run that has the event in its history, too.
"""

from __future__ import annotations

from perdure.engine.core.decisions.closing import parent_of, send
from perdure.engine.core.transition import Transition
from perdure.model import events as e
from perdure.model import records as r


def start_child(tx: Transition, event: e.StartChildWorkflowExecutionInitiated) -> None:
    """Start a child. Its request id is made of its parent (see `node.delivery`)."""
    message = r.OutboxStart(
        event.workflow_id,
        event.workflow_type,
        event.task_queue,
        event.input,
        parent_of(tx.state, event.id),
        event.execution_timeout,
        event.run_timeout,
        event.header,
        event.task_timeout,
        event.retry_policy,
        event.id_reuse_policy,
        event.memo,
    )
    send(tx, event.id, message, event.time)


def ask_child(tx: Transition, event: e.StartChildWorkflowExecutionInitiated) -> None:
    """Ask a child what has become of it."""
    send(tx, event.id, r.OutboxAsk(event.workflow_id, parent_of(tx.state, event.id)))


def signal_external(tx: Transition, event: e.SignalExternalWorkflowExecutionInitiated, written_by: str) -> None:
    """Signal another execution. written_by: the run that asked for it first."""
    request_id = request_id_of(written_by, event.id)
    message = r.OutboxSignal(event.workflow_id, event.run_id, event.signal_name, event.input, request_id, event.header)
    send(tx, event.id, message, event.time)


def cancel_external(tx: Transition, event: e.RequestCancelExternalWorkflowExecutionInitiated, written_by: str) -> None:
    """Ask another execution to stop; a child wherever in its chain it is, since it may be in a later run than the one
    that is known here. written_by: the run that asked for it first."""
    child = event.child_initiated_event_id
    message = r.OutboxCancel(
        event.workflow_id,
        "" if child else event.run_id,
        child_of=parent_of(tx.state, child) if child else None,
        request_id=request_id_of(written_by, event.id),
    )
    send(tx, event.id, message, event.time)


def request_id_of(run_id: str, event_id: int) -> str:
    """What a receiver remembers of what a run has asked for by an event."""
    return f"{run_id}:{event_id}"
