"""Activities: attempts handed out, their outcomes, heartbeats, cancellation, and workers that go away."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.queries import describe
from perdure.errors import NotFound
from perdure.limits import HEARTBEAT_JOURNAL_INTERVAL
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NOW, Run, effects, payload, schedule

ONCE = RetryPolicy(maximum_attempts=1)


def outcome(run: Run) -> tuple[e.HistoryEvent, e.HistoryEvent]:
    """The last activity's outcome, and the event before it."""
    index = max(n for n, name in enumerate(run.names()) if name.startswith("ActivityTask"))
    return run.history[index - 1], run.history[index]


def test_an_attempt_is_handed_over_with_all_that_it_needs() -> None:
    run = Run.begin()
    tx = run.complete(schedule("a", start_to_close_timeout=HOUR, heartbeat_timeout=MINUTE, priority=3))
    scheduled = run.activity("a").event
    assert effects(tx, fx.ActivityOffer) == [fx.ActivityOffer(scheduled.id, 1, "queue", 3)]
    run.now += SECOND
    tx = run.decide(i.StartActivity(scheduled.id, 1, "worker-2"))
    token = t.ActivityToken(run.execution.ref, scheduled.id, 1)
    task = t.ActivityTask(
        token, "a", "create_vpc", "Type", "queue", (payload("a"),), NOW, NOW + SECOND, HOUR, MINUTE
    )  # fmt: skip
    assert effects(tx, fx.HandOver) == [fx.HandOver("worker-2", task)]
    assert run.state.running == 1
    assert run.names()[-1] == "ActivityTaskScheduled"  # a started attempt is no event yet


def test_an_attempt_is_started_once() -> None:
    run = Run.begin()
    scheduled = run.running().scheduled_event_id
    for stale in (i.StartActivity(scheduled, 1, "w"), i.StartActivity(scheduled, 2, "w"), i.StartActivity(99, 1, "w")):
        with pytest.raises(NotFound, match="does not wait"):
            run.decide(stale)


def test_a_completed_attempt_is_two_events_and_wakes_the_code() -> None:
    run = Run.begin()
    token = run.running(worker="worker-2")
    run.now += MINUTE
    tx = run.decide(t.ActivityCompletion(token, payload("vpc")))
    id = run.last.id
    assert run.history[-3:] == [
        e.ActivityTaskStarted(id - 2, NOW + MINUTE, token.scheduled_event_id, 1, "worker-2", NOW),
        e.ActivityTaskCompleted(id - 1, NOW + MINUTE, token.scheduled_event_id, id - 2, payload("vpc")),
        e.WorkflowTaskScheduled(id, NOW + MINUTE, "queue"),
    ]
    assert effects(tx, fx.OfferWorkflowTask)
    assert not run.state.activities and run.state.running == 0


@pytest.mark.parametrize("how", ["completed", "attempt", "run", "unknown", "waiting"])
def test_a_stale_token_is_refused(how: str) -> None:
    run = Run.begin()
    token = run.running()
    if how == "completed":
        run.decide(t.ActivityCompletion(token, payload(1)))
    elif how == "attempt":
        run.fail_activity(token)
        run.wake()
        run.start()
    elif how == "run":
        token = t.ActivityToken(t.RunRef("default", "wf", "run-2"), token.scheduled_event_id, 1)
    elif how == "unknown":
        token = t.ActivityToken(token.run, 77, 1)
    else:
        run.fail_activity(token)
    for message in (
        t.ActivityCompletion(token, payload(1)),
        t.ActivityFailure(token, FAILURE),
        t.ActivityCancellation(token),
        t.ActivityHeartbeat(token, ()),
        t.ActivityEvicted(token),
    ):
        with pytest.raises(NotFound, match="is not running"):
            run.decide(message)


def test_a_failure_that_ends_it_carries_attempt_and_last_failure() -> None:
    run = Run.begin()
    token = run.running(retry_policy=RetryPolicy(maximum_attempts=2))
    run.fail_activity(token)
    run.wake()
    second = Failure("again", ("builtins.ValueError",))
    run.fail_activity(run.start(worker="worker-2"), second)
    started, failed = outcome(run)
    assert isinstance(started, e.ActivityTaskStarted) and isinstance(failed, e.ActivityTaskFailed)
    assert (started.attempt, started.identity, started.last_failure) == (2, "worker-2", FAILURE)
    assert (failed.failure, failed.retry_state, failed.started_event_id) == (second, "maximum_attempts", started.id)


# --- Timeouts -------------------------------------------------------------------------------------------
def test_start_to_close_is_per_attempt_and_is_retried() -> None:
    run = Run.begin()
    run.running(start_to_close_timeout=MINUTE)
    tx = run.wake(NOW + MINUTE)
    assert [(x.worker, x.reason) for x in effects(tx, fx.CancelAttempt)] == [("worker-1", "timed_out")]
    activity = run.activity()
    assert (activity.status, activity.attempt) == ("backing_off", 2)
    assert activity.last_failure is not None and activity.last_failure.type == "start_to_close"
    run.wake()
    run.start()
    assert run.execution.wake_at() == run.now + MINUTE


def test_the_last_attempts_timeout_is_the_outcome() -> None:
    run = Run.begin()
    run.running(start_to_close_timeout=MINUTE, retry_policy=ONCE)
    run.wake()
    started, timed_out = outcome(run)
    assert isinstance(started, e.ActivityTaskStarted) and isinstance(timed_out, e.ActivityTaskTimedOut)
    assert timed_out.retry_state == "maximum_attempts" and timed_out.failure.kind == "timeout"


@pytest.mark.parametrize("name", ["start_to_close", "ActivityTimedOut", "builtins.TimeoutError"])
def test_a_policy_can_name_a_timeout(name: str) -> None:
    run = Run.begin()
    run.running(start_to_close_timeout=MINUTE, retry_policy=RetryPolicy(hold_on=(name,)))
    run.wake()
    assert run.activity().status == "held"


def test_schedule_to_start_ends_an_activity_that_no_worker_takes() -> None:
    run = Run.begin()
    run.schedule(schedule_to_start_timeout=MINUTE)
    run.wake(NOW + MINUTE)
    _, timed_out = outcome(run)
    assert isinstance(timed_out, e.ActivityTaskTimedOut)
    assert (timed_out.started_event_id, timed_out.failure.types[0]) == (0, "schedule_to_start")


def test_schedule_to_start_is_measured_from_the_moment_that_an_attempt_waits() -> None:
    run = Run.begin()
    run.fail_activity(run.running(schedule_to_start_timeout=MINUTE))
    run.wake(NOW + HOUR)  # long after the backoff was over
    assert run.activity().status == "scheduled"
    assert run.execution.wake_at() == NOW + HOUR + MINUTE


@pytest.mark.parametrize("status", ["scheduled", "started", "backing_off"])
def test_schedule_to_close_ends_an_activity_whatever_it_does(status: str) -> None:
    run = Run.begin()
    policy = RetryPolicy(initial_interval=HOUR, maximum_interval=HOUR, on_exhausted="fail")
    run.schedule(schedule_to_close_timeout=2 * HOUR, retry_policy=policy)
    if status != "scheduled":
        token = run.start()
        if status == "backing_off":
            run.now += MINUTE
            run.fail_activity(token)
    assert run.activity().status == status
    tx = run.wake(NOW + 2 * HOUR)
    _, timed_out = outcome(run)
    assert isinstance(timed_out, e.ActivityTaskTimedOut)
    assert timed_out.failure.types[0] == "schedule_to_close" and timed_out.retry_state == "timeout"
    assert len(effects(tx, fx.CancelAttempt)) == (status == "started")


# --- Heartbeats -----------------------------------------------------------------------------------------
def beat(run: Run, token: t.ActivityToken, details: object) -> bool:
    """Send a heartbeat; whether it was journaled."""
    return run.decide(t.ActivityHeartbeat(token, (payload(details),))).changed


def test_a_silent_attempt_times_out_and_a_beating_one_does_not() -> None:
    run = Run.begin()
    token = run.running(heartbeat_timeout=30 * SECOND)
    assert run.execution.wake_at() == NOW + 30 * SECOND
    journaled: list[int] = []
    for seconds in (10, 20, 30, 40):
        run.now = NOW + seconds * SECOND
        if beat(run, token, "the same"):
            journaled.append(seconds)
        assert run.execution.wake_at() == run.now + 30 * SECOND
    assert journaled == [10, 30]  # a sign of life counts, on disk or not
    run.wake()
    activity = run.activity()
    assert activity.status == "backing_off"
    assert activity.last_failure is not None and activity.last_failure.type == "heartbeat"


@pytest.mark.parametrize(
    ("details", "every"),
    # That it is alive, half the timeout, as that is longer than the least interval; how far it came, by that.
    [("the same", 30), ("new", HEARTBEAT_JOURNAL_INTERVAL // SECOND)],
)
def test_heartbeats_are_journaled_now_and_then(details: str, every: int) -> None:
    run = Run.begin()
    token = run.running(heartbeat_timeout=MINUTE)
    journaled: list[int] = []
    for seconds in range(1, 121):
        run.now = NOW + seconds * SECOND
        if beat(run, token, seconds if details == "new" else 0):
            journaled.append(seconds)
    first = HEARTBEAT_JOURNAL_INTERVAL // SECOND  # there were no details before
    assert journaled == [first, *range(first + every, 121, every)]
    run = Run.begin()
    token = run.running()
    run.now += HEARTBEAT_JOURNAL_INTERVAL - 1
    assert not beat(run, token, 1)
    run.now += 1
    assert beat(run, token, 2)


def test_details_survive_the_attempt_and_reach_the_next() -> None:
    run = Run.begin()
    token = run.running()
    run.now += SECOND
    beat(run, token, "half")
    run.fail_activity(token)
    assert run.activity().heartbeat == (payload("half"),)
    run.crash()
    run.wake()
    tx = run.decide(i.StartActivity(token.scheduled_event_id, 2, "worker-1"))
    (handed,) = effects(tx, fx.HandOver)
    assert handed.task.heartbeat_details == (payload("half"),)
    assert handed.task.last_failure == FAILURE


def test_a_heartbeat_that_only_memory_knew_is_lost_with_it() -> None:
    run = Run.begin()
    token = run.running(heartbeat_timeout=MINUTE)
    run.now += SECOND
    beat(run, token, "half")
    run.crash()
    assert run.execution.wake_at() == NOW + MINUTE
    assert run.activity().heartbeat == ()


# --- Cancellation ---------------------------------------------------------------------------------------
def test_an_activity_that_nobody_works_on_is_cancelled_at_once() -> None:
    run = Run.begin()
    run.schedule("a")
    run.signal()
    run.schedule("b")
    run.fail_activity(run.start("b"))
    run.signal("t")
    length = len(run.history)
    tx = run.complete(c.RequestCancelActivity("a"), c.RequestCancelActivity("b"), schedule("c"))
    assert run.names(length + 2) == [
        "ActivityTaskCancelRequested",
        "ActivityTaskCancelRequested",
        "ActivityTaskScheduled",
        "ActivityTaskCanceled",
        "ActivityTaskStarted",
        "ActivityTaskCanceled",
        "WorkflowTaskScheduled",
    ]
    assert list(run.state.activity_ids) == ["c"]
    assert not effects(tx, fx.CancelAttempt)


def test_a_running_activity_is_told_and_decides_itself() -> None:
    run = Run.begin()
    token = run.running()
    run.signal()
    tx = run.complete(c.RequestCancelActivity("a"))
    assert effects(tx, fx.CancelAttempt) == [fx.CancelAttempt("worker-1", token, "cancel_requested")]
    assert run.activity().cancel_requested
    run.decide(t.ActivityCancellation(token))
    started, cancelled = outcome(run)
    assert isinstance(started, e.ActivityTaskStarted) and isinstance(cancelled, e.ActivityTaskCanceled)
    assert cancelled.started_event_id == started.id


@pytest.mark.parametrize("end", ["completed", "failed", "hold", "lost", "evicted", "timeout"])
def test_an_activity_that_was_told_to_stop_is_not_tried_again(end: str) -> None:
    run = Run.begin()
    token = run.running(start_to_close_timeout=MINUTE)
    run.signal()
    run.complete(c.RequestCancelActivity("a"))
    if end == "completed":
        run.decide(t.ActivityCompletion(token, payload(1)))
    elif end == "failed":
        run.fail_activity(token)
    elif end == "hold":
        run.fail_activity(token, Failure("ask ann", kind="hold"))
    elif end == "lost":
        run.decide(i.WorkersLost(lambda worker, since: False))
    elif end == "evicted":
        run.decide(t.ActivityEvicted(token))
    else:
        run.wake()
    _, over = outcome(run)
    expected = {
        "completed": e.ActivityTaskCompleted, "failed": e.ActivityTaskFailed, "hold": e.ActivityTaskFailed,
        "lost": e.ActivityTaskCanceled, "evicted": e.ActivityTaskCanceled, "timeout": e.ActivityTaskTimedOut,
    }  # fmt: skip
    assert type(over) is expected[end]
    assert getattr(over, "retry_state", "cancel_requested") == "cancel_requested"
    assert not run.state.activities


def test_a_cancellation_that_was_not_asked_for_is_an_eviction() -> None:
    run = Run.begin()
    tx = run.decide(t.ActivityCancellation(run.running()))
    assert run.activity().status == "scheduled" and effects(tx, fx.ActivityOffer)


def test_cancelling_what_has_just_ended_points_at_it_and_its_outcome_follows() -> None:
    run = Run.begin()
    token = run.running()
    run.signal()
    run.take()
    run.decide(t.ActivityCompletion(token, payload("vpc")))
    length = len(run.history)
    tx = run.complete(c.RequestCancelActivity("a"))
    requested = run.history[length + 2]
    assert isinstance(requested, e.ActivityTaskCancelRequested)
    assert requested.scheduled_event_id == token.scheduled_event_id
    assert run.names(length + 3) == ["ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled"]
    assert not effects(tx, fx.CancelAttempt)


# --- Workers that go away -------------------------------------------------------------------------------
def test_a_lost_worker_costs_an_attempt_and_it_is_tried_again_at_once() -> None:
    run = Run.begin()
    run.running("a", "worker-1")
    run.signal()
    run.running("b", "worker-2")
    tx = run.decide(i.WorkersLost(lambda worker, since: worker == "worker-2"))
    lost, other = run.activity("a"), run.activity("b")
    assert (lost.status, lost.attempt, lost.attempts_before) == ("scheduled", 2, 0)
    assert lost.last_failure is not None and lost.last_failure.kind == "worker_lost"
    assert other.status == "started"
    assert effects(tx, fx.ActivityOffer) == [fx.ActivityOffer(lost.event.id, 2, "queue", 0)]
    assert not run.decide(i.WorkersLost(lambda worker, since: worker == "worker-2")).changed


def test_a_lost_worker_ends_an_activity_that_has_only_one_attempt() -> None:
    run = Run.begin()
    run.running(retry_policy=ONCE)
    run.decide(i.WorkersLost(lambda worker, since: False))
    _, failed = outcome(run)
    assert isinstance(failed, e.ActivityTaskFailed)
    assert (failed.failure.kind, failed.retry_state) == ("worker_lost", "maximum_attempts")


def test_a_worker_lets_go_of_its_own_attempts_only() -> None:
    run = Run.begin()
    token = run.running()
    worker = run.activity().worker
    with pytest.raises(NotFound, match="is another worker's"):
        run.decide(t.ActivityEvicted(token, "one whose start of it was refused"))
    assert run.activity().status == "started"
    run.decide(t.ActivityEvicted(token, worker))
    assert run.activity().status == "scheduled"


def test_an_eviction_costs_no_attempt() -> None:
    run = Run.begin()
    token = run.running(retry_policy=RetryPolicy(maximum_attempts=2))
    beat(run, token, "half")
    tx = run.decide(t.ActivityEvicted(token))
    activity = run.activity()
    assert (activity.status, activity.attempt, activity.attempts_before) == ("scheduled", 2, 1)
    assert activity.heartbeat == (payload("half"),)
    assert effects(tx, fx.ActivityOffer)
    run.fail_activity(run.start())
    assert run.activity().status == "backing_off"  # the first failure of two that there may be
    run.wake()
    run.fail_activity(run.start())
    assert not run.state.activities


def test_an_eviction_ends_an_activity_that_has_only_one_attempt() -> None:
    run = Run.begin()
    run.decide(t.ActivityEvicted(run.running(retry_policy=ONCE)))
    _, failed = outcome(run)
    assert isinstance(failed, e.ActivityTaskFailed) and failed.failure.kind == "worker_lost"


def test_an_eviction_of_what_was_never_begun_ends_nothing() -> None:
    run = Run.begin()
    tx = run.decide(t.ActivityEvicted(run.running(retry_policy=ONCE), begun=False))
    activity = run.activity()
    assert (activity.status, activity.attempt, activity.attempts_before) == ("scheduled", 2, 1)
    assert effects(tx, fx.ActivityOffer)
    run.fail_activity(run.start())
    assert not run.state.activities, "the one attempt that there may be"


# --- What can be told -----------------------------------------------------------------------------------
def test_describe_tells_where_an_activity_is_in_each_status() -> None:
    run = Run.begin()
    policy = RetryPolicy(maximum_attempts=7, hold_on=("Quota",))
    run.schedule(retry_policy=policy)
    (info,) = describe(run.execution).activities
    assert (info.status, info.attempt, info.maximum_attempts, info.worker) == ("scheduled", 1, 7, "")
    token = run.start()
    (info,) = describe(run.execution).activities
    assert (info.status, info.worker, info.started_at) == ("started", "worker-1", NOW)
    run.fail_activity(token)
    (info,) = describe(run.execution).activities
    assert (info.status, info.attempt, info.worker, info.started_at) == ("backing_off", 2, "", 0)
    assert info.next_attempt_at == run.execution.wake_at() and info.last_failure == FAILURE
    run.wake()
    run.fail_activity(run.start(), Failure("no room", ("app.Quota",)))
    (info,) = describe(run.execution).activities
    assert (info.status, info.hold_reason, info.held_at, info.next_attempt_at) == ("held", "no room", run.now, 0)


def test_attempts_are_in_the_journal_not_in_the_history() -> None:
    run = Run.begin()
    token = run.running()
    run.fail_activity(token)
    at = run.activity().next_attempt_at
    run.wake()
    scheduled = token.scheduled_event_id
    assert run.journaled() == [
        r.ActivityAttemptStarted(scheduled, 1, "worker-1", NOW),
        r.ActivityAttemptFailed(scheduled, 1, FAILURE, at, NOW),
        r.ActivityAttemptDue(scheduled, at),
    ]
    assert run.names()[-1] == "ActivityTaskScheduled"
