"""Signals, and requests to stop."""

from __future__ import annotations

import pytest

from perdure.engine.core import effects as fx
from perdure.errors import InvalidRequest, NotRunning
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import requests as q
from perdure.model import tasks as t
from tests.engine.core.harness import NAMESPACE, NOW, WORKFLOW, Run, effects, payload


def test_a_signal_enters_the_history_and_wakes_the_code() -> None:
    run = Run.begin()
    run.complete()
    tx = run.decide(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", "approve", (payload("bob"),), "r-1", "ann"))
    assert run.history[-2] == e.WorkflowExecutionSignaled(5, NOW, "approve", (payload("bob"),), "ann")
    assert isinstance(run.last, e.WorkflowTaskScheduled)
    assert effects(tx, fx.OfferWorkflowTask) == [fx.OfferWorkflowTask()]
    assert (tx.dedup, tx.reply) == (("signal:r-1",), q.Done())


def test_signals_before_a_task_is_taken_share_it() -> None:
    run = Run.begin()
    tx = run.signal("a")
    run.signal("b")
    assert run.names(2) == ["WorkflowExecutionSignaled", "WorkflowExecutionSignaled"]
    assert not effects(tx, fx.OfferWorkflowTask)  # it was offered before
    assert run.take().event_id == 4


def test_a_signal_without_a_request_id_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="needs a request_id"):
        Run.begin().decide(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", "approve", (), ""))


def test_a_cancel_request_is_recorded_once() -> None:
    run = Run.begin()
    run.complete()
    tx = run.cancel()
    assert run.history[-2] == e.WorkflowExecutionCancelRequested(5, NOW, "enough", "ann")
    assert run.state.cancel_requested and tx.reply == q.Done()
    again = run.cancel()
    assert not again.changed and again.reply == q.Done()


def test_a_cancel_request_during_a_task_is_recorded_once() -> None:
    run = Run.begin()
    run.take()
    run.cancel()
    assert not run.cancel().changed
    run.complete()
    assert run.names().count("WorkflowExecutionCancelRequested") == 1


def test_a_closed_run_takes_no_messages() -> None:
    run = Run.begin()
    run.complete(c.CompleteWorkflow(payload(1)))
    for send in (run.signal, run.cancel, run.terminate, run.update):
        with pytest.raises(NotRunning, match="'wf' is not running: its run run-1 is completed"):
            send()


def test_an_order_of_messages_and_outcomes_is_kept() -> None:
    run = Run.begin()
    token = run.running("a")
    run.signal("1")
    run.take()
    run.signal("2")
    run.decide(t.ActivityCompletion(token, payload("done")))
    run.cancel()
    run.signal("3")
    run.crash()  # the task is lost with the process, what was buffered is not
    run.signal("4")
    news = [
        event.signal_name if isinstance(event, e.WorkflowExecutionSignaled) else type(event).__name__
        for event in run.history[5:]
    ]
    assert news == [
        "1", "WorkflowTaskScheduled", "2", "ActivityTaskStarted", "ActivityTaskCompleted",
        "WorkflowExecutionCancelRequested", "3", "4",
    ]  # fmt: skip
