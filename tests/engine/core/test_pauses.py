"""What persons do about a run and its activities: pauses, resets, other options, and a run that a limit holds."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import messages
from perdure.errors import InvalidRequest, LimitExceeded, NotFound, NotRunning
from perdure.limits import RELEASED_BYTES, RELEASED_EVENTS
from perdure.model import commands as c
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.requests import Intervention, Pause
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import NAMESPACE, NOW, WORKFLOW, Run, effects, payload

RUN = NAMESPACE, WORKFLOW, ""


def pause(run: Run) -> None:
    run.decide(q.PauseWorkflow(*RUN, "look at it", "ann"))


def resume(run: Run) -> fx.OfferWorkflowTask | None:
    offers = effects(run.decide(q.ResumeWorkflow(*RUN, "seen", "bob")), fx.OfferWorkflowTask)
    return offers[0] if offers else None


# --- The run --------------------------------------------------------------------------------------------
def test_a_paused_run_takes_messages_and_its_code_is_given_nothing() -> None:
    run = Run.begin()
    run.complete()
    pause(run)
    assert run.state.paused == Pause(NOW, "ann", "look at it")
    run.signal()
    run.update()
    run.cancel()
    assert run.names(4) == [
        "WorkflowExecutionSignaled", "WorkflowTaskScheduled", "WorkflowExecutionCancelRequested",
    ]  # fmt: skip
    with pytest.raises(LookupError):
        run.take()
    run.crash()
    with pytest.raises(LookupError):
        run.take()
    assert resume(run)
    run.take()
    assert [(each.identity, each.action, each.note) for each in run.state.interventions] == [
        ("ann", "paused", "look at it"), ("bob", "resumed", "seen"),
    ]  # fmt: skip


def test_pausing_and_resuming_twice_changes_nothing() -> None:
    run = Run.begin()
    assert not run.decide(q.ResumeWorkflow(*RUN)).changed
    pause(run)
    assert not run.decide(q.PauseWorkflow(*RUN, "again", "cat")).changed
    assert run.state.paused == Pause(NOW, "ann", "look at it")
    resume(run)
    assert not run.decide(q.ResumeWorkflow(*RUN)).changed


def test_a_closed_run_is_neither_paused_nor_resumed() -> None:
    run = Run.begin()
    pause(run)
    run.terminate()
    assert run.state.status == "Terminated"
    for request in (q.PauseWorkflow(*RUN), q.ResumeWorkflow(*RUN)):
        with pytest.raises(NotRunning):
            run.decide(request)


def test_the_task_that_a_worker_has_is_answered_but_what_it_asks_for_waits() -> None:
    run = Run.begin()
    run.take()
    pause(run)
    tx = run.complete(c.ScheduleActivity("a", "create_vpc", "", ()), c.StartTimer("t", MINUTE))
    assert not effects(tx, fx.ActivityOffer)
    with pytest.raises(NotFound):
        run.decide(i.StartActivity(5, 1, "worker-1"))
    run.wake()  # the timer fires
    assert run.names(-2) == ["TimerFired", "WorkflowTaskScheduled"]
    tx = run.decide(q.ResumeWorkflow(*RUN))
    assert len(tx.offers) == 1 and [type(effect) for effect in tx.effects] == [fx.OfferWorkflowTask]
    run.start()


def test_attempts_that_run_go_on_while_their_run_is_paused_and_others_wait() -> None:
    run = Run.begin()
    token = run.running()
    pause(run)
    run.fail_activity(token)
    assert run.activity().status == "backing_off"
    tx = run.wake()
    assert run.activity().status == "scheduled" and not effects(tx, fx.ActivityOffer)
    (offer,) = effects(run.decide(q.ResumeWorkflow(*RUN)), fx.ActivityOffer)
    assert offer.attempt == 2
    token = run.start()
    pause(run)
    run.decide(t.ActivityCompletion(token, payload(1)))
    assert run.names(-3) == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]


def test_waiting_for_a_worker_is_not_measured_while_the_run_is_paused() -> None:
    run = Run.begin()
    run.schedule(schedule_to_start_timeout=MINUTE)
    assert run.execution.wake_at() == NOW + MINUTE
    pause(run)
    assert run.execution.wake_at() == 0
    run.now += HOUR
    resume(run)
    assert run.execution.wake_at() == NOW + HOUR + MINUTE


def test_a_pause_holds_for_the_run_that_follows() -> None:
    run = Run.begin()
    run.take()
    pause(run)
    run.complete(c.ContinueAsNew("Type", "", ()))
    following = run.continued()
    assert following.state.paused == run.state.paused
    with pytest.raises(LookupError):
        following.take()
    assert resume(following)
    following.complete()


def test_a_paused_run_times_out() -> None:
    run = Run.begin(run_timeout=MINUTE)
    pause(run)
    run.wake()
    assert run.state.status == "TimedOut"


def test_a_task_that_failed_waits_for_its_backoff_and_for_the_person() -> None:
    run = Run.begin()
    run.fail_task()
    pause(run)
    run.wake()
    with pytest.raises(LookupError):
        run.take()
    assert resume(run)
    run.complete()


# --- A run that a limit holds ---------------------------------------------------------------------------
def test_a_run_that_a_limit_holds_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_HISTORY_EVENTS", 4)
    run = Run.begin()
    run.complete()
    assert run.state.held and run.state.task is None
    with pytest.raises(LimitExceeded):
        run.signal()
    run.now += HOUR
    tx = run.release(note="it may", identity="ann")
    assert effects(tx, fx.OfferWorkflowTask)
    assert (run.state.held, run.state.released_events) == ("", RELEASED_EVENTS)
    assert run.state.released_bytes == RELEASED_BYTES
    assert run.state.interventions == [Intervention(NOW + HOUR, "ann", "", "released", "it may")]
    run.signal()
    run.complete()
    assert not run.state.held
    with pytest.raises(NotFound):
        run.release()


# --- One activity ---------------------------------------------------------------------------------------
def test_a_paused_activity_starts_no_attempt() -> None:
    run = Run.begin()
    run.schedule(schedule_to_start_timeout=MINUTE)
    run.decide(q.PauseActivity(*RUN, "a", "quota", "ann"))
    assert run.activity().paused == Pause(NOW, "ann", "quota")
    assert run.execution.wake_at() == 0
    with pytest.raises(NotFound):
        run.start()
    assert not run.decide(q.PauseActivity(*RUN, "a")).changed
    run.now += HOUR
    tx = run.decide(q.UnpauseActivity(*RUN, "a", "more now", "bob"))
    assert effects(tx, fx.ActivityOffer) and run.execution.wake_at() == NOW + HOUR + MINUTE
    assert not run.decide(q.UnpauseActivity(*RUN, "a")).changed
    run.start()
    assert [each.action for each in run.state.interventions] == ["paused", "resumed"]


def test_a_running_attempt_of_a_paused_activity_goes_on_and_no_other_follows() -> None:
    run = Run.begin()
    token = run.running()
    run.decide(q.PauseActivity(*RUN, "a"))
    run.fail_activity(token)
    tx = run.wake()
    assert run.activity().status == "scheduled" and not effects(tx, fx.ActivityOffer)
    pause(run)
    assert not effects(run.decide(q.UnpauseActivity(*RUN, "a")), fx.ActivityOffer)
    assert effects(run.decide(q.ResumeWorkflow(*RUN)), fx.ActivityOffer)


def test_an_unpaused_activity_waits_for_the_rest_of_its_backoff() -> None:
    run = Run.begin()
    run.fail_activity(run.running())
    at = run.execution.wake_at()
    run.decide(q.PauseActivity(*RUN, "a"))
    run.decide(q.UnpauseActivity(*RUN, "a"))
    assert run.activity().status == "backing_off" and run.execution.wake_at() == at


def test_a_reset_lets_the_policy_count_from_one() -> None:
    run = Run.begin()
    policy = RetryPolicy(initial_interval=SECOND, maximum_attempts=2)
    token = run.running(retry_policy=policy)
    run.decide(t.ActivityHeartbeat(token, (payload(7),)))
    run.fail_activity(token)
    tx = run.decide(q.ResetActivity(*RUN, "a", note="once more", identity="ann"))
    (offer,) = effects(tx, fx.ActivityOffer)
    assert offer.attempt == 2 and run.activity().heartbeat == ()
    token = run.start()
    run.fail_activity(token)  # the first of two, as the policy counts now
    assert run.activity().status == "backing_off"
    run.wake()
    run.fail_activity(run.start())
    assert "a" not in run.state.activity_ids
    assert run.state.interventions == [Intervention(NOW, "ann", "a", "reset", "once more")]


def test_a_reset_of_a_running_attempt_makes_it_the_first() -> None:
    run = Run.begin()
    token = run.running(retry_policy=RetryPolicy(maximum_attempts=2))
    run.decide(t.ActivityHeartbeat(token, (payload(7),)))
    run.fail_activity(token)
    run.wake()
    token = run.start()
    run.decide(q.ResetActivity(*RUN, "a", keep_heartbeat=True))
    assert run.activity().heartbeat == (payload(7),)
    run.fail_activity(token)
    assert run.activity().status == "backing_off"


def test_a_reset_lets_a_held_activity_go_on_unless_it_is_paused() -> None:
    run = Run.begin()
    run.fail_activity(run.running(retry_policy=RetryPolicy(maximum_attempts=1, on_exhausted="hold")))
    assert run.activity().status == "held"
    run.decide(q.PauseActivity(*RUN, "a"))
    tx = run.decide(q.ResetActivity(*RUN, "a"))
    assert (run.activity().status, run.activity().attempt) == ("scheduled", 2) and not effects(tx, fx.ActivityOffer)
    assert effects(run.decide(q.UnpauseActivity(*RUN, "a")), fx.ActivityOffer)


def test_options_of_an_activity_are_changed() -> None:
    run = Run.begin()
    run.running(start_to_close_timeout=HOUR)
    run.decide(q.UpdateActivityOptions(*RUN, "a", "quicker", "ann", start_to_close_timeout=MINUTE))
    assert run.execution.wake_at() == NOW + MINUTE
    policy = RetryPolicy(maximum_attempts=1)
    run.decide(q.UpdateActivityOptions(*RUN, "a", retry_policy=policy, schedule_to_start_timeout=5 * SECOND))
    run.wake()
    assert run.last.__class__.__name__ == "WorkflowTaskScheduled" and not run.state.activities
    assert run.state.interventions[0] == Intervention(NOW, "ann", "a", "changed", "quicker")


def test_an_activity_goes_to_another_queue() -> None:
    run = Run.begin()
    run.schedule(schedule_to_start_timeout=MINUTE)
    tx = run.decide(q.UpdateActivityOptions(*RUN, "a", task_queue="eu", schedule_to_start_timeout=HOUR))
    (offer,) = effects(tx, fx.ActivityOffer)
    assert offer.task_queue == "eu" and run.execution.wake_at() == NOW + HOUR
    started = run.decide(i.StartActivity(offer.scheduled_event_id, 1, "worker-1"))
    (handed,) = effects(started, fx.HandOver)
    assert handed.task.task_queue == "eu"


@pytest.mark.parametrize(
    "request_",
    [
        q.PauseActivity(*RUN, "b"),
        q.UnpauseActivity(*RUN, "b"),
        q.ResetActivity(*RUN, "b"),
        q.UpdateActivityOptions(*RUN, "b", heartbeat_timeout=5),
    ],
)
def test_an_unknown_activity_is_named(request_: q.Request[q.Done]) -> None:
    run = Run.begin()
    run.schedule()
    with pytest.raises(NotFound, match=r"no pending activity 'b'; pending: a .create_vpc, scheduled."):
        run.decide(request_)


def test_options_that_make_no_sense_are_refused() -> None:
    run = Run.begin()
    run.schedule()
    with pytest.raises(InvalidRequest, match="no option is given"):
        run.decide(q.UpdateActivityOptions(*RUN, "a"))
    with pytest.raises(InvalidRequest, match="retry_policy: backoff_coefficient"):
        run.decide(q.UpdateActivityOptions(*RUN, "a", retry_policy=RetryPolicy(backoff_coefficient=0)))


def test_what_persons_do_is_remembered_by_its_request_id() -> None:
    """A network may deliver a pause again after the run was resumed."""
    run = Run.begin()
    run.schedule()
    requests = (
        q.PauseWorkflow(*RUN, request_id="r"),
        q.ResumeWorkflow(*RUN, request_id="r"),
        q.PauseActivity(*RUN, "a", request_id="r"),
        q.UnpauseActivity(*RUN, "a", request_id="r"),
        q.ResetActivity(*RUN, "a", request_id="r"),
        q.UpdateActivityOptions(*RUN, "a", task_queue="eu", request_id="r"),
        q.CancelWorkflowRequest(*RUN, request_id="r"),
    )
    ids = [id for request in requests for id in run.decide(request).dedup]
    assert ids == [
        "pause:r", "resume:r", "pause_activity:r", "unpause_activity:r", "reset_activity:r",
        "update_activity_options:r", "cancel:r",
    ]  # fmt: skip
