"""Wake-ups: everything that happens because time has passed; and the time that the node itself lost."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.clock import DAY, HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import tasks as t
from tests.engine.core.harness import KEY, NOW, Run, effects, payload, schedule


def test_a_run_that_waits_for_nothing_in_time_is_never_woken() -> None:
    run = Run.begin()
    run.complete(schedule("a"))
    assert run.execution.wake_at() == 0
    assert not run.decide(i.WakeUp(KEY)).changed


def test_a_run_wakes_for_the_earliest_of_all_that_it_waits_for() -> None:
    run = Run.begin(run_timeout=DAY)
    assert run.execution.wake_at() == NOW + DAY
    run.complete(c.StartTimer("t", HOUR), schedule("a", start_to_close_timeout=MINUTE), schedule("b"))
    assert run.execution.wake_at() == NOW + HOUR
    token = run.start("a")
    assert run.execution.wake_at() == NOW + MINUTE
    run.fail_activity(run.start("b"))
    assert run.execution.wake_at() == run.activity("b").next_attempt_at < NOW + MINUTE
    run.wake()
    run.decide(t.ActivityCompletion(token, payload(1)))
    assert run.execution.wake_at() == NOW + HOUR


def test_an_early_wake_up_does_nothing() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", HOUR))
    tx = run.wake(NOW + MINUTE)
    assert not tx.changed and not tx.effects and run.execution.wake_at() == NOW + HOUR


def test_all_that_is_due_is_served_at_once_the_longest_due_first() -> None:
    run = Run.begin()
    run.complete(
        c.StartTimer("t", 2 * MINUTE),
        schedule("slow", start_to_close_timeout=MINUTE),
        schedule("late", schedule_to_start_timeout=3 * MINUTE),
        c.SignalExternalWorkflow("other", "", "hello", ()),
    )
    run.start("slow")
    length = len(run.history)
    tx = run.wake(NOW + HOUR)
    assert [type(effect) for effect in tx.effects] == [fx.Send, fx.CancelAttempt, fx.Tell, fx.OfferWorkflowTask]
    assert run.names(length) == ["TimerFired", "WorkflowTaskScheduled", "ActivityTaskTimedOut"]
    assert run.activity("slow").status == "backing_off"


def test_what_ends_the_run_ends_what_else_is_due() -> None:
    run = Run.begin(run_timeout=2 * MINUTE)
    run.complete(c.StartTimer("before", MINUTE), c.StartTimer("after", HOUR), schedule("a"))
    run.fail_activity(run.start("a"))
    tx = run.wake(NOW + DAY)
    assert run.names()[-2:] == ["WorkflowTaskScheduled", "WorkflowExecutionTimedOut"]
    assert run.names().count("TimerFired") == 1
    assert not effects(tx, fx.ActivityOffer)  # the retry was due, and is not wanted any more


def test_a_failing_workflow_task_is_offered_when_its_backoff_is_over() -> None:
    run = Run.begin()
    run.fail_task()
    assert effects(run.wake(), fx.OfferWorkflowTask)


def test_time_never_goes_back_for_a_workflow() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", HOUR))
    run.wake()
    run.now = NOW
    tx = run.complete(c.StartTimer("u", HOUR))
    assert tx.now == NOW + HOUR
    assert run.execution.wake_at() == NOW + 2 * HOUR


# --- Stalls ---------------------------------------------------------------------------------------------
STALLS = ((NOW + 20 * SECOND, NOW + 50 * SECOND), (NOW + 55 * SECOND, NOW + 60 * SECOND))


@pytest.mark.parametrize("timeout", ["start_to_close_timeout", "heartbeat_timeout", "schedule_to_start_timeout"])
def test_nothing_times_out_because_the_node_stalled(timeout: str) -> None:
    run = Run.begin()
    fields: dict[str, Any] = {timeout: 30 * SECOND}
    run.schedule(**fields)
    if timeout != "schedule_to_start_timeout":
        run.start()
    status = run.activity().status
    assert not run.wake(NOW + 51 * SECOND, STALLS[:1]).changed
    assert run.execution.wake_at() == NOW + 60 * SECOND  # the 10 seconds that were left when the stall began
    assert not run.wake(NOW + 60 * SECOND, STALLS).changed
    assert run.execution.wake_at() == NOW + 65 * SECOND  # and half of those were lost in the next
    assert run.activity().status == status
    assert run.wake(NOW + 65 * SECOND, STALLS).changed


def test_a_stall_that_is_not_remembered_any_more_extends_nothing() -> None:
    run = Run.begin()
    run.complete(schedule("a", start_to_close_timeout=30 * SECOND), c.StartTimer("t", 35 * SECOND))
    run.start()
    run.wake(NOW + 22 * SECOND, STALLS[:1])
    assert run.execution.wake_at() == NOW + 35 * SECOND
    run.wake(NOW + 22 * SECOND)
    assert run.execution.wake_at() == NOW + 30 * SECOND


def test_a_stall_before_or_after_a_timeout_does_not_extend_it() -> None:
    run = Run.begin()
    run.running(start_to_close_timeout=MINUTE)
    for stall in ((NOW - HOUR, NOW), (NOW + MINUTE, NOW + HOUR)):
        run.wake(NOW + SECOND, (stall,))
        assert run.execution.wake_at() == NOW + MINUTE


def test_what_the_user_promised_to_the_minute_is_not_extended() -> None:
    run = Run.begin(run_timeout=2 * MINUTE)
    run.complete(schedule("a", schedule_to_close_timeout=30 * SECOND), c.StartTimer("t", 40 * SECOND))
    run.wake(NOW + 51 * SECOND, STALLS[:1])
    assert run.names()[-3:] == ["ActivityTaskTimedOut", "WorkflowTaskScheduled", "TimerFired"]
    run.wake(NOW + 2 * MINUTE, STALLS)
    assert isinstance(run.last, e.WorkflowExecutionTimedOut)


def test_a_retry_is_not_put_off_by_a_stall() -> None:
    run = Run.begin()
    run.fail_activity(run.running())
    assert effects(run.wake(NOW + 51 * SECOND, STALLS[:1]), fx.ActivityOffer)
