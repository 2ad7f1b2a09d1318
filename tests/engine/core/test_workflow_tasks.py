"""Workflow tasks: taken, completed, failed, lost; and what arrives meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.clock import MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions.workflow_tasks import take
from perdure.errors import NotFound
from perdure.limits import WORKFLOW_TASK_RETRY_INITIAL, WORKFLOW_TASK_RETRY_MAXIMUM
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import tasks as t
from perdure.model.journal import encode_event
from perdure.model.tasks import START, Position
from tests.engine.core.harness import FAILURE, NOW, Run, effects, payload, schedule


def test_a_completed_task_is_three_events_then_one_for_each_command_in_order() -> None:
    run = Run.begin()
    run.now = NOW + SECOND
    run.take("worker-7")
    run.now = NOW + 2 * SECOND
    run.complete(schedule("a"), c.StartTimer("t", MINUTE), schedule("b"))
    assert run.names(2) == [
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "ActivityTaskScheduled",
        "TimerStarted",
        "ActivityTaskScheduled",
    ]
    told = sum(len(encode_event(event)) for event in run.history[:2])
    assert run.history[2] == e.WorkflowTaskStarted(3, NOW + SECOND, 2, "worker-7", told)
    assert run.history[3] == e.WorkflowTaskCompleted(4, NOW + 2 * SECOND, 2, 3, "worker-7", "", "3.11")
    # A timer runs from the workflow's time, which stood still during the task.
    assert run.history[5] == e.TimerStarted(6, NOW + 2 * SECOND, "t", NOW + SECOND + MINUTE, 4)
    assert run.state.task is None


def test_a_taken_task_remembers_how_far_the_history_had_gone() -> None:
    run = Run.begin()
    assert take(run.execution, "worker-1", run.now)
    assert run.execution.taken == Position(2, run.state.digest)


def test_a_task_is_taken_once() -> None:
    run = Run.begin()
    run.take()
    assert not take(run.execution, "worker-2", run.now)
    run.complete()
    assert not take(run.execution, "worker-1", run.now)


@pytest.mark.parametrize("when", ["answered", "lost", "given again", "elsewhere", "attempt"])
def test_an_answer_to_another_task_is_refused(when: str) -> None:
    run = Run.begin()
    position = run.take()
    answer = run.completion()
    if when == "answered":
        run.decide(answer)
    elif when == "lost":
        run.decide(i.WorkflowTaskLost())
    elif when == "given again":
        run.decide(i.WorkflowTaskLost())
        assert take(run.execution, "worker-1", run.now, given=2)
        assert run.execution.taken == position
    elif when == "elsewhere":
        answer = run.completion(position=Position(position.event_id, 1))
    else:
        answer = t.WorkflowTaskCompletion(answer.run, 2, position, ())
    with pytest.raises(NotFound, match="not open any more"):
        run.decide(answer)
    with pytest.raises(NotFound):
        run.decide(t.WorkflowTaskFailure(answer.run, answer.attempt, answer.position, FAILURE))


def test_what_the_code_has_seen_moves_on_only_when_a_task_is_completed() -> None:
    run = Run.begin()
    assert run.state.seen == START
    run.fail_task()
    assert run.state.seen == START
    run.wake()
    position = run.take()
    run.complete(schedule())
    assert run.state.seen == position
    run.signal()
    second = run.take()
    run.complete()
    assert run.state.seen == second


# --- What arrives meanwhile -----------------------------------------------------------------------------
def test_what_arrives_during_a_task_is_buffered_and_wakes_exactly_one_next_task() -> None:
    run = Run.begin()
    token = run.running("a")
    run.signal("first")
    run.take()
    run.signal("second")
    run.decide(t.ActivityCompletion(token, payload("done")))
    run.signal("third")
    length = len(run.history)
    assert [type(event).__name__ for event in run.state.buffered] == [
        "WorkflowExecutionSignaled", "ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowExecutionSignaled",
    ]  # fmt: skip
    tx = run.complete(schedule("b"))
    assert run.names(length) == [
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
        "ActivityTaskScheduled",
        "WorkflowExecutionSignaled",
        "ActivityTaskStarted",
        "ActivityTaskCompleted",
        "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]
    assert len(effects(tx, fx.OfferWorkflowTask)) == 1
    started, completed = run.history[length + 4], run.history[length + 5]
    assert isinstance(started, e.ActivityTaskStarted) and isinstance(completed, e.ActivityTaskCompleted)
    assert completed.started_event_id == started.id
    assert completed.scheduled_event_id == started.scheduled_event_id == token.scheduled_event_id


def test_time_in_the_history_never_goes_back_whatever_was_buffered_when() -> None:
    run = Run.begin()
    run.take()
    run.now = NOW + SECOND
    run.signal("early")
    run.now = NOW + MINUTE
    run.complete()
    signal = next(event for event in run.history if isinstance(event, e.WorkflowExecutionSignaled))
    assert signal.time == NOW + MINUTE
    run.now = NOW  # the machine's clock is set back
    run.signal("late")
    assert run.last.time == NOW + MINUTE


def test_a_lost_task_is_offered_again_with_what_it_had_not_seen() -> None:
    run = Run.begin()
    run.take()
    run.signal("s")
    tx = run.decide(i.WorkflowTaskLost())
    assert effects(tx, fx.OfferWorkflowTask)
    assert run.names(2) == ["WorkflowExecutionSignaled"]
    assert run.take("worker-2").event_id == 3
    run.complete()
    assert run.state.seen.event_id == 3


def test_the_loss_of_a_task_that_nobody_has_changes_nothing() -> None:
    run = Run.begin()
    tx = run.decide(i.WorkflowTaskLost())
    assert not tx.changed
    run.take()
    run.complete()
    tx = run.decide(i.WorkflowTaskLost())
    assert not tx.changed and not tx.effects


def test_after_a_crash_a_task_is_offered_whatever_has_brought_in_the_buffer() -> None:
    run = Run.begin()
    run.take()
    run.signal("first")
    run.crash()
    run.signal("second")
    assert effects(run.decide(i.WorkflowTaskLost()), fx.OfferWorkflowTask)


def test_what_went_with_a_task_is_forgotten_when_it_is_over() -> None:
    run = Run.begin()
    run.update("u")
    run.take()
    assert [update.update_id for update in run.execution.updates] == ["u"]
    run.complete(c.RejectUpdate("u", FAILURE))
    assert not run.execution.updates


def test_after_a_crash_what_was_buffered_goes_before_what_comes_later() -> None:
    run = Run.begin()
    run.take()
    run.signal("first")
    run.crash()
    run.signal("second")
    run.take()
    run.complete()
    names = [event.signal_name for event in run.history if isinstance(event, e.WorkflowExecutionSignaled)]
    assert names == ["first", "second"]


def test_after_a_crash_what_was_buffered_may_be_brought_in_before_the_task_is_taken() -> None:
    run = Run.begin()
    run.take()
    run.signal("s")
    run.crash()
    assert effects(run.decide(i.WorkflowTaskLost()), fx.OfferWorkflowTask)
    assert run.names(2) == ["WorkflowExecutionSignaled"]


def test_after_a_crash_a_task_that_is_taken_first_brings_in_what_was_buffered_when_it_is_over() -> None:
    run = Run.begin()
    run.take()
    run.signal("first")
    run.crash()
    run.take()
    run.signal("second")
    run.complete()
    assert run.names(4) == ["WorkflowExecutionSignaled", "WorkflowExecutionSignaled", "WorkflowTaskScheduled"]


# --- Failures -------------------------------------------------------------------------------------------
def test_only_the_first_failure_of_a_task_leaves_events() -> None:
    run = Run.begin()
    run.fail_task()
    assert run.names(2) == ["WorkflowTaskStarted", "WorkflowTaskFailed"]
    length = len(run.history)
    for attempt in range(2, 6):
        run.wake()
        run.fail_task()
        assert len(run.history) == length
        assert run.state.task is not None and run.state.task.attempt == attempt + 1
    run.wake()
    position = run.take()
    run.complete(schedule())
    scheduled, started, completed = run.history[length : length + 3]
    assert isinstance(scheduled, e.WorkflowTaskScheduled) and scheduled.attempt == 6
    assert isinstance(started, e.WorkflowTaskStarted) and started.scheduled_event_id == scheduled.id
    assert isinstance(completed, e.WorkflowTaskCompleted)
    assert (completed.scheduled_event_id, completed.started_event_id) == (scheduled.id, started.id)
    assert run.state.seen == position


def test_a_failing_task_backs_off_longer_each_time_up_to_the_maximum() -> None:
    run = Run.begin()
    waits: list[int] = []
    for _ in range(10):
        run.fail_task()
        waits.append(run.execution.wake_at() - run.now)
        with pytest.raises(LookupError):
            run.take()
        run.wake(run.now + waits[-1] - 1)
        with pytest.raises(LookupError):
            run.take()
        assert effects(run.wake(), fx.OfferWorkflowTask)
    assert waits[0] == WORKFLOW_TASK_RETRY_INITIAL
    assert waits == sorted(waits)
    assert waits[-1] == WORKFLOW_TASK_RETRY_MAXIMUM
    assert run.execution.wake_at() == 0


def test_a_failing_task_tells_its_failure_and_evicts_the_workers_copy() -> None:
    run = Run.begin()
    tx = run.fail_task()
    assert effects(tx, fx.EvictCopy)
    assert run.state.task is not None and run.state.task.failure == FAILURE


def test_a_task_can_be_retried_without_waiting() -> None:
    run = Run.begin()
    run.fail_task()
    tx = run.decide(i.RetryWorkflowTask())
    assert effects(tx, fx.OfferWorkflowTask) and run.execution.wake_at() == 0
    assert not run.decide(i.RetryWorkflowTask()).changed
    run.complete()
    assert run.state.task is None


def test_news_during_a_backoff_enters_the_history_and_waits() -> None:
    run = Run.begin()
    run.fail_task()
    tx = run.signal()
    assert isinstance(run.last, e.WorkflowExecutionSignaled)
    assert not effects(tx, fx.OfferWorkflowTask)
    run.wake()
    assert run.take().event_id == run.last.id


def test_what_was_buffered_enters_the_history_when_the_task_fails() -> None:
    run = Run.begin()
    run.take()
    run.signal()
    run.fail_task()
    assert run.names(2) == ["WorkflowTaskStarted", "WorkflowTaskFailed", "WorkflowExecutionSignaled"]
    run.wake()
    run.take()
    run.signal("t")
    run.fail_task()
    assert run.names(5) == ["WorkflowExecutionSignaled"]


def test_a_backoff_survives_a_crash() -> None:
    run = Run.begin()
    run.fail_task()
    at = run.execution.wake_at()
    run.crash()
    assert run.execution.wake_at() == at
    with pytest.raises(LookupError):
        run.take()


# --- Commands that can't be carried out -----------------------------------------------------------------
COMPLETE = c.CompleteWorkflow(payload(1))


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ((schedule("a"), schedule("a")), "command 2 of 2, ScheduleActivity: an activity with the id 'a' is pending"),
        ((schedule("known"),), "an activity with the id 'known' is pending"),
        ((schedule("a", start_to_close_timeout=-1),), "timeouts must be between 0 and"),
        ((schedule("a", heartbeat_timeout=1 << 62),), "timeouts must be between 0 and"),
        ((c.RequestCancelActivity("nobody"),), "no pending activity with the id 'nobody'"),
        ((c.StartTimer("t", 1), c.StartTimer("t", 1)), "a timer with the id 't' is running"),
        ((c.StartTimer("t", 1 << 62),), "duration must be at most"),
        ((c.CancelTimer("t"),), "no running timer with the id 't'"),
        ((c.StartTimer("t", 1), c.CancelTimer("t"), c.CancelTimer("t")), "command 3 of 3"),
        ((c.AcceptUpdate("u"),), "no update with the id 'u' waits"),
        ((c.RejectUpdate("u", FAILURE),), "no update with the id 'u' waits"),
        ((c.CompleteUpdate("u", payload(1)),), "no update with the id 'u' was accepted"),
        ((c.AcceptUpdate("waits"), c.RejectUpdate("waits", FAILURE)), "no update with the id 'waits' waits"),
        ((c.AcceptUpdate("waits"), c.CompleteUpdate("waits", None)), "exactly one of result and failure"),
        ((COMPLETE, c.StartTimer("t", 1)), "command 1 of 2, CompleteWorkflow: it ends the run, but is not the last"),
        ((COMPLETE, COMPLETE), "it ends the run, but is not the last"),
    ],
)
def test_commands_that_make_no_sense_fail_the_task_and_carry_out_nothing(
    commands: tuple[c.Command, ...], says: str
) -> None:
    run = Run.begin()
    run.schedule("known")
    run.update("waits")
    before = dict(run.state.activities)
    tx = run.complete(*commands)
    failed = run.last
    assert isinstance(failed, e.WorkflowTaskFailed) and failed.failure.kind == "engine"
    assert says in failed.failure.message
    assert run.state.activities == before and not run.state.timers
    assert list(run.state.admitted) == ["waits"]
    assert effects(tx, fx.EvictCopy)
    run.wake()
    run.complete(c.AcceptUpdate("waits"), c.CompleteUpdate("waits", payload(1)))
    assert run.state.task is None


def test_ids_may_be_used_again_when_what_had_them_is_over() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", MINUTE), c.CancelTimer("t"), c.StartTimer("t", MINUTE))
    run.signal()
    run.complete(schedule("a"))
    run.decide(t.ActivityCompletion(run.start("a"), payload(1)))
    run.complete(c.CancelTimer("t"), c.StartTimer("t", SECOND), schedule("a"))
    assert run.state.task is None and list(run.state.timers) == ["t"] and list(run.state.activity_ids) == ["a"]


def test_offers_name_only_what_still_waits() -> None:
    run = Run.begin()
    tx = run.complete(schedule("a"), schedule("b"), c.RequestCancelActivity("a"))
    assert [offer.scheduled_event_id for offer in effects(tx, fx.ActivityOffer)] == [run.activity("b").event.id]
    run = Run.begin()
    tx = run.complete(schedule("a"), COMPLETE)
    assert not effects(tx, fx.ActivityOffer)
    assert run.state.status == "Completed"


def test_journal_of_a_failing_task_says_when_it_is_tried_again() -> None:
    run = Run.begin()
    run.fail_task()
    (record,) = [record for record in run.journaled() if isinstance(record, r.WorkflowTaskAttemptFailed)]
    assert record == r.WorkflowTaskAttemptFailed(1, FAILURE, NOW + WORKFLOW_TASK_RETRY_INITIAL, NOW)


@pytest.mark.parametrize("end", ["completed", "failed", "refused"])
def test_a_clock_that_is_set_back_during_a_task_does_not_turn_its_events_around(end: str) -> None:
    run = Run.begin()
    run.now = NOW + MINUTE
    run.take()
    run.now = NOW + SECOND
    run.signal()
    if end == "failed":
        run.fail_task()
        assert run.execution.wake_at() == NOW + MINUTE + WORKFLOW_TASK_RETRY_INITIAL
    else:
        run.complete(*([c.CompleteWorkflow(payload(1))] if end == "refused" else []))
    assert {event.time for event in run.history[2:]} == {NOW + MINUTE}


def test_a_task_that_local_activities_hold_open_is_followed_by_another() -> None:
    run = Run.begin()
    run.take()
    run.decide(replace(run.completion(c.RecordMarker("m", {})), more=True))
    assert run.names()[-3:] == ["WorkflowTaskCompleted", "MarkerRecorded", "WorkflowTaskScheduled"]
    run.complete(c.CompleteWorkflow(payload(1)))
    assert run.state.status == "Completed"
