"""Holds: an activity that waits for a person; and what a person can do about any activity."""

from __future__ import annotations

import pytest

from perdure.clock import DAY, HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core.queries import describe
from perdure.errors import InvalidRequest, NotFound, NotRunning
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NAMESPACE, NOW, WORKFLOW, Run, effects, payload

HOLD = Failure("raise the quota", ("perdure.errors.Hold",), "hold")
STATUSES = ["scheduled", "started", "backing_off", "held"]


def with_activity(status: str, **fields: object) -> Run:
    """A run whose activity "a" is in this status."""
    run = Run.begin()
    run.schedule("a", **fields)
    if status != "scheduled":
        token = run.start()
        if status != "started":
            run.fail_activity(token, HOLD if status == "held" else FAILURE)
    assert run.activity().status == status
    return run


def settle(run: Run, how: str) -> list[fx.CancelAttempt]:
    """A person gives the activity its outcome; who is told to stop."""
    if how == "completed":
        request: object = q.CompleteActivity(NAMESPACE, WORKFLOW, "", "a", payload("by hand"), "did it", "ann")
    else:
        request = q.FailActivity(NAMESPACE, WORKFLOW, "", "a", FAILURE, "gave up", "ann")
    tx = run.decide(request)
    assert tx.reply == q.Done() and effects(tx, fx.OfferWorkflowTask)
    return effects(tx, fx.CancelAttempt)


# --- Held -----------------------------------------------------------------------------------------------
def test_an_activity_that_asks_for_a_person_waits_at_no_compute() -> None:
    run = with_activity("held")
    activity = run.activity()
    assert (activity.hold_reason, activity.held_at, activity.last_failure) == ("raise the quota", NOW, HOLD)
    assert run.execution.wake_at() == 0 and run.state.running == 0
    assert run.state.task is None
    run.crash()
    assert run.activity().status == "held"


@pytest.mark.parametrize("name", ["app.Quota", "Quota", "CloudError", "builtins.Exception"])
def test_hold_on_matches_any_class_of_the_failure(name: str) -> None:
    run = Run.begin()
    quota = Failure("no room", ("app.Quota", "app.CloudError", "builtins.Exception"))
    run.fail_activity(run.running(retry_policy=RetryPolicy(hold_on=(name,))), quota)
    assert (run.activity().status, run.activity().hold_reason) == ("held", "no room")


def test_time_spent_held_does_not_count_against_schedule_to_close() -> None:
    run = with_activity("held", schedule_to_close_timeout=HOUR)
    assert run.execution.wake_at() == 0
    run.now += 30 * DAY
    run.release("a")
    assert run.execution.wake_at() == NOW + 30 * DAY + HOUR


def test_a_clock_that_goes_back_takes_no_time_away() -> None:
    run = with_activity("held", schedule_to_close_timeout=HOUR)
    run.now -= 10 * MINUTE
    run.release("a")
    assert run.execution.wake_at() == NOW + HOUR


# --- Released -------------------------------------------------------------------------------------------
def test_a_release_lets_it_go_on_and_records_who_when_and_why() -> None:
    run = with_activity("held")
    run.now += DAY
    tx = run.release("a", note="quota is now 20", identity="ann")
    assert tx.reply == q.Done()
    assert effects(tx, fx.ActivityOffer) == [fx.ActivityOffer(run.activity().event.id, 2, "queue", 0)]
    (record,) = [record for record in run.journaled() if isinstance(record, r.ActivityReleased)]
    assert (record.note, record.identity, record.time) == ("quota is now 20", "ann", NOW + DAY)
    activity = run.activity()
    assert (activity.status, activity.hold_reason, activity.held_at) == ("scheduled", "", 0)
    run.decide(t.ActivityCompletion(run.start(), payload(1)))
    started = run.history[-3]
    assert isinstance(started, e.ActivityTaskStarted) and started.attempt == 2


def test_a_release_gives_the_policy_a_fresh_start() -> None:
    run = Run.begin()
    run.schedule(retry_policy=RetryPolicy(maximum_attempts=2, on_exhausted="hold"))
    for attempt in (1, 3, 5):
        assert run.activity().attempt == attempt
        run.fail_activity(run.start())
        assert run.activity().status == "backing_off"
        assert run.execution.wake_at() - run.now <= SECOND  # the backoff begins anew, too
        run.wake()
        run.fail_activity(run.start())
        assert run.activity().status == "held"
        assert run.activity().hold_reason.startswith("all 2 attempts failed")
        run.release("a")


def test_options_of_a_release_are_in_force_from_then_on() -> None:
    run = with_activity("held", start_to_close_timeout=MINUTE, heartbeat_timeout=MINUTE)
    policy = RetryPolicy(maximum_attempts=1, non_retryable=("Luck",))
    run.release(
        "a",
        retry_policy=policy,
        start_to_close_timeout=2 * HOUR,
        schedule_to_close_timeout=3 * HOUR,
        heartbeat_timeout=0,
    )
    run.crash()
    assert run.execution.wake_at() == NOW + 3 * HOUR
    token = run.start()
    assert run.execution.wake_at() == NOW + 2 * HOUR
    run.fail_activity(token)
    failed = run.history[-2]
    assert isinstance(failed, e.ActivityTaskFailed) and failed.retry_state == "non_retryable"


def test_options_that_a_release_does_not_name_stay() -> None:
    run = with_activity("held", start_to_close_timeout=MINUTE)
    run.release("a", retry_policy=RetryPolicy(maximum_attempts=1))
    run.start()
    assert run.execution.wake_at() == NOW + MINUTE


def test_a_release_without_a_name_is_for_all_that_are_held() -> None:
    run = with_activity("held")
    for name, failure in (("b", HOLD), ("c", FAILURE)):
        run.signal(name)
        run.fail_activity(run.running(name), failure)
    tx = run.release()
    assert [run.activity(name).status for name in "abc"] == ["scheduled", "scheduled", "backing_off"]
    assert len(effects(tx, fx.ActivityOffer)) == 2


def test_releasing_what_backs_off_does_not_wait_and_forgives_nothing() -> None:
    run = with_activity("backing_off", retry_policy=RetryPolicy(maximum_attempts=2))
    run.release("a")
    activity = run.activity()
    assert (activity.status, activity.attempt, activity.next_attempt_at) == ("scheduled", 2, 0)
    run.fail_activity(run.start())
    assert not run.state.activities


@pytest.mark.parametrize("status", ["scheduled", "started"])
def test_what_does_not_wait_can_not_be_released(status: str) -> None:
    with pytest.raises(NotFound, match=f"'a' is {status}: there is nothing to release"):
        with_activity(status).release("a")


def test_a_release_that_names_nothing_says_what_there_is() -> None:
    run = with_activity("backing_off")
    with pytest.raises(NotFound, match="has no held activity"):
        run.release()
    with pytest.raises(NotFound, match=r"no pending activity 'b'; pending: a \(create_vpc, backing_off\)"):
        run.release("b")


def test_a_release_with_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="retry_policy: maximum_attempts"):
        with_activity("held").release("a", retry_policy=RetryPolicy(maximum_attempts=-1))


def test_what_is_closed_can_not_be_released_or_settled() -> None:
    run = with_activity("held")
    run.terminate()
    with pytest.raises(NotRunning):
        run.release("a")
    with pytest.raises(NotRunning):
        settle(run, "completed")


# --- Settled by a person --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["completed", "failed"])
@pytest.mark.parametrize("status", STATUSES)
def test_a_person_may_give_an_activity_its_outcome_whatever_it_does(status: str, how: str) -> None:
    run = with_activity(status)
    token = t.ActivityToken(run.execution.ref, run.activity().event.id, 1)
    told = settle(run, how)
    assert told == ([fx.CancelAttempt("worker-1", token, "settled")] if status == "started" else [])
    over = run.history[-2]
    if how == "completed":
        assert isinstance(over, e.ActivityTaskCompleted)
        assert (over.result, over.identity) == (payload("by hand"), "ann")
    else:
        assert isinstance(over, e.ActivityTaskFailed)
        assert (over.failure, over.retry_state, over.identity) == (FAILURE, "manual", "ann")
    if status == "scheduled":
        assert over.started_event_id == 0  # no attempt ever began
    else:
        started = run.history[-3]
        assert isinstance(started, e.ActivityTaskStarted) and over.started_event_id == started.id
        assert (started.attempt, started.identity, started.started_at) == (1, "worker-1", NOW)
    (record,) = [record for record in run.journaled() if isinstance(record, r.ActivitySettled)]
    assert (record.how, record.identity, record.time) == (how, "ann", NOW)
    assert not run.state.activities and run.state.running == 0 and run.execution.wake_at() == 0
    with pytest.raises(NotFound):
        run.decide(t.ActivityCompletion(token, payload("too late")))


def test_what_persons_did_is_told_even_after_the_end() -> None:
    run = with_activity("held")
    run.now += HOUR
    run.release("a", note="quota is now 20", identity="ann")
    settle(run, "failed")
    run.terminate()
    run.crash()
    assert describe(run.execution).interventions == (
        q.Intervention(NOW + HOUR, "ann", "a", "released", "quota is now 20"),
        q.Intervention(NOW + HOUR, "ann", "a", "failed", "gave up"),
    )


def test_an_outcome_given_during_a_task_waits_for_its_end() -> None:
    run = with_activity("held")
    run.signal()
    run.take()
    length = len(run.history)
    run.decide(q.CompleteActivity(NAMESPACE, WORKFLOW, "", "a", payload(1)))
    with pytest.raises(NotFound, match="no pending activity 'a'"):
        run.decide(q.CompleteActivity(NAMESPACE, WORKFLOW, "", "a", payload(2)))
    run.complete()
    assert run.names(length + 2) == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
