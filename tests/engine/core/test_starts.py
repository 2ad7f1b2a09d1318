"""Starts: the first events of a history, what a taken workflow id means, and the next run of a chain."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core.decisions.starts import check_start
from perdure.errors import InvalidRequest, WorkflowAlreadyStarted
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.events import IdReusePolicy
from perdure.model.requests import Started
from tests.engine.core.harness import FAILURE, NOW, QUEUE, RUN, Run, effects, payload, start_request


def test_a_run_begins_with_its_input_and_an_open_workflow_task() -> None:
    run = Run.begin(identity="ann", memo={"team": payload("payments")})
    started, scheduled = run.history
    assert isinstance(started, e.WorkflowExecutionStarted)
    assert (started.id, started.time, started.run_id, started.first_run_id) == (1, NOW, RUN, RUN)
    assert (started.workflow_type, started.input, started.identity) == ("Type", (payload("input"),), "ann")
    assert scheduled == e.WorkflowTaskScheduled(2, NOW, QUEUE)
    assert run.state.task is not None and run.state.status == "Running"
    assert run.execution.wake_at() == 0  # nobody is waited for: the task is offered at once


def test_an_id_that_nobody_has_may_be_started() -> None:
    assert check_start(None, start_request()) is None


def test_a_start_without_a_request_id_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="request_id"):
        check_start(None, start_request(""))


def test_a_repeated_start_is_answered_whatever_the_policies_say() -> None:
    run = Run.begin()
    again = start_request(id_reuse_policy="reject_duplicate")
    assert check_start(run.execution, again) == Started(RUN)
    run.terminate()
    assert check_start(run.execution, again) == Started(RUN)


def test_a_repeated_start_is_recognised_after_continue_as_new() -> None:
    run = Run.begin()
    run.complete(c.ContinueAsNew("Type", "", ()))
    assert check_start(run.continued().execution, start_request()) == Started(RUN)


def test_an_id_of_an_open_run_is_taken() -> None:
    run = Run.begin()
    with pytest.raises(WorkflowAlreadyStarted, match=f"'wf' is taken by a running Type .run {RUN}.") as caught:
        check_start(run.execution, start_request("start-2"))
    assert caught.value.run_id == RUN
    existing = check_start(run.execution, start_request("start-2", id_conflict_policy="use_existing"))
    assert existing == Started(RUN, existing=True)
    assert check_start(run.execution, start_request("start-2", id_conflict_policy="terminate_existing")) is None


@pytest.mark.parametrize(
    ("policy", "failed", "allowed"),
    [
        ("allow_duplicate", False, True),
        ("allow_duplicate", True, True),
        ("allow_duplicate_failed_only", False, False),
        ("allow_duplicate_failed_only", True, True),
        ("reject_duplicate", False, False),
        ("reject_duplicate", True, False),
    ],
)
def test_an_id_of_a_closed_run_may_be_used_again_as_the_policy_says(
    policy: IdReusePolicy, failed: bool, allowed: bool
) -> None:
    run = Run.begin()
    run.complete(c.FailWorkflow(FAILURE) if failed else c.CompleteWorkflow(payload(1)))
    again = start_request("start-2", id_reuse_policy=policy)
    if allowed:
        assert check_start(run.execution, again) is None
    else:
        with pytest.raises(WorkflowAlreadyStarted, match=f"id_reuse_policy='{policy}' forbids another"):
            check_start(run.execution, again)


def test_a_run_times_out_by_the_earlier_of_its_timeouts() -> None:
    assert Run.begin(run_timeout=MINUTE, execution_timeout=HOUR).execution.wake_at() == NOW + MINUTE
    run = Run.begin(run_timeout=HOUR, execution_timeout=MINUTE)
    run.wake(NOW + MINUTE - 1)
    assert run.state.status == "Running"
    tx = run.wake(NOW + MINUTE)
    assert run.last == e.WorkflowExecutionTimedOut(3, NOW + MINUTE)
    assert effects(tx, fx.RunClosed) and effects(tx, fx.EvictCopy)


def test_continue_as_new_keeps_the_chains_facts_and_deadline() -> None:
    run = Run.begin(execution_timeout=HOUR, run_timeout=2 * MINUTE, memo={"team": payload("payments")})
    run.now += MINUTE
    tx = run.complete(c.ContinueAsNew("Other", "elsewhere", (payload(2),)))
    end = run.last
    assert isinstance(end, e.WorkflowExecutionContinuedAsNew)
    assert effects(tx, fx.ContinueRun) and run.state.new_run_id == end.new_run_id != RUN
    run.now -= 5 * SECOND  # the clock goes back, the chain's time does not
    following = run.continued()
    started = following.history[0]
    assert isinstance(started, e.WorkflowExecutionStarted)
    assert (started.run_id, started.first_run_id, started.continued_run_id) == (end.new_run_id, RUN, RUN)
    assert (started.workflow_type, started.task_queue, started.input) == ("Other", "elsewhere", (payload(2),))
    assert started.time == end.time
    assert started.memo == {"team": payload("payments")}
    assert following.state.run_no == 2
    assert following.execution.wake_at() == started.time + 2 * MINUTE  # each run has its own run_timeout
    following.wake()
    assert following.state.status == "TimedOut"


def test_a_chain_ends_by_its_execution_timeout_however_often_it_continues() -> None:
    run = Run.begin(execution_timeout=HOUR)
    run.now += 59 * MINUTE
    run.complete(c.ContinueAsNew("Type", "", ()))
    assert run.continued().execution.wake_at() == NOW + HOUR


def test_the_next_runs_id_is_the_same_when_it_is_decided_again() -> None:
    ids: set[str] = set()
    for _ in range(2):
        run = Run.begin()
        run.complete(c.ContinueAsNew("Type", "", ()))
        ids.add(run.state.new_run_id)
    assert len(ids) == 1
