"""What one execution sends to another: start a child, signal, cancel, report to a parent.

Delivered at least once: the entry stays in the sender's journal until the answer is there. The receiver
recognises a second delivery by a request id that is made of the sender's run and the entry's number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from perdure.engine.core.decisions.outbox import Elsewhere, GoesOn
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import ChildReported, InheritedChildReported, OutboxAnswered, OutboxUndelivered
from perdure.engine.core.refusals import class_names
from perdure.engine.storage.api import ChainKey
from perdure.errors import InvalidRequest, NotFound, PerdureError, WorkflowAlreadyStarted
from perdure.model import records as r
from perdure.model.requests import (
    CancelWorkflowRequest,
    Request,
    SignalWorkflow,
    Started,
    StartWorkflow,
    TerminateWorkflow,
)

Call = Callable[[Request[Any]], Awaitable[Any]]
Tell = Callable[[ChainKey, str, object], Awaitable[Any]]


async def deliver(
    sender: Execution, entry_id: int, message: r.Outgoing, call: Call, tell: Tell
) -> OutboxAnswered | OutboxUndelivered:
    """Deliver one entry. The answer goes back to the sender as an input.

    Raises EngineStopped where the engine is, and it must be delivered by another.
    """
    request_id = getattr(message, "request_id", "") or f"{sender.ref.run_id}:{entry_id}"
    namespace = sender.ref.namespace
    run_id = ""
    try:
        if isinstance(message, r.OutboxStart):
            started: Started = await call(_start(namespace, request_id, message))
            run_id = started.run_id
        elif isinstance(message, r.OutboxSignal):
            signal = SignalWorkflow(
                namespace, message.workflow_id, message.run_id, message.name, message.input, request_id,
                sender.ref.workflow_id,
            )  # fmt: skip
            await call(signal)
        elif isinstance(message, r.OutboxCancel):
            kind = TerminateWorkflow if message.terminate else CancelWorkflowRequest
            why = f"requested by workflow {sender.ref.workflow_id!r}"
            target = namespace, message.workflow_id, message.run_id
            await call(kind(*target, why, sender.ref.workflow_id, child_of=message.child_of))
        else:
            parent = message.parent
            report = ChildReported(
                parent.initiated_event_id, message.result, message.failure, message.child_run_id, parent.run_id
            )
            await _report(sender, ChainKey(parent.namespace, parent.workflow_id), report, tell)
    except (InvalidRequest, NotFound, WorkflowAlreadyStarted) as error:
        return OutboxAnswered(entry_id, str(error), types=class_names(type(error)))
    except PerdureError as error:  # the engine's own trouble, such as that it stops, is no answer
        return OutboxUndelivered(entry_id, str(error))
    return OutboxAnswered(entry_id, "", run_id)


async def _report(sender: Execution, parent: ChainKey, report: ChildReported, tell: Tell) -> None:
    """Tell the run that asked for a child, or the one that has the child now."""
    to, reply = report.begun_by, None
    try:
        while isinstance(reply := await tell(parent, to, report), GoesOn):
            to = reply.run_id
    except NotFound:  # its retention is over
        await tell(parent, "", report)
        reply = Elsewhere()
    if isinstance(reply, Elsewhere):
        await tell(parent, "", InheritedChildReported(sender.ref.workflow_id))


def _start(namespace: str, request_id: str, message: r.OutboxStart) -> StartWorkflow:
    return StartWorkflow(
        namespace,
        message.workflow_id,
        message.workflow_type,
        message.task_queue,
        message.input,
        request_id,
        message.parent.workflow_id,
        message.execution_timeout,
        message.run_timeout,
        parent=message.parent,
    )
