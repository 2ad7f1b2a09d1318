"""The end of a run, whatever brings it."""

from __future__ import annotations

import pytest

from perdure.clock import DAY, HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.queries import outcome
from perdure.errors import NotFound, Unavailable
from perdure.limits import CLOSE_REFUSALS
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from tests.engine.core.harness import FAILURE, KEY, NOW, Run, effects, payload, schedule

COMPLETE = c.CompleteWorkflow(payload("result"))


@pytest.mark.parametrize(
    ("command", "event", "status"),
    [
        (COMPLETE, e.WorkflowExecutionCompleted(5, NOW, payload("result"), 4), "Completed"),
        (c.FailWorkflow(FAILURE), e.WorkflowExecutionFailed(5, NOW, FAILURE, 4), "Failed"),
        (c.CancelWorkflow(), e.WorkflowExecutionCanceled(5, NOW, 4), "Canceled"),
    ],
)
def test_the_code_ends_its_run(command: c.Command, event: e.HistoryEvent, status: q.Status) -> None:
    run = Run.begin()
    tx = run.complete(command)
    assert run.last == event
    assert effects(tx, fx.RunClosed) and tx.listed
    assert not effects(tx, fx.EvictCopy)  # the worker knows
    result, failure = getattr(event, "result", None), getattr(event, "failure", None)
    assert outcome(run.state) == q.Outcome("run-1", status, result, failure)
    assert run.state.close_time == NOW
    with pytest.raises(LookupError):
        run.take()


def test_continue_as_new_names_its_successor() -> None:
    run = Run.begin()
    run.complete(c.ContinueAsNew("Type", "", (payload(2),)))
    assert outcome(run.state) == q.Outcome("run-1", "ContinuedAsNew", new_run_id=run.state.new_run_id)


def test_a_person_ends_a_run_and_running_attempts_are_told() -> None:
    run = Run.begin()
    run.complete(schedule("a"), schedule("b"), schedule("c"), c.StartTimer("t", HOUR))
    token = run.start("a")
    run.fail_activity(run.start("b"))
    tx = run.terminate()
    assert run.last == e.WorkflowExecutionTerminated(run.last.id, NOW, "enough", "ann")
    assert effects(tx, fx.CancelAttempt) == [fx.CancelAttempt("worker-1", token, "closed")]
    assert effects(tx, fx.EvictCopy) and tx.reply == q.Done()
    why = Failure("enough", kind="terminated")
    assert outcome(run.state) == q.Outcome("run-1", "Terminated", failure=why)
    with pytest.raises(NotFound, match="is not running"):
        run.decide(t.ActivityCompletion(token, payload(1)))


def test_a_run_that_is_ended_during_a_task_keeps_the_messages_that_it_had_taken() -> None:
    run = Run.begin()
    run.take()
    answer = run.completion(COMPLETE)
    run.signal("s")
    run.terminate()
    assert run.names(2) == ["WorkflowExecutionSignaled", "WorkflowExecutionTerminated"]
    with pytest.raises(NotFound):
        run.decide(answer)
    run = Run.begin(run_timeout=MINUTE)
    run.take()
    run.signal("s")
    run.wake()
    assert run.names(2) == ["WorkflowExecutionSignaled", "WorkflowExecutionTimedOut"]


def test_a_run_that_is_ended_after_a_crash_keeps_the_messages_that_it_had_taken() -> None:
    run = Run.begin()
    run.take()
    run.signal("s")
    run.crash()
    run.terminate()
    assert run.names(2) == ["WorkflowExecutionSignaled", "WorkflowExecutionTerminated"]


# --- Unseen messages ------------------------------------------------------------------------------------
@pytest.mark.parametrize("message", ["signal", "cancel", "update"])
def test_a_close_with_an_unseen_message_is_refused_and_the_task_runs_again(message: str) -> None:
    run = Run.begin()
    run.take()
    {"signal": run.signal, "cancel": run.cancel, "update": run.update}[message]()
    tx = run.complete(schedule("a"), COMPLETE)
    assert run.state.status == "Running" and not run.state.activities
    assert "WorkflowTaskFailed" in run.names() and isinstance(run.last, e.WorkflowTaskScheduled)
    assert [type(effect) for effect in tx.effects] == [fx.EvictCopy, fx.OfferWorkflowTask]
    assert run.state.seen.event_id == 0 and run.state.close_refusals == 1
    run.take()
    run.complete(*([c.RejectUpdate("u", FAILURE)] if message == "update" else []), COMPLETE)
    assert run.state.status == "Completed"


def test_a_close_after_a_failing_task_may_be_refused_too() -> None:
    run = Run.begin()
    run.fail_task()
    run.wake()
    run.take()
    run.signal()
    run.complete(COMPLETE)
    assert run.names(4) == [
        "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskFailed", "WorkflowExecutionSignaled",
        "WorkflowTaskScheduled",
    ]  # fmt: skip
    run.complete(COMPLETE)
    assert run.state.status == "Completed"


def test_an_update_that_the_closing_task_answers_is_not_unseen() -> None:
    run = Run.begin()
    run.update("u")
    run.complete(c.AcceptUpdate("u"), c.CompleteUpdate("u", payload(1)), COMPLETE)
    assert run.state.status == "Completed"


def test_outcomes_that_nobody_waits_for_do_not_keep_a_run_open_and_are_let_go() -> None:
    run = Run.begin()
    token = run.running("a")
    run.signal()
    run.complete(c.StartTimer("t", SECOND))
    run.signal("again")
    run.take()
    run.decide(t.ActivityCompletion(token, payload(1)))
    run.wake()
    assert len(run.state.buffered) == 3
    length = len(run.history)
    run.complete(schedule("b"), COMPLETE)
    assert run.names(length + 1) == ["WorkflowTaskCompleted", "ActivityTaskScheduled", "WorkflowExecutionCompleted"]


def test_after_three_refusals_no_more_messages_are_taken_while_the_code_may_close() -> None:
    run = Run.begin()
    for number in range(CLOSE_REFUSALS):
        run.take()
        run.signal(str(number))
        run.complete(COMPLETE)
        assert run.state.close_refusals == number + 1
    run.signal("between tasks")  # the next task will see it
    run.take()
    for send in (run.signal, run.update):
        with pytest.raises(Unavailable, match="about to close; try again"):
            send()
    run.cancel()  # a person's wish is heard even now, once
    run.complete(COMPLETE)
    assert run.state.status == "Running" and run.state.close_refusals == CLOSE_REFUSALS
    run.complete(COMPLETE)
    assert run.state.status == "Completed"
    signals = [event.signal_name for event in run.history if isinstance(event, e.WorkflowExecutionSignaled)]
    assert signals == ["0", "1", "2", "between tasks"]


def test_refusals_are_forgotten_when_the_code_goes_on_instead() -> None:
    run = Run.begin()
    for number in range(CLOSE_REFUSALS):
        run.take()
        run.signal(str(number))
        run.complete(COMPLETE)
    run.complete(c.StartTimer("t", HOUR))
    run.signal("wake")
    run.take()
    run.signal("meanwhile")
    run.complete()
    assert run.names().count("WorkflowExecutionSignaled") == CLOSE_REFUSALS + 2


def test_refusals_are_journaled() -> None:
    run = Run.begin()
    run.take()
    run.signal()
    run.complete(COMPLETE)
    run.crash()
    assert run.state.close_refusals == 1
    assert [type(record) for record in run.journaled()] == [r.InputBuffered, r.CloseRefused, r.BufferFlushed]


# --- Retention ------------------------------------------------------------------------------------------
def test_a_closed_run_is_deleted_when_its_retention_is_over() -> None:
    run = Run.begin(retention=30 * DAY)
    run.now += HOUR
    run.complete(COMPLETE)
    assert run.execution.wake_at() == NOW + HOUR + 30 * DAY
    assert not run.wake(NOW + 30 * DAY).effects
    tx = run.wake(NOW + HOUR + 30 * DAY)
    assert effects(tx, fx.DeleteRun) and not tx.changed


def test_a_closed_run_is_kept_until_its_outbox_is_empty() -> None:
    run = Run.begin(retention=MINUTE)
    run.complete(c.SignalExternalWorkflow("other", "", "hello", ()), COMPLETE)
    for _ in range(12):
        assert not effects(run.wake(run.now + HOUR), fx.DeleteRun)
    run.decide(i.OutboxAnswered(1))
    assert run.execution.wake_at() == NOW + MINUTE
    assert effects(run.decide(i.WakeUp(KEY)), fx.DeleteRun)


def test_a_closed_run_needs_nothing_else() -> None:
    run = Run.begin(run_timeout=DAY)
    run.complete(schedule("a", start_to_close_timeout=MINUTE), c.StartTimer("t", MINUTE))
    run.start()
    closed = run.terminate().now
    assert run.execution.wake_at() == closed + run.execution.deadlines.retention
    for input in (
        i.WorkersLost(lambda worker, since: False),
        i.WorkflowTaskLost(),
        i.RetryWorkflowTask(),
        i.WakeUp(KEY),
    ):
        tx = run.decide(input)
        assert not tx.changed and not tx.effects
