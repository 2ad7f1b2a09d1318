"""Starting a run: the first events of a history, and what a taken workflow id means."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from perdure.engine.core.deadlines import execution_deadline
from perdure.engine.core.decisions.carrying import endings, send_again, take_over
from perdure.engine.core.decisions.chains import failure_of, retry_delay
from perdure.engine.core.deduplication import update_id
from perdure.engine.core.effects import ContinueRun
from perdure.engine.core.evolve import begin
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import Start
from perdure.engine.core.refusals import in_words
from perdure.engine.core.retries import wrong_policy
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, WorkflowAlreadyStarted
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.journal import encode_event
from perdure.model.requests import Pause, Started, StartSignal, StartUpdate, StartWorkflow
from perdure.model.state import State

_NOTHING: Final = ContinueRun()


def begin_run(start: Start, now: int, retention: int, last: State | None = None) -> Transition:
    """A new run. `check_start` has allowed it. last: the one that had the workflow id before."""
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
        now + request.start_delay + request.execution_timeout if request.execution_timeout else 0,
        request.run_timeout,
        request.memo,
        request.search_attributes,
        1,
        request.retry_policy,
        request.start_delay,
        request.task_timeout,
        header=request.header,
        scheduled_by=request.scheduled_by,
        last_completion_result=request.last_completion_result,
    )
    ending = endings(last) if last is not None else ()
    return _begin(request.namespace, request.workflow_id, start.run_no, event, retention, ending, request.message)


Continued = e.WorkflowExecutionContinuedAsNew | e.WorkflowExecutionFailed | e.WorkflowExecutionTimedOut
"""Ends that may be followed by another run of the chain: then they name it."""


def continue_run(
    last: State, end: Continued, run_no: int, now: int, retention: int, carried: ContinueRun = _NOTHING
) -> Transition:
    """The next run of a chain: with new input and what was carried over, or another attempt with the same input. All
    else is as it was."""
    before = last.started
    if isinstance(end, e.WorkflowExecutionContinuedAsNew):
        what, attempt, delay, failure = (end.workflow_type, end.task_queue, end.input), 1, 0, None
    else:
        what, attempt = (before.workflow_type, before.task_queue, before.input), before.attempt + 1
        failure = failure_of(end)
        delay = retry_delay(last, failure)
    event = e.WorkflowExecutionStarted(
        1,
        max(now, end.time),
        *what,
        end.new_run_id,
        before.request_id,  # so that a repeated start is recognised
        before.identity,
        before.first_run_id,
        before.run_id,
        before.parent,
        execution_deadline(last),
        before.run_timeout,
        before.memo,
        before.search_attributes,
        attempt,
        before.retry_policy,
        delay,
        before.workflow_task_timeout,
        continued_failure=failure,
        header=end.header if isinstance(end, e.WorkflowExecutionContinuedAsNew) else before.header,
        scheduled_by=before.scheduled_by,
        last_completion_result=before.last_completion_result,
    )
    return _begin(
        last.namespace, last.workflow_id, run_no, event, retention, endings(last), pause=last.paused, carried=carried
    )


def _begin(
    namespace: str,
    workflow_id: str,
    run_no: int,
    event: e.WorkflowExecutionStarted,
    retention: int,
    ending: Collection[r.OutboxAdded],
    message: StartSignal | StartUpdate | None = None,
    pause: Pause | None = None,
    carried: ContinueRun = _NOTHING,
) -> Transition:
    tx = first_event(namespace, workflow_id, run_no, event, retention)
    if pause is not None:  # it was meant for the workflow; the last run was just at work
        tx.note(r.RunPaused(pause.reason, pause.identity, pause.time))
    send_again(tx, ending)
    take_over(tx, carried)
    if isinstance(message, StartSignal):
        tx.arrive(e.WorkflowExecutionSignaled(0, tx.now, message.name, message.input, event.identity, message.header))
    elif message is not None:
        tx.note(
            r.UpdateAdmitted(message.update_id, message.name, message.input, event.identity, tx.now, message.header)
        )
        tx.dedup = (update_id(message.update_id),)  # a repetition is not for another run of this id
    tx.schedule_task()
    tx.reply = Started(event.run_id)
    return tx


def first_event(
    namespace: str, workflow_id: str, run_no: int, event: e.WorkflowExecutionStarted, retention: int
) -> Transition:
    """A new run, of which there is nothing yet but its first event."""
    tx = Transition(Execution(begin(namespace, workflow_id, run_no, event), retention), event.time)
    tx.events.append(event)
    tx.encoded.append(encode_event(event))
    tx.listed = True
    return tx


def may_have_joined(request: StartWorkflow) -> bool:
    """Whether a repetition of a start may be one of a start that was answered with a run that was there."""
    return request.message is not None or request.id_conflict_policy == "use_existing"


def check_options(request: StartWorkflow) -> None:
    """Raises InvalidRequest where options of a start make no sense, or not together."""
    if not request.request_id:
        raise InvalidRequest("a start needs a request_id, so that a retry is recognised")
    policy, message = request.retry_policy, request.message
    if policy is not None:
        wrong = wrong_policy(policy)
        if policy.hold_on or policy.on_exhausted == "hold":
            wrong = "hold_on and on_exhausted='hold' are for activities: a workflow that has failed can't be released"
        if wrong:
            raise InvalidRequest(f"retry_policy: {wrong}")
    if isinstance(message, StartSignal) and request.id_conflict_policy == "fail":
        raise InvalidRequest(
            "a start with a signal needs the id_conflict_policy 'use_existing' or 'terminate_existing', not 'fail'"
        )
    if isinstance(message, StartUpdate):
        if not message.update_id:
            raise InvalidRequest("an update needs an update_id, so that a retry is recognised")
        if request.start_delay:
            raise InvalidRequest("a start with an update can't have a start_delay: its caller waits for the answer")


def check_start(execution: Execution | None, request: StartWorkflow) -> Started | None:
    """The reply, if the id's latest run answers the request already; None if a run may begin.

    With a message, "use_existing" means that the message is still to be given to the run that is there.

    Raises:
        InvalidRequest: it has no request id, or options that make no sense.
        WorkflowAlreadyStarted: the policies forbid another run.
    """
    check_options(request)
    if execution is None:
        return None
    state, run_id = execution.state, execution.ref.run_id
    if state.started.request_id == request.request_id:
        return Started(state.started.first_run_id)
    if isinstance(request.message, StartUpdate) and request.message.update_id in state.finished:
        return Started(run_id, existing=True)  # it has answered, and may have closed since
    if execution.open:
        if request.id_conflict_policy == "use_existing":
            return Started(run_id, existing=True)
        if request.id_conflict_policy == "terminate_existing" and request.id_reuse_policy != "reject_duplicate":
            return None
        instead = "" if request.parent or request.scheduled_by else ", or id_conflict_policy='use_existing'"
        if request.id_conflict_policy == "terminate_existing":
            instead = " (id_reuse_policy='reject_duplicate' forbids another run of this one, so it is not terminated)"
        raise WorkflowAlreadyStarted(
            f"workflow id {request.workflow_id!r} is taken by a running {state.started.workflow_type} "
            f"(run {run_id}); use another id{instead}",
            run_id,
        )
    failed = state.status in ("Failed", "TimedOut", "Canceled", "Terminated")
    if request.id_reuse_policy == "reject_duplicate" or (
        request.id_reuse_policy == "allow_duplicate_failed_only" and not failed
    ):
        raise WorkflowAlreadyStarted(
            f"workflow id {request.workflow_id!r} was used by a run that is {in_words(state.status)} "
            f"(run {run_id}), and id_reuse_policy={request.id_reuse_policy!r} forbids another",
            run_id,
        )
    return None
