"""Resets: what a run that begins with a part of another one's history is like."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import messages
from perdure.engine.core.decisions.outbox import Elsewhere
from perdure.engine.core.decisions.resets import Fork, end_for_reset, left_by, point_of, scheduled_as
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest
from perdure.limits import DEFAULT_RETENTION, OUTBOX_RETRY_LIFETIME
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NAMESPACE, NOW, RUN, WORKFLOW, Run, effects, payload, schedule

NEW = "run-2"
CHILDREN: dict[str, e.ParentClosePolicy] = {"ended": "terminate", "asked": "request_cancel", "left": "abandon"}


def request(*, reapply: bool = True) -> q.ResetWorkflow:
    return q.ResetWorkflow(NAMESPACE, WORKFLOW, "", "reset-1", 1, "", "bad deploy", "ann", reapply)


def forked(run: Run, to: q.ResetPoint = "last", event_id: int = 0, *, reapply: bool = True, run_id: str = NEW) -> Run:
    """The run that goes on in the place of another, which ends if it is open; all is checked of both."""
    point = point_of(run.history, event_id, to if not event_id else "")
    kept, later = run.history[:point], run.history[point:]
    fork = Fork(request(reapply=reapply), kept, later, run_id, 2, run.now, DEFAULT_RETENTION)
    left, buffered = left_by(run.state, is_base=True), ()
    if run.execution.open:
        end = Transition(run.execution, run.now)
        buffered = end_for_reset(end, request(), run_id, fork.spares(left), fork.takes(left))
        run.keep(end)
    new = Run(fork.go_on(left, buffered), now=run.now)
    assert [event.id for event in new.history] == list(range(1, len(new.history) + 1))
    return new


def test_a_run_is_reset_to_its_last_workflow_task() -> None:
    run = Run.begin(memo={"team": payload("a")})
    run.complete(c.StartTimer("t", HOUR), schedule("a"))
    run.decide(t.ActivityCompletion(run.start(), payload(1)))
    run.complete(schedule("b"), c.StartTimer("u", MINUTE))
    run.now += SECOND
    new = forked(run)
    assert run.last == e.WorkflowExecutionTerminated(run.last.id, run.now, "reset: bad deploy", "ann", NEW)
    assert run.state.new_run_id == NEW
    kept = next(event.id for event in reversed(run.history) if isinstance(event, e.WorkflowTaskStarted))
    assert new.history[1:kept] == run.history[1:kept]
    first = new.history[0]
    assert isinstance(first, e.WorkflowExecutionStarted)
    assert (first.run_id, first.original_run_id, first.first_run_id) == (NEW, RUN, RUN)
    failed, scheduled = new.history[kept:]
    assert isinstance(failed, e.WorkflowTaskFailed) and isinstance(scheduled, e.WorkflowTaskScheduled)
    assert (failed.base_run_id, failed.new_run_id, failed.identity) == (RUN, NEW, "ann")
    assert list(new.state.timers) == ["t"] and not new.state.activities
    assert [(each.action, each.note) for each in new.state.interventions] == [("reset", "bad deploy")]
    new.complete(c.CompleteWorkflow(payload("better")))
    assert new.state.status == "Completed"


def ref(run_id: str, initiated: int) -> e.ParentRef:
    return e.ParentRef(NAMESPACE, WORKFLOW, run_id, initiated)


def ended(run: Run) -> list[r.Outgoing]:
    """What a run has sent at its end."""
    return [entry.added.message for entry in run.state.outbox.values() if not entry.added.event_id]


def test_the_points_that_a_run_can_be_reset_to() -> None:
    run = Run.begin()
    with pytest.raises(InvalidRequest, match="no first workflow task"):
        point_of(run.history, 0, "first")
    run.complete()
    run.signal()
    run.complete()
    assert point_of(run.history, 0, "first") == 3 == point_of(run.history, 3, "") == point_of(run.history, 4, "")
    assert point_of(run.history, 0, "last") == 7 == point_of(run.history, 8, "")
    with pytest.raises(InvalidRequest, match=r"event 5 is a WorkflowExecutionSignaled; workflow tasks.*by: 4, 8"):
        point_of(run.history, 5, "")
    with pytest.raises(InvalidRequest, match="event 99 is none of its 8 events"):
        point_of(run.history, 99, "")
    for event_id, to in ((0, ""), (4, "last")):
        with pytest.raises(InvalidRequest, match="either the event_id"):
            point_of(run.history, event_id, to)  # pyright: ignore[reportArgumentType]


def test_a_schedule_hears_of_a_reset_after_the_end() -> None:
    by = e.ScheduleRef("nightly", "schedule-1", 7, NOW)
    run = Run.begin(scheduled_by=by)
    base = run.state.started
    run.complete(schedule("a"))
    assert scheduled_as(base, run.state, 2) == by  # it goes on as it was
    run.decide(q.TerminateWorkflow(NAMESPACE, WORKFLOW, "", "", ""))
    again = scheduled_as(base, run.state, 2)
    assert again is not None and again == e.ScheduleRef("nightly", "schedule-1", 7, NOW, 2)
    point = point_of(run.history, 0, "last")
    fork = Fork(request(), run.history[:point], run.history[point:], NEW, 2, run.now, DEFAULT_RETENTION, again)
    new = Run(fork.go_on(), now=run.now)
    assert ended(new) == [r.OutboxScheduleReport(again, NEW, "Running", None, None)]
    assert scheduled_as(base, new.state, 3) == again  # it is told of once


def test_messages_that_came_later_come_again() -> None:
    run = Run.begin()
    run.signal("before")
    run.complete()
    run.signal("after")
    run.update("u")
    run.update("v")
    run.complete(c.AcceptUpdate("u"), c.AcceptUpdate("v"), c.CompleteUpdate("u", payload(1)))
    run.signal("open")
    run.take()
    run.signal("buffered")
    new = forked(run, "first")
    signals = [event.signal_name for event in new.history if isinstance(event, e.WorkflowExecutionSignaled)]
    assert signals == ["before", "after"]
    assert list(new.state.admitted) == ["u", "v"] and not new.state.finished
    assert new.names(-1) == ["WorkflowTaskScheduled"]
    tx = new.complete(c.AcceptUpdate("u"), c.RejectUpdate("v", FAILURE))
    assert effects(tx, fx.UpdateProgressed)
    signals = [event.signal_name for event in tx.events if isinstance(event, e.WorkflowExecutionSignaled)]
    assert signals == ["open", "buffered"]


def test_messages_that_came_later_are_left_out_if_the_reset_says_so() -> None:
    run = Run.begin()
    run.complete()
    run.signal()
    run.update()
    run.complete(c.AcceptUpdate("u"))
    new = forked(run, "first", reapply=False)
    assert new.names(3) == ["WorkflowTaskFailed", "WorkflowTaskScheduled"] and not new.state.admitted


def test_an_update_that_was_accepted_before_is_not_given_twice() -> None:
    run = Run.begin()
    run.update("u")
    run.complete(c.AcceptUpdate("u"))
    run.signal()
    run.complete(c.CompleteUpdate("u", payload(1)))
    new = forked(run)
    assert list(new.state.accepted) == ["u"] and not new.state.admitted
    new.complete(c.CompleteUpdate("u", payload(2)))


def test_activities_that_were_pending_are_handed_out_anew() -> None:
    run = Run.begin()
    run.complete(schedule("a", schedule_to_close_timeout=MINUTE, retry_policy=RetryPolicy(maximum_attempts=2)))
    run.fail_activity(run.start())
    run.wake()
    run.signal()
    run.complete()
    run.now += HOUR
    token = run.start()
    new = forked(run)
    assert token.attempt == 2
    activity = new.activity()
    assert (activity.status, activity.attempt, activity.queued_at) == ("scheduled", 1, run.now)
    assert new.execution.wake_at() == run.now + MINUTE
    new.fail_activity(new.start())
    assert new.activity().status == "backing_off"


def test_an_activity_that_was_to_be_cancelled_is_over() -> None:
    run = Run.begin()
    run.running()
    run.signal()
    run.complete(c.RequestCancelActivity("a"))
    run.signal("2")
    run.complete()
    new = forked(run)
    assert not new.state.activities and "ActivityTaskCanceled" in new.names()


def test_timeouts_begin_again() -> None:
    run = Run.begin(run_timeout=MINUTE, execution_timeout=HOUR, retry_policy=RetryPolicy(maximum_attempts=1))
    run.complete()
    run.wake()
    assert run.state.status == "TimedOut"
    run.now += HOUR
    new = forked(run)
    assert new.execution.wake_at() == run.now + MINUTE
    new.complete(c.ContinueAsNew("Type", "", ()))
    assert new.continued().execution.deadlines.at((0, 0, "")) == run.now + MINUTE


def test_a_closed_run_is_reset_and_keeps_its_end() -> None:
    run = Run.begin()
    run.complete(c.FailWorkflow(FAILURE))
    new = forked(run)
    assert run.state.status == "Failed" and new.state.status == "Running"
    assert new.names() == [
        "WorkflowExecutionStarted", "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskFailed",
        "WorkflowTaskScheduled",
    ]  # fmt: skip


def test_a_task_that_had_failed_often_can_be_reset_to() -> None:
    run = Run.begin()
    run.fail_task()
    run.wake()
    run.fail_task()
    run.wake()
    run.complete()
    assert run.names(4) == ["WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted"]
    new = forked(run)
    assert new.names(4) == [
        "WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskFailed", "WorkflowTaskScheduled",
    ]  # fmt: skip
    again = forked(run, event_id=4)  # the one that failed
    assert again.names(3) == ["WorkflowTaskFailed", "WorkflowTaskScheduled"]


def test_a_reset_run_can_be_reset() -> None:
    run = Run.begin()
    run.complete()
    run.signal()
    run.complete()
    second = forked(run)
    second.complete()
    third = forked(second)
    first = third.history[0]
    assert isinstance(first, e.WorkflowExecutionStarted) and first.original_run_id == RUN
    assert sum(isinstance(event, e.WorkflowTaskFailed) for event in third.history) == 2


def test_children_that_were_asked_for_before_are_the_new_runs() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("before", "Leaf", "", ()))
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.complete(c.StartChildWorkflow("after", "Leaf", "", ()))
    before, after = run.state.children
    new = forked(run)
    assert ended(run) == [r.OutboxCancel("after", "", terminate=True, child_of=ref(RUN, after))]
    assert list(new.state.children) == [before] and new.state.children[before].run_id == "child-1"
    report = i.ChildReported(RUN, before, payload(1), None, "child-1")
    assert run.decide(report).reply == Elsewhere()
    assert new.decide(report).reply == messages.DONE
    assert not new.state.children


def test_children_know_the_run_that_asked_for_them_through_every_reset() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("first", "Leaf", "", ()))
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.complete()
    second = forked(run)
    second.complete(c.StartChildWorkflow("second", "Leaf", "", ()))
    second.signal()
    second.complete()
    (of_first, of_second) = second.state.children
    third = forked(second, run_id="run-3")
    assert list(third.state.children) == [of_first, of_second]
    assert not ended(run) and not ended(second)
    third.complete(c.RequestCancelExternalWorkflow("first", "", child_initiated_event_id=of_first))
    assert [
        entry.added.message for entry in third.state.outbox.values() if isinstance(entry.added.message, r.OutboxCancel)
    ] == [r.OutboxCancel("first", "", child_of=ref(RUN, of_first), request_id=f"run-3:{third.last.id}")]
    report = i.ChildReported(RUN, of_second, payload(1), None, "child-2")
    third.decide(report)  # of another child with this number, which this run never had
    assert of_second in third.state.children
    third.terminate()
    assert ended(third) == [
        r.OutboxCancel("first", "", terminate=True, child_of=ref(RUN, of_first)),
        r.OutboxCancel("second", "", terminate=True, child_of=ref(NEW, of_second)),
    ]


def test_children_know_the_run_that_asked_for_them_when_the_copy_is_reset_to_before_it_was_one() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Leaf", "", ()))
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.complete()
    run.signal()
    run.complete()
    (initiated,) = run.state.children
    second = forked(run)
    third = forked(second, event_id=8, run_id="run-3")
    assert list(third.state.children) == [initiated]
    third.terminate()
    assert ended(third) == [r.OutboxCancel("child", "", terminate=True, child_of=ref(RUN, initiated))]


def test_inherited_children_stay_with_the_new_run() -> None:
    first = Run.begin()
    first.complete(*(c.StartChildWorkflow(name, "Leaf", "", (), "terminate") for name in ("over", "child")))
    first_children = list(first.state.children)
    first.decide(i.OutboxAnswered(1, run_id="child-1"))
    first.decide(i.OutboxAnswered(2, run_id="child-2"))
    first.complete(c.ContinueAsNew("Type", "", (), keep_children=True))
    run = first.continued()
    run.complete()
    over, child = first_children
    run.decide(i.ChildReported(RUN, over, payload(1), None, "child-1"))
    new = forked(run)
    assert not ended(run) and list(new.state.inherited) == [(RUN, child)]
    new.terminate()
    assert ended(new) == [r.OutboxCancel("child", "", terminate=True, child_of=ref(RUN, child))]


@pytest.mark.parametrize("reapply", [True, False])
def test_callers_of_open_updates_wait_for_the_new_run_or_hear_that_it_has_closed(*, reapply: bool) -> None:
    first = Run.begin()
    first.update("long ago")
    first.complete(c.RejectUpdate("long ago", FAILURE))
    first.update("carried")
    first.complete(c.ContinueAsNew("Type", "", ()))
    run = first.continued()
    run.complete(c.AcceptUpdate("carried"), c.CompleteUpdate("carried", payload(1)))
    run.update("before")
    run.complete(c.AcceptUpdate("before"))
    run.update("after")
    run.complete(c.AcceptUpdate("after"))
    run.update("admitted")
    left, point = left_by(run.state, is_base=True), point_of(run.history, 0, "last")
    kept, later = run.history[:point], run.history[point:]
    fork = Fork(request(reapply=reapply), kept, later, NEW, 3, run.now, DEFAULT_RETENTION)
    end = Transition(run.execution, run.now)
    end_for_reset(end, request(reapply=reapply), NEW, fork.spares(left), fork.takes(left))
    run.keep(end)
    told = [effect.outcome.update_id for effect in effects(end, fx.UpdateProgressed)]
    new = Run(fork.go_on(left), now=run.now)
    open = [*new.state.admitted, *new.state.accepted]
    assert (told, open) == (([], ["after", "admitted", "before"]) if reapply else (["admitted", "after"], ["before"]))
    for update_id in ("long ago", *told):  # a repetition hears the same
        assert isinstance(new.update(update_id).reply, q.UpdateOutcome)
    assert new.update("carried").reply == q.UpdateOutcome("carried", "completed", payload(1))


def test_what_became_of_a_child_later_is_told_again() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Leaf", "", ()))
    (initiated,) = run.state.children
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.decide(i.ChildReported(RUN, initiated, payload(1), None, "child-1"))
    run.signal()
    run.complete()
    new = forked(run, event_id=4)
    assert not new.state.children  # nobody had asked for it yet
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Leaf", "", ()))
    run.signal()
    run.complete()
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.decide(i.ChildReported(RUN, initiated, payload(1), None, "child-1"))
    new = forked(run)
    assert new.names(-3) == [
        "ChildWorkflowExecutionStarted", "ChildWorkflowExecutionCompleted", "WorkflowTaskScheduled",
    ]  # fmt: skip


def test_a_child_that_is_on_its_way_is_asked_for_under_the_same_request() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Leaf", "", ()), c.SignalExternalWorkflow("other", "", "s", ()))
    run.signal()
    run.complete()
    new = forked(run)
    sent, (asked,) = [entry.added.message for entry in run.state.outbox.values()], new.state.signals_sent
    assert [entry.added.message for entry in new.state.outbox.values()] == sent
    start, signal = sent
    assert isinstance(start, r.OutboxStart) and isinstance(signal, r.OutboxSignal)
    assert (signal.request_id, start.parent.run_id) == (f"{RUN}:{asked}", RUN)


def test_what_a_closed_run_had_sent_is_sent_again_until_it_may_be_forgotten() -> None:
    """The run that asked for it has closed before the answer came, and is not told of it any more."""
    run = Run.begin()
    run.complete(
        c.SignalExternalWorkflow("other", "", "s", ()),
        c.RequestCancelExternalWorkflow("other", ""),
        c.StartChildWorkflow("child", "Leaf", "", (), "abandon"),
    )
    run.signal()
    run.complete()
    run.terminate()
    sent = [(entry.added.message, entry.added.time) for entry in run.state.outbox.values()]
    for entry_id in list(run.state.outbox):
        run.decide(i.OutboxAnswered(entry_id))
    run.now += OUTBOX_RETRY_LIFETIME
    new = forked(run)
    added = sorted((entry.added for entry in new.state.outbox.values()), key=lambda entry: entry.event_id)
    asked = r.OutboxAsk("child", ref(RUN, max(new.state.children)))
    assert [(each.message, each.time) for each in added] == [*sent, (asked, new.now)]
    run.now += 1
    late = forked(run, run_id="run-3")
    assert [entry.added.message for entry in late.state.outbox.values()] == [asked]
    assert not late.state.signals_sent and not late.state.cancels_sent
    assert late.names(-3) == [
        "SignalExternalWorkflowExecutionFailed", "RequestCancelExternalWorkflowExecutionFailed",
        "WorkflowTaskScheduled",
    ]  # fmt: skip


def test_what_was_sent_by_the_run_that_was_copied_is_sent_again_in_its_name() -> None:
    run = Run.begin()
    run.complete(c.SignalExternalWorkflow("other", "", "s", ()))
    run.signal()
    run.complete()
    second = forked(run)
    second.complete()
    second.signal()
    second.complete(c.CompleteWorkflow(payload(1)))
    third = forked(second, run_id="run-3")
    (entry,) = third.state.outbox.values()
    assert isinstance(entry.added.message, r.OutboxSignal)
    assert entry.added.message.request_id == f"{RUN}:{entry.added.event_id}"


def test_children_that_a_later_run_has_kept_are_the_new_runs_again() -> None:
    """The run that began them is reset; they have not ended with it, nor do they with the one that has them now."""
    run = Run.begin()
    run.complete(*(c.StartChildWorkflow(name, "Leaf", "", ()) for name in ("kept", "over")))
    kept, over = run.state.children
    for entry_id, child in enumerate(("child-1", "child-2"), 1):
        run.decide(i.OutboxAnswered(entry_id, run_id=child))
    run.complete(c.StartChildWorkflow("later", "Leaf", "", ()))
    later = max(run.state.children)
    point, history = point_of(run.history, 0, "last"), list(run.history)
    run.signal()
    run.complete(c.ContinueAsNew("Type", "", (), keep_children=True))
    latest = run.continued()
    latest.decide(i.ChildReported(RUN, over, payload(1), None, "child-2"))
    fork = Fork(request(), history[:point], run.history[point:], NEW, 3, run.now, DEFAULT_RETENTION)
    left = left_by(latest.state, is_base=False)
    end = Transition(latest.execution, run.now)
    end_for_reset(end, request(), NEW, fork.spares(left), fork.takes(left))
    latest.keep(end)
    new = Run(fork.go_on(left), now=run.now)
    assert ended(latest)[-1] == r.OutboxCancel("later", "", terminate=True, child_of=ref(RUN, later))
    assert not any(isinstance(each, r.OutboxCancel) and each.workflow_id == "kept" for each in ended(latest))
    assert list(new.state.children) == [kept, over]
    assert asks(new) == {1: "over"}  # which has told a run that remembers nothing of it
    report = i.ChildReported(RUN, kept, payload(1), None, "child-1")
    assert latest.decide(report).reply == Elsewhere()
    new.decide(report)
    assert list(new.state.children) == [over]


def asks(run: Run) -> dict[int, str]:
    """The children that a run asks what has become of them, by the outbox's entry."""
    sent = {entry.added.entry_id: entry.added.message for entry in run.state.outbox.values()}
    return {id: message.workflow_id for id, message in sent.items() if isinstance(message, r.OutboxAsk)}


def test_children_of_a_closed_parent_are_asked_what_has_become_of_them() -> None:
    run = Run.begin()
    run.complete(*(c.StartChildWorkflow(name, "Leaf", "", (), policy) for name, policy in CHILDREN.items()))
    ended, asked, left = run.state.children
    run.decide(i.OutboxAnswered(1, run_id="child-1"))
    run.complete()
    run.terminate()
    new = forked(run)
    assert list(new.state.children) == [ended, asked, left]
    entries = {name: id for id, name in asks(new).items()}
    assert set(entries) == {"ended", "asked", "left"}
    starts = [entry.added for entry in new.state.outbox.values() if isinstance(entry.added.message, r.OutboxStart)]
    assert [start.event_id for start in starts] == [asked, left]
    new.complete()
    gone = i.OutboxAnswered(entries["asked"], "there is no such workflow", types=("perdure.errors.NotFound",))
    new.decide(gone)
    assert asks(new)[entries["asked"]] == "asked"  # its start is on its way yet
    new.decide(i.OutboxAnswered(starts[0].entry_id, "its id is taken"))
    assert new.names(-2) == ["StartChildWorkflowExecutionFailed", "WorkflowTaskScheduled"]
    new.decide(gone)
    new.decide(i.OutboxAnswered(entries["left"], run_id="child-3"))
    new.decide(i.OutboxAnswered(starts[1].entry_id, run_id="child-3"))
    assert new.names(-1) == ["ChildWorkflowExecutionStarted"]  # once
    new.decide(i.ChildReported(RUN, left, payload(1), None, "child-3"))
    new.decide(i.OutboxAnswered(entries["ended"], "there is no such workflow", types=("perdure.errors.NotFound",)))
    assert not new.state.children and not new.state.outbox
    assert new.names(-3) == [
        "ChildWorkflowExecutionStarted", "ChildWorkflowExecutionCompleted", "ChildWorkflowExecutionFailed",
    ]  # fmt: skip


def test_the_room_that_a_person_gave_a_full_history_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the run would be held again at once, by events that both have."""
    monkeypatch.setattr(messages, "MAX_HISTORY_EVENTS", 8)
    run = Run.begin()
    for _ in range(2):
        run.signal()
        run.complete()
    run.decide(q.ReleaseActivity(NAMESPACE, WORKFLOW, ""))
    run.signal()
    run.complete()
    assert not run.state.held
    new = forked(run)
    new.complete()
    assert not new.state.held


def test_a_parent_does_not_hear_of_a_reset() -> None:
    run = Run.begin(parent=e.ParentRef("default", "boss", "run-0", 5))
    run.complete()
    new = forked(run)
    assert not run.state.outbox
    new.complete(c.CompleteWorkflow(payload(1)))
    assert len(new.state.outbox) == 1


def test_timers_keep_their_times() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", MINUTE))
    run.wake()
    run.complete()
    run.now += HOUR
    new = forked(run)
    assert not new.state.timers
    run = Run.begin()
    run.complete(c.StartTimer("t", MINUTE))
    run.signal()
    run.complete()
    run.wake()
    run.now += HOUR
    new = forked(run)
    assert new.execution.wake_at() == NOW + MINUTE
    new.wake()
    assert "TimerFired" in new.names()
