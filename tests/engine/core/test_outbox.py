"""What crosses from one execution to another: children, signals, requests to stop, reports."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.starting import Starting
from perdure.errors import NotFound, NotRunning
from perdure.limits import OUTBOX_RETRY_INITIAL, OUTBOX_RETRY_LIFETIME, OUTBOX_RETRY_MAXIMUM
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NAMESPACE, NOW, RUN, WORKFLOW, Run, effects, payload

CHILD = c.StartChildWorkflow("child", "Child", "", (payload(1),), "terminate", HOUR, HOUR)
COMPLETE = c.CompleteWorkflow(payload("result"))
PARENT = e.ParentRef(NAMESPACE, "parent", "parent-run", 7)


def with_child(policy: e.ParentClosePolicy = "terminate", *, started: bool = True) -> Run:
    """A run with a child."""
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Child", "", (), policy))
    if started:
        run.decide(i.OutboxAnswered(1, "", "child-run"))
    return run


# --- Children -------------------------------------------------------------------------------------------
def test_a_child_is_started_through_the_outbox() -> None:
    run = Run.begin()
    tx = run.complete(CHILD)
    initiated = run.last
    assert initiated == e.StartChildWorkflowExecutionInitiated(
        5, NOW, "child", "Child", "queue", (payload(1),), 4, "terminate", HOUR, HOUR
    )
    parent = e.ParentRef(NAMESPACE, WORKFLOW, RUN, 5)
    message = r.OutboxStart("child", "Child", "queue", (payload(1),), parent, HOUR, HOUR)
    assert effects(tx, fx.Send) == [fx.Send(1, message)]
    assert run.journaled() == [r.OutboxAdded(1, 5, message, NOW)]
    run.decide(i.OutboxAnswered(1, "", "child-run"))
    assert run.history[-2] == e.ChildWorkflowExecutionStarted(6, NOW, 5, "child", "child-run")
    assert not run.state.outbox and run.execution.wake_at() == 0


def test_all_that_is_said_of_a_child_goes_with_its_start() -> None:
    run, policy, memo = Run.begin(), RetryPolicy(maximum_attempts=3), {"team": payload("web")}
    tx = run.complete(
        c.StartChildWorkflow(
            "child", "Child", "side", (), "abandon", HOUR, HOUR, None, HOUR, policy, "reject_duplicate", memo
        )
    )
    (sent,) = effects(tx, fx.Send)
    parent = e.ParentRef(NAMESPACE, WORKFLOW, RUN, 5)
    assert sent.message == r.OutboxStart(
        "child", "Child", "side", (), parent, HOUR, HOUR, None, HOUR, policy, "reject_duplicate", memo
    )


def test_a_child_that_can_not_be_started_fails() -> None:
    run = with_child(started=False)
    run.decide(i.OutboxAnswered(1, "the id is taken"))
    failed = run.history[-2]
    assert isinstance(failed, e.StartChildWorkflowExecutionFailed)
    assert failed.failure == Failure("the id is taken", kind="engine")
    assert not run.state.children


@pytest.mark.parametrize("how", ["completed", "failed"])
def test_a_child_reports_its_end_once(how: str) -> None:
    run = with_child()
    result, failure = (payload(1), None) if how == "completed" else (None, FAILURE)
    run.complete()
    tx = run.decide(i.ChildReported(RUN, 5, result, failure, "child-run"))
    over = run.history[-2]
    if how == "completed":
        assert over == e.ChildWorkflowExecutionCompleted(over.id, NOW, 5, 6, payload(1))
    else:
        assert over == e.ChildWorkflowExecutionFailed(over.id, NOW, 5, 6, FAILURE)
    assert effects(tx, fx.OfferWorkflowTask)
    again = run.decide(i.ChildReported(RUN, 5, result, failure, "child-run"))
    assert not again.changed and again.reply == tx.reply


def test_a_child_that_reports_before_its_start_is_answered_has_started() -> None:
    run = with_child(started=False)
    run.decide(i.ChildReported(RUN, 5, payload(1), None, "child-run"))
    started, completed, _ = run.history[-3:]
    assert started == e.ChildWorkflowExecutionStarted(6, NOW, 5, "child", "child-run")
    assert completed == e.ChildWorkflowExecutionCompleted(7, NOW, 5, 6, payload(1))
    run.complete()
    length = len(run.history)
    tx = run.decide(i.OutboxAnswered(1, "", "child-run"))
    assert not run.state.outbox and len(run.history) == length
    assert not effects(tx, fx.OfferWorkflowTask)


@pytest.mark.parametrize("crash", [False, True])
def test_a_child_that_starts_and_ends_during_a_task(crash: bool) -> None:
    run = with_child(started=False)
    run.signal()
    run.take()
    run.decide(i.OutboxAnswered(1, "", "child-run"))
    if crash:
        run.crash()
    run.decide(i.ChildReported(RUN, 5, payload(1), None, "child-run"))
    run.complete()
    started = next(event for event in run.history if isinstance(event, e.ChildWorkflowExecutionStarted))
    completed = next(event for event in run.history if isinstance(event, e.ChildWorkflowExecutionCompleted))
    assert completed.started_event_id == started.id


@pytest.mark.parametrize("policy", ["terminate", "request_cancel", "abandon"])
def test_children_hear_of_their_parents_end_as_their_policy_says(policy: e.ParentClosePolicy) -> None:
    run = with_child(policy)
    tx = run.complete(COMPLETE)
    sent = [effect.message for effect in effects(tx, fx.Send)]
    own = e.ParentRef(NAMESPACE, WORKFLOW, RUN, 5)
    assert sent == ([] if policy == "abandon" else [r.OutboxCancel("child", "", policy == "terminate", own)])


def test_a_child_is_asked_to_stop_in_whatever_run_it_is() -> None:
    run = with_child()
    tx = run.complete(c.RequestCancelExternalWorkflow("child", "child-run", 5))
    (sent,) = effects(tx, fx.Send)
    own = e.ParentRef(NAMESPACE, WORKFLOW, RUN, 5)
    assert sent.message == r.OutboxCancel("child", "", child_of=own, request_id=f"{RUN}:{run.last.id}")
    assert run.last == e.RequestCancelExternalWorkflowExecutionInitiated(
        run.last.id, NOW, "child", "child-run", run.last.id - 1, 5
    )


@pytest.mark.parametrize("closes", [True, False])
def test_what_overtakes_the_start_of_its_child_is_sent_again(closes: bool) -> None:
    run = with_child(started=False)
    run.signal()
    run.complete(COMPLETE if closes else c.RequestCancelExternalWorkflow("child", "", 5))
    run.decide(i.OutboxAnswered(2, "there is no workflow with the id 'child'"))
    assert list(run.state.outbox) == [1, 2]
    assert effects(run.wake(), fx.Send)
    run.decide(i.OutboxAnswered(1, "", "child-run"))
    run.decide(i.OutboxAnswered(2, "", ""))
    assert not run.state.outbox


def test_what_is_for_a_child_waits_until_that_has_begun() -> None:
    run = with_child(started=False)
    run.signal()
    told = [c.SignalExternalWorkflow(id, "", "s", ()) for id in ("child", "child", "other")]
    assert [effect.entry_id for effect in effects(run.complete(*told), fx.Send)] == [4]
    outbox = run.state.outbox
    for starting in (run.execution.starting, Starting(outbox)):  # as it is, and as it is after a restart
        assert [id for id in outbox if starting.waits(id)] == [2, 3]
    tx = run.decide(i.OutboxAnswered(1, "", "child-run"))
    assert [effect.entry_id for effect in effects(tx, fx.Send)] == [2, 3]
    assert not any(run.execution.starting.waits(id) for id in run.state.outbox)


def test_what_is_meant_for_a_child_is_given_up_with_its_start() -> None:
    run = with_child(started=False)
    run.signal()
    run.complete(COMPLETE)
    run.now += OUTBOX_RETRY_LIFETIME + 1
    run.decide(i.OutboxAnswered(2, "there is no workflow with the id 'child'"))
    assert list(run.state.outbox) == [1]


@pytest.mark.parametrize("kind", [q.CancelWorkflowRequest, q.TerminateWorkflow])
def test_only_the_child_that_is_meant_is_reached(kind: type[q.CancelWorkflowRequest | q.TerminateWorkflow]) -> None:
    run = Run.begin(parent=PARENT)
    run.complete(c.ContinueAsNew("Type", "", ()))
    following = run.continued()
    for other in (e.ParentRef(NAMESPACE, "parent", "parent-run", 8), e.ParentRef(NAMESPACE, "parent", "later", 7)):
        with pytest.raises(NotRunning, match="'wf' of workflow 'parent' is not running"):
            following.decide(kind(NAMESPACE, WORKFLOW, "", child_of=other))
    with pytest.raises(NotRunning):
        Run.begin().decide(kind(NAMESPACE, WORKFLOW, "", child_of=PARENT))
    assert following.decide(kind(NAMESPACE, WORKFLOW, "", child_of=PARENT)).changed


# --- Reports --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("end", "result", "kind"),
    [
        (COMPLETE, payload("result"), ""),
        (c.FailWorkflow(FAILURE), None, "application"),
        (c.CancelWorkflow(), None, "cancelled"),
        ("terminate", None, "terminated"),
        ("timeout", None, "timeout"),
    ],
)
def test_a_child_tells_its_parent_how_it_ended(end: c.Command | str, result: object, kind: str) -> None:
    run = Run.begin(parent=PARENT, run_timeout=HOUR)
    if end == "terminate":
        tx = run.terminate()
    elif isinstance(end, str):
        tx = run.wake()
    else:
        tx = run.complete(end)
    (sent,) = effects(tx, fx.Send)
    report = sent.message
    assert isinstance(report, r.OutboxReport)
    assert (report.parent, report.child_run_id, report.result) == (PARENT, RUN, result)
    assert (report.failure.kind if report.failure else "") == kind
    if end == "terminate":
        assert report.failure is not None
        assert report.failure.message == "child workflow 'wf' was terminated: enough"
    assert run.execution.wake_at() == run.now + OUTBOX_RETRY_INITIAL


def test_a_child_that_continues_as_new_reports_at_the_end_of_its_chain() -> None:
    run = Run.begin(parent=PARENT)
    assert not effects(run.complete(c.ContinueAsNew("Type", "", ())), fx.Send)
    following = run.continued()
    (sent,) = effects(following.complete(COMPLETE), fx.Send)
    assert isinstance(sent.message, r.OutboxReport)
    assert (sent.message.parent, sent.message.child_run_id) == (PARENT, following.execution.ref.run_id)


# --- Signals and requests to others ---------------------------------------------------------------------
SIGNAL = c.SignalExternalWorkflow("other", "", "hello", (payload(1),))
CANCEL = c.RequestCancelExternalWorkflow("other", "")


@pytest.mark.parametrize(
    ("command", "arrived", "failed"),
    [
        (SIGNAL, e.ExternalWorkflowExecutionSignaled, e.SignalExternalWorkflowExecutionFailed),
        (CANCEL, e.ExternalWorkflowExecutionCancelRequested, e.RequestCancelExternalWorkflowExecutionFailed),
    ],
)
def test_what_is_sent_to_another_run_is_answered(command: c.Command, arrived: type, failed: type) -> None:
    for error, kind in (("", arrived), ("there is no such workflow", failed)):
        run = Run.begin()
        run.complete(command)
        tx = run.decide(i.OutboxAnswered(1, error))
        answer = run.history[-2]
        assert type(answer) is kind
        assert getattr(answer, "initiated_event_id", 0) == 5
        assert getattr(answer, "failure", None) == (Failure(error, kind="engine") if error else None)
        assert effects(tx, fx.OfferWorkflowTask)
        assert not (run.state.signals_sent or run.state.cancels_sent or run.state.outbox)


def test_an_answer_during_a_task_is_for_the_next() -> None:
    run = Run.begin()
    run.complete(SIGNAL)
    run.signal()
    run.take()
    length = len(run.history)
    run.decide(i.OutboxAnswered(1))
    assert len(run.history) == length
    run.complete()
    assert run.names(length + 2) == ["ExternalWorkflowExecutionSignaled", "WorkflowTaskScheduled"]


def test_an_answer_is_taken_once() -> None:
    run = Run.begin()
    run.complete(SIGNAL)
    run.decide(i.OutboxAnswered(1))
    for late in (i.OutboxAnswered(1), i.OutboxUndelivered(1, "down"), i.OutboxAnswered(9)):
        with pytest.raises(NotFound, match="settled before"):
            run.decide(late)


def test_an_answer_after_the_end_settles_the_entry() -> None:
    run = Run.begin()
    run.complete(SIGNAL, COMPLETE)
    run.decide(i.OutboxAnswered(1))
    assert isinstance(run.last, e.WorkflowExecutionCompleted) and not run.state.outbox


# --- Delivery -------------------------------------------------------------------------------------------
def test_an_entry_is_sent_again_until_it_is_answered() -> None:
    run = Run.begin()
    run.complete(SIGNAL)
    message = run.state.outbox[1].added.message
    waits: list[int] = []
    for _ in range(14):
        run.crash()  # nobody knows whether it was delivered
        waits.append(run.execution.wake_at() - run.now)
        assert effects(run.wake(), fx.Send) == [fx.Send(1, message)]
    assert waits[0] == OUTBOX_RETRY_INITIAL and waits == sorted(waits) and waits[-1] == OUTBOX_RETRY_MAXIMUM


def test_the_wait_doubles_with_each_time_that_it_was_sent_in_vain() -> None:
    run = Run.begin()
    run.complete(SIGNAL)
    waits: list[int] = []
    for _ in range(4):
        run.decide(i.OutboxUndelivered(1, "down"))
        waits.append(run.execution.wake_at() - run.now)
        run.wake()
    assert waits == [OUTBOX_RETRY_INITIAL * times for times in (1, 2, 4, 8)]


def test_an_entry_that_can_not_be_delivered_waits_longer_and_is_given_up_visibly() -> None:
    run = Run.begin()
    run.complete(SIGNAL)
    run.decide(i.OutboxUndelivered(1, "down"))
    assert run.state.outbox[1].failure == "down" and run.execution.wake_at() > NOW
    run.now += OUTBOX_RETRY_LIFETIME + 1
    run.decide(i.OutboxUndelivered(1, "still down"))
    failed = run.history[-2]
    assert isinstance(failed, e.SignalExternalWorkflowExecutionFailed)
    assert failed.failure.message == "given up: still down" and not run.state.outbox


def test_entries_are_numbered_through() -> None:
    run = Run.begin()
    run.complete(SIGNAL, CANCEL)
    run.decide(i.OutboxAnswered(2))
    run.complete(SIGNAL)
    assert list(run.state.outbox) == [1, 3]
