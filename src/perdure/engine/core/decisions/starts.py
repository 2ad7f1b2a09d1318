"""Starting a run: the first events of a history, and what a taken workflow id means."""

from __future__ import annotations

from perdure.engine.core.evolve import begin
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import Start
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, WorkflowAlreadyStarted
from perdure.model import events as e
from perdure.model.journal import encode_event
from perdure.model.requests import Started, StartWorkflow
from perdure.model.state import State


def begin_run(start: Start, now: int, retention: int) -> Transition:
    """A new run. `check_start` has allowed it."""
    request = start.request
    event = e.WorkflowExecutionStarted(
        1,
        now,
        request.workflow_type,
        request.task_queue,
        request.input,
        start.run_id,
        request.request_id,
        request.identity,
        start.run_id,
        "",
        request.parent,
        now + request.execution_timeout if request.execution_timeout else 0,
        request.run_timeout,
        request.memo,
        request.search_attributes,
    )
    return _begin(request.namespace, request.workflow_id, start.run_no, event, retention)


def continue_run(
    last: State, end: e.WorkflowExecutionContinuedAsNew, run_no: int, now: int, retention: int
) -> Transition:
    """The next run of a chain: new input, and all else as it was."""
    before = last.started
    event = e.WorkflowExecutionStarted(
        1,
        max(now, end.time),
        end.workflow_type,
        end.task_queue,
        end.input,
        end.new_run_id,
        before.request_id,  # so that a repeated start is recognised
        before.identity,
        before.first_run_id,
        before.run_id,
        before.parent,
        before.execution_deadline,
        before.run_timeout,
        before.memo,
        before.search_attributes,
    )
    return _begin(last.namespace, last.workflow_id, run_no, event, retention)


def _begin(
    namespace: str, workflow_id: str, run_no: int, event: e.WorkflowExecutionStarted, retention: int
) -> Transition:
    execution = Execution(begin(namespace, workflow_id, run_no, event), retention)
    tx = Transition(execution, event.time)
    tx.events.append(event)
    tx.encoded.append(encode_event(event))
    tx.listed = True
    tx.schedule_task()
    tx.reply = Started(event.run_id)
    return tx


def check_start(execution: Execution | None, request: StartWorkflow) -> Started | None:
    """The reply, if the id's latest run answers the request already; None if a run may begin.

    Raises:
        InvalidRequest: it has no request id.
        WorkflowAlreadyStarted: the policies forbid another run.
    """
    if not request.request_id:
        raise InvalidRequest("a start needs a request_id, so that a retry is recognised")
    if execution is None:
        return None
    state, run_id = execution.state, execution.ref.run_id
    if state.started.request_id == request.request_id:
        return Started(state.started.first_run_id)
    if execution.open:
        if request.id_conflict_policy == "use_existing":
            return Started(run_id, existing=True)
        if request.id_conflict_policy == "terminate_existing":
            return None
        or_share = "" if request.parent else ", or id_conflict_policy='use_existing'"
        raise WorkflowAlreadyStarted(
            f"workflow id {request.workflow_id!r} is taken by a running {state.started.workflow_type} "
            f"(run {run_id}); use another id{or_share}",
            run_id,
        )
    failed = state.status in ("Failed", "TimedOut", "Canceled", "Terminated")
    if request.id_reuse_policy == "reject_duplicate" or (
        request.id_reuse_policy == "allow_duplicate_failed_only" and not failed
    ):
        raise WorkflowAlreadyStarted(
            f"workflow id {request.workflow_id!r} was used by a run that is {state.status.lower()} "
            f"(run {run_id}), and id_reuse_policy={request.id_reuse_policy!r} forbids another",
            run_id,
        )
    return None
