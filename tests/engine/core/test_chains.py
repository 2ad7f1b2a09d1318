"""Starts that wait, starts with a message, and runs that are tried again."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions.starts import check_start
from perdure.errors import InvalidRequest, WorkflowAlreadyStarted
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.requests import Started, StartSignal, StartUpdate, StartWorkflow
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NOW, RUN, Run, effects, payload, start_request

POLICY = RetryPolicy(initial_interval=10 * SECOND, maximum_attempts=3, non_retryable=("Hopeless",))
SIGNAL = StartSignal("approve", (payload("bob"),))
UPDATE = StartUpdate("u", "resize", (payload(20),))


def started(run: Run) -> e.WorkflowExecutionStarted:
    first = run.history[0]
    assert isinstance(first, e.WorkflowExecutionStarted)
    return first


# --- Delays ---------------------------------------------------------------------------------------------
def test_a_delayed_start_has_no_workflow_task_until_then() -> None:
    run = Run.begin(start_delay=HOUR)
    assert run.names() == ["WorkflowExecutionStarted"]
    assert started(run).first_workflow_task_backoff == HOUR
    assert run.execution.wake_at() == NOW + HOUR
    run.wake()
    assert run.last == e.WorkflowTaskScheduled(2, NOW + HOUR, "queue")
    assert run.execution.wake_at() == 0


def test_the_timeouts_of_a_delayed_start_begin_after_the_delay() -> None:
    assert Run.begin(start_delay=HOUR, run_timeout=MINUTE).execution.deadlines.at((0, 0, "")) == NOW + HOUR + MINUTE
    run = Run.begin(start_delay=HOUR, execution_timeout=MINUTE)
    run.wake()
    run.wake()
    assert run.state.status == "TimedOut" and run.state.close_time == NOW + HOUR + MINUTE


def test_messages_wait_for_the_start_and_a_cancel_request_does_not() -> None:
    run = Run.begin(start_delay=HOUR)
    run.signal()
    run.update()
    assert run.state.task is None and run.names() == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
    run.cancel()
    assert run.names(2) == ["WorkflowExecutionCancelRequested", "WorkflowTaskScheduled"]


def test_a_delay_survives_the_process() -> None:
    run = Run.begin(start_delay=HOUR)
    run.crash()
    run.wake()
    assert run.names() == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]


def test_a_delayed_run_can_be_terminated() -> None:
    run = Run.begin(start_delay=HOUR)
    run.terminate()
    assert run.state.status == "Terminated"


# --- Messages -------------------------------------------------------------------------------------------
def test_a_signal_goes_with_a_start_before_the_first_task() -> None:
    run = Run.begin(message=SIGNAL, identity="ann", id_conflict_policy="use_existing")
    assert run.names() == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled", "WorkflowTaskScheduled"]
    assert run.history[1] == e.WorkflowExecutionSignaled(2, NOW, "approve", (payload("bob"),), "ann")


def test_an_update_goes_with_a_start() -> None:
    run = Run.begin(message=UPDATE)
    assert list(run.state.admitted) == ["u"] and run.state.task is not None


def test_a_signal_with_a_delayed_start_waits_and_that_of_another_start_does_not() -> None:
    run = Run.begin(message=SIGNAL, start_delay=HOUR, id_conflict_policy="use_existing")
    assert run.names() == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]
    request = start_request("start-2", message=SIGNAL, id_conflict_policy="use_existing")
    assert check_start(run.execution, request) == Started(RUN, existing=True)
    tx = run.decide(i.Join(request))
    assert tx.reply == Started(RUN, existing=True) and tx.dedup == ("start:start-2",)
    assert run.names(2) == ["WorkflowExecutionSignaled", "WorkflowTaskScheduled"]


def test_an_update_with_a_start_is_admitted_once() -> None:
    run = Run.begin()
    request = start_request("start-2", message=UPDATE, id_conflict_policy="use_existing")
    assert set(run.decide(i.Join(request)).dedup) == {"start:start-2", "update:u"}
    again = run.decide(i.Join(request))
    assert not again.changed and again.dedup == ()


def test_a_start_that_joins_is_remembered_and_changes_nothing() -> None:
    run = Run.begin(start_delay=HOUR)
    tx = run.decide(i.Join(start_request("start-2", id_conflict_policy="use_existing")))
    assert tx.reply == Started(RUN, existing=True) and tx.dedup == ("start:start-2",)
    assert not tx.changed and run.names() == ["WorkflowExecutionStarted"]


def test_an_update_that_was_answered_starts_nothing_once_its_run_is_closed() -> None:
    run = Run.begin()
    run.update()
    run.complete(c.AcceptUpdate("u"), c.CompleteUpdate("u", payload(1)))
    run.terminate()
    assert check_start(run.execution, start_request("start-2", message=UPDATE)) == Started(RUN, existing=True)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"message": SIGNAL}, "not 'fail'"),
        ({"message": StartUpdate("", "resize", ())}, "update_id"),
        ({"message": UPDATE, "start_delay": HOUR}, "start_delay"),
        ({"retry_policy": RetryPolicy(on_exhausted="hold")}, "for activities"),
        ({"retry_policy": RetryPolicy(hold_on=("Quota",))}, "for activities"),
        ({"retry_policy": RetryPolicy(backoff_coefficient=0.5)}, "retry_policy: backoff_coefficient"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_start(None, start_request(**fields))  # pyright: ignore[reportArgumentType]


def test_the_policies_hold_for_starts_with_messages() -> None:
    run = Run.begin()
    with pytest.raises(WorkflowAlreadyStarted, match="running"):
        check_start(run.execution, start_request("start-2", message=UPDATE))
    run.terminate()
    request: StartWorkflow = start_request(
        "start-2", message=SIGNAL, id_conflict_policy="use_existing", id_reuse_policy="reject_duplicate"
    )
    with pytest.raises(WorkflowAlreadyStarted, match="forbids another"):
        check_start(run.execution, request)


# --- Retries --------------------------------------------------------------------------------------------
def test_a_run_that_fails_is_followed_by_another_attempt() -> None:
    run = Run.begin(retry_policy=POLICY, memo={"team": payload("a")}, task_timeout=MINUTE, execution_timeout=HOUR)
    tx = run.complete(c.FailWorkflow(FAILURE))
    end = run.last
    assert isinstance(end, e.WorkflowExecutionFailed)
    assert end.retry_state == "in_progress" and end.new_run_id == run.state.new_run_id
    assert effects(tx, fx.ContinueRun)
    following = run.continued()
    first = started(following)
    assert (first.attempt, first.run_id, first.first_run_id, first.continued_run_id) == (2, end.new_run_id, RUN, RUN)
    assert (first.input, first.memo, first.retry_policy) == ((payload("input"),), {"team": payload("a")}, POLICY)
    assert (first.workflow_task_timeout, first.continued_failure) == (MINUTE, FAILURE)
    assert first.execution_deadline == NOW + HOUR
    assert 8 * SECOND <= first.first_workflow_task_backoff <= 10 * SECOND
    assert following.names() == ["WorkflowExecutionStarted"]
    following.wake()
    third = following
    third.complete(c.FailWorkflow(FAILURE))
    last = third.continued()
    assert started(last).attempt == 3 and 16 * SECOND <= started(last).first_workflow_task_backoff <= 20 * SECOND
    last.wake()
    last.complete(c.FailWorkflow(FAILURE))
    assert isinstance(last.last, e.WorkflowExecutionFailed)
    assert (last.last.retry_state, last.last.new_run_id) == ("maximum_attempts", "")


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (Failure("no", ("app.Hopeless",)), "non_retryable"),
        (Failure("no", ("app.Other",), non_retryable=True), "non_retryable"),
        (Failure("no", ("app.Other",), next_retry_delay=HOUR), "timeout"),
        (Failure("no", ("app.Other",)), "in_progress"),
    ],
)
def test_which_failures_are_not_retried(failure: Failure, state: str) -> None:
    run = Run.begin(retry_policy=POLICY, execution_timeout=HOUR)
    run.complete(c.FailWorkflow(failure))
    assert isinstance(run.last, e.WorkflowExecutionFailed) and run.last.retry_state == state


def test_a_run_that_takes_too_long_is_tried_again() -> None:
    run = Run.begin(retry_policy=POLICY, run_timeout=MINUTE)
    run.wake()
    assert isinstance(run.last, e.WorkflowExecutionTimedOut) and run.last.retry_state == "in_progress"
    first = started(run.continued())
    assert first.attempt == 2 and first.continued_failure is not None and first.continued_failure.kind == "timeout"


def test_the_chains_deadline_ends_the_retries() -> None:
    run = Run.begin(retry_policy=POLICY, execution_timeout=MINUTE)
    run.wake()
    assert isinstance(run.last, e.WorkflowExecutionTimedOut) and run.last.retry_state == "timeout"


def test_only_failures_are_retried() -> None:
    run = Run.begin(retry_policy=POLICY)
    run.terminate()
    assert not run.state.new_run_id
    run = Run.begin(retry_policy=POLICY)
    run.cancel()
    run.complete(c.CancelWorkflow())
    assert not run.state.new_run_id


def test_a_parent_hears_of_the_last_attempt_only() -> None:
    parent = e.ParentRef("default", "boss", "run-0", 5)
    run = Run.begin(retry_policy=RetryPolicy(maximum_attempts=2), parent=parent)
    run.complete(c.FailWorkflow(FAILURE))
    assert run.state.outbox == {}
    following = run.continued()
    following.wake()
    following.complete(c.FailWorkflow(FAILURE))
    assert len(following.state.outbox) == 1


def test_continue_as_new_counts_attempts_afresh() -> None:
    run = Run.begin(retry_policy=POLICY)
    run.complete(c.FailWorkflow(FAILURE))
    run = run.continued()
    run.wake()
    run.complete(c.ContinueAsNew("Type", "", ()))
    first = started(run.continued())
    assert (first.attempt, first.retry_policy, first.first_workflow_task_backoff) == (1, POLICY, 0)
