"""What one execution sends to another: start a child, signal, cancel, report to a parent.

Delivered at least once: the entry stays in the sender's journal until the answer is there. The receiver
recognises a second delivery by a request id (see `core.decisions.sending`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from perdure.engine.core.decisions.outbox import Elsewhere
from perdure.engine.core.decisions.sending import request_id_of
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import ChildReported, OutboxAnswered, OutboxUndelivered
from perdure.engine.core.refusals import class_names
from perdure.engine.node.answers import AskChild
from perdure.engine.node.schedules import report_of, start_of
from perdure.engine.storage.api import ChainKey
from perdure.errors import EngineStopped, InvalidRequest, NotFound, PerdureError, WorkflowAlreadyStarted
from perdure.model import records as r
from perdure.model.requests import (
    CancelWorkflowRequest,
    Request,
    SignalWorkflow,
    Started,
    StartWorkflow,
    TerminateWorkflow,
)
from perdure.model.schedules import namespace_of

Call = Callable[[Request[Any]], Awaitable[Any]]
Tell = Callable[[ChainKey, str, object], Awaitable[Any]]


async def deliver(
    sender: Execution, entry_id: int, message: r.Outgoing, call: Call, tell: Tell
) -> OutboxAnswered | OutboxUndelivered:
    """Deliver one entry. The answer goes back to the sender as an input.

    Raises EngineStopped where the engine is, and it must be delivered by another.
    """
    namespace = namespace_of(sender.ref.namespace)  # a schedule's is apart from that of what it starts
    run_id = ""
    try:
        if isinstance(message, r.OutboxStart):
            started: Started = await call(_start(namespace, message))
            run_id = started.run_id
        elif isinstance(message, r.OutboxScheduledStart):
            begun: Started = await call(start_of(sender, message))
            run_id = begun.run_id
        elif isinstance(message, r.OutboxScheduleReport):
            to, over = report_of(sender, message)
            await tell(to, "", over)
        elif isinstance(message, r.OutboxSignal):
            signal = SignalWorkflow(
                namespace, message.workflow_id, message.run_id, message.name, message.input, message.request_id,
                sender.ref.workflow_id, message.header,
            )  # fmt: skip
            await call(signal)
        elif isinstance(message, r.OutboxCancel):
            await call(_stop(namespace, sender, message))
        elif isinstance(message, r.OutboxAsk):
            told: Started | ChildReported = await tell(
                ChainKey(namespace, message.workflow_id), "", AskChild(message.parent)
            )
            run_id = told.run_id
            if isinstance(told, ChildReported):
                await tell(ChainKey(namespace, sender.ref.workflow_id), "", told)
        else:
            parent = message.parent
            report = ChildReported(
                parent.run_id, parent.initiated_event_id, message.result, message.failure, message.child_run_id
            )
            await _report(ChainKey(parent.namespace, parent.workflow_id), report, tell)
    except (InvalidRequest, NotFound, WorkflowAlreadyStarted) as error:
        return OutboxAnswered(entry_id, str(error), types=class_names(type(error)))
    except EngineStopped:
        raise
    except PerdureError as error:  # the engine's own trouble is no answer
        return OutboxUndelivered(entry_id, str(error))
    return OutboxAnswered(entry_id, "", run_id)


async def _report(parent: ChainKey, report: ChildReported, tell: Tell) -> None:
    """Tell the run that asked for a child. Where that has closed, the latest of its chain may have the child: it
    continues the other one, or goes on in its place."""
    try:
        if not isinstance(await tell(parent, report.begun_by, report), Elsewhere):
            return
    except NotFound:
        pass  # its retention is over
    await tell(parent, "", report)


def _stop(namespace: str, sender: Execution, message: r.OutboxCancel) -> TerminateWorkflow | CancelWorkflowRequest:
    ref = sender.ref
    target = namespace, message.workflow_id, message.run_id
    why = f"requested by {'workflow' if sender.state.schedule is None else 'schedule'} {ref.workflow_id!r}"
    if message.terminate:
        return TerminateWorkflow(*target, why, ref.workflow_id, message.child_of)
    return CancelWorkflowRequest(*target, why, ref.workflow_id, message.request_id, message.child_of)


def _start(namespace: str, message: r.OutboxStart) -> StartWorkflow:
    parent = message.parent
    return StartWorkflow(
        namespace,
        message.workflow_id,
        message.workflow_type,
        message.task_queue,
        message.input,
        request_id_of(parent.run_id, parent.initiated_event_id),
        parent.workflow_id,
        message.execution_timeout,
        message.run_timeout,
        message.id_reuse_policy,
        memo=message.memo,
        parent=parent,
        task_timeout=message.task_timeout,
        retry_policy=message.retry_policy,
        header=message.header,
    )
