"""What goes over to the next run of a chain: nothing is lost between them, nothing is there twice."""

from __future__ import annotations

import pytest

from perdure.clock import SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core.decisions import carrying
from perdure.engine.core.decisions.outbox import Elsewhere
from perdure.engine.core.inputs import ChildReported, OutboxAnswered
from perdure.engine.core.queries import update_outcome
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from tests.engine.core.harness import FAILURE, NAMESPACE, RUN, WORKFLOW, Run, effects, payload

NEXT = c.ContinueAsNew("Type", "", ())


def signals(run: Run) -> list[str]:
    return [event.signal_name for event in run.history if isinstance(event, e.WorkflowExecutionSignaled)]


def test_signals_stand_before_the_first_task_in_their_order() -> None:
    run = Run.begin()
    run.take()
    run.signal("late")
    run.cancel()
    run.signal("later")
    carried = (c.CarriedSignal("unused", (payload(1),), "ann"), c.CarriedSignal("unused-too", ()))
    run.complete(c.ContinueAsNew("Type", "", (), carried, {"h": payload(2)}))
    assert not run.state.buffered
    following = run.continued()
    assert signals(following) == ["unused", "unused-too", "late", "later"]
    assert following.names()[-2:] == ["WorkflowExecutionSignaled", "WorkflowTaskScheduled"]
    assert following.state.cancel_requested
    first = following.history[1]
    assert isinstance(first, e.WorkflowExecutionSignaled)
    assert (first.input, first.identity) == ((payload(1),), "ann")
    assert following.state.started.header == {"h": payload(2)}
    following.crash()
    following.complete(c.CompleteWorkflow(payload(None)))


def test_a_request_to_stop_that_the_code_did_not_hear_is_the_next_runs() -> None:
    run = Run.begin()
    run.cancel()
    run.complete(c.ContinueAsNew("Type", "", (), pass_cancel=True))
    following = run.continued()
    event = following.history[1]
    assert isinstance(event, e.WorkflowExecutionCancelRequested)
    assert event.reason == "enough"
    assert following.state.cancel_requested


def test_an_update_that_waits_is_admitted_by_the_next_run() -> None:
    run = Run.begin()
    run.take()
    run.update("waits")
    tx = run.complete(NEXT)
    assert not effects(tx, fx.UpdateProgressed)  # its caller waits on
    following = run.continued()
    assert list(following.state.admitted) == ["waits"]
    following.crash()
    following.complete(c.AcceptUpdate("waits"), c.CompleteUpdate("waits", payload(1)))


def test_answers_of_updates_are_remembered() -> None:
    run = Run.begin()
    run.take()
    run.update("done")
    run.update("refused")
    run.update("cut")
    run.complete()  # nobody has answered yet
    failure = Failure("no")
    run.complete(c.AcceptUpdate("done"), c.CompleteUpdate("done", payload(1)), c.RejectUpdate("refused", failure))
    run.signal()
    tx = run.complete(c.AcceptUpdate("cut"), NEXT)
    assert [effect.outcome.stage for effect in effects(tx, fx.UpdateProgressed)] == ["accepted", "rejected"]
    following = run.continued()
    stages = {id: update_outcome(following.state, id) for id in ("done", "refused", "cut")}
    assert {id: known and known.stage for id, known in stages.items()} == {
        "done": "completed",
        "refused": "rejected",
        "cut": "rejected",
    }
    assert not following.state.admitted
    assert effects(following.update("done"), fx.UpdateProgressed) == []


def test_only_the_latest_answers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MAX_REMEMBERED_UPDATES", 2)
    run = Run.begin()
    for update_id in ("a", "b", "c"):
        run.update(update_id)
        run.complete(c.AcceptUpdate(update_id), c.CompleteUpdate(update_id, payload(1)))
    run.signal()
    run.complete(NEXT)
    assert list(run.continued().state.finished) == ["b", "c"]


def test_children_go_on_where_the_code_says_so() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("kept", "Type", "", ()), c.StartChildWorkflow("left", "Type", "", (), "abandon"))
    kept, left = run.state.children
    run.signal()
    tx = run.complete(c.ContinueAsNew("Type", "", (), (), None, keep_children=True))
    assert not effects(tx, fx.Send)
    for entry_id in (1, 2):
        run.decide(OutboxAnswered(entry_id, run_id="child-run"))
    following = run.continued()
    assert set(following.state.inherited) == {(RUN, kept), (RUN, left)}
    following.complete(c.ContinueAsNew("Type", "", (), (), None, keep_children=True))
    last = following.continued()
    assert run.decide(ChildReported(RUN, kept, None, None, "child-run")).reply == Elsewhere()
    last.complete()
    last.decide(ChildReported("another", kept, None, None, "child-run"))
    assert set(last.state.inherited) == {(RUN, kept), (RUN, left)}
    for entry_id in list(last.state.outbox):
        last.decide(OutboxAnswered(entry_id, run_id="child-run"))
    last.signal()
    tx = last.complete(c.CompleteWorkflow(payload(None)))
    cancels = [effect.message for effect in effects(tx, fx.Send)]
    assert cancels == [r.OutboxCancel("kept", "", terminate=True, child_of=e.ParentRef(NAMESPACE, WORKFLOW, RUN, kept))]


def test_an_inherited_child_that_has_ended_is_forgotten() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Type", "", ()))
    (began,) = run.state.children
    run.decide(OutboxAnswered(1, run_id="child-run"))
    run.complete(c.ContinueAsNew("Type", "", (), (), None, keep_children=True))
    following = run.continued()
    assert not following.state.outbox
    following.decide(ChildReported(RUN, began, None, None, "child-run"))
    assert not following.state.inherited
    following.signal()
    assert not effects(following.complete(c.CompleteWorkflow(payload(None))), fx.Send)


def test_without_it_children_end_with_their_run_as_before() -> None:
    run = Run.begin()
    run.complete(c.StartChildWorkflow("child", "Type", "", ()))
    run.decide(OutboxAnswered(1, run_id="child-run"))
    assert len(effects(run.complete(NEXT), fx.Send)) == 1
    assert not run.continued().state.inherited


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("how", ["continued", "retried", "begun"])
def test_a_child_of_the_same_id_waits_for_the_end_of_the_last_one(how: str, started: bool) -> None:
    run = Run.begin(retry_policy=RetryPolicy())
    child = c.StartChildWorkflow("child", "Type", "", ())
    run.complete(child)
    if started:
        run.decide(OutboxAnswered(1, "", "child-run"))
    else:
        run.signal()
    ends = {
        "continued": c.ContinueAsNew("Type", "", ()),
        "retried": c.FailWorkflow(FAILURE),
        "begun": c.CompleteWorkflow(payload("result")),
    }
    run.complete(ends[how])
    following = run.followed() if how == "begun" else run.continued()
    first = [entry.added.message for entry in following.state.outbox.values()]
    own = e.ParentRef(NAMESPACE, WORKFLOW, RUN, 5)
    end = r.OutboxCancel("child", "", True, own)
    assert first == ([] if started else [r.OutboxStart("child", "Type", "queue", (), own)]) + [end]
    following.wake()
    tx = following.complete(child)
    assert not effects(tx, fx.Send), "the last child has its id yet"
    if not started:
        tx = following.decide(OutboxAnswered(1, "", "child-run"))
        assert [effect.entry_id for effect in effects(tx, fx.Send)] == [2]
    tx = following.decide(OutboxAnswered(len(first), ""))
    assert [effect.entry_id for effect in effects(tx, fx.Send)] == [len(first) + 1]


def test_children_of_one_id_begin_and_end_one_after_the_other() -> None:
    run, child = Run.begin(), c.StartChildWorkflow("child", "Type", "", ())
    run.complete(child)
    run.decide(OutboxAnswered(1, "", "child-run"))
    run.complete(NEXT)
    second = run.continued()
    second.complete(child)
    second.signal()
    second.complete(NEXT)
    third = second.continued()
    third.complete(child)
    sent = [(type(entry.added.message), entry.added.event_id > 0) for entry in third.state.outbox.values()]
    start, end = r.OutboxStart, r.OutboxCancel
    assert sent == [(end, False), (start, False), (end, False), (start, True)]
    for entry_id in (1, 2, 3):
        free = effects(third.decide(OutboxAnswered(entry_id, "")), fx.Send)
        assert [effect.entry_id for effect in free] == [entry_id + 1]


def test_a_child_whose_start_is_on_its_way_is_the_next_runs() -> None:
    """That one sends the start, too, so that its end comes after it; and hears where it is refused."""
    run = Run.begin()
    run.complete(*(c.StartChildWorkflow(name, "Type", "", ()) for name in ("slow", "refused")))
    slow, refused = run.state.children
    starts = [entry.added for entry in run.state.outbox.values()]
    run.signal()
    run.now += SECOND
    run.complete(c.ContinueAsNew("Type", "", (), (), None, keep_children=True))
    following = run.continued()
    assert [(entry.added.message, entry.added.time) for entry in following.state.outbox.values()] == [
        (added.message, added.time) for added in starts
    ]
    following.decide(OutboxAnswered(2, "the id is taken"))
    assert list(following.state.inherited) == [(RUN, slow)] != [(RUN, refused)]
    following.complete(c.CompleteWorkflow(payload(None)))
    (start, end) = following.state.outbox.values()
    assert isinstance(end.added.message, r.OutboxCancel)
    following.decide(OutboxAnswered(end.added.entry_id, "there is no such workflow"))
    assert following.state.outbox[end.added.entry_id].next_attempt_at  # it is tried again, since the start is to come
    following.decide(OutboxAnswered(start.added.entry_id, run_id="child-run"))
    following.decide(OutboxAnswered(end.added.entry_id))
    assert not following.state.outbox
