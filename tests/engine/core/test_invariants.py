"""The invariants see what they are there to see: a good run passes, and each way of breaking it is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from perdure.clock import HOUR, MINUTE
from perdure.engine.core import effects as fx
from perdure.engine.core.deadlines import Beat
from perdure.engine.core.execution import Execution
from perdure.engine.core.invariants import (
    InvariantBroken,
    check_execution,
    check_history,
    check_state,
    check_transition,
)
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import tasks as t
from perdure.model.payloads import NULL
from perdure.model.state import FinishedUpdate, OpenTask, State
from perdure.model.tasks import Position
from tests.engine.core.harness import FAILURE, NOW, Run, payload, schedule

SIGNALED = e.WorkflowExecutionSignaled(0, NOW, "s", ())


def busy() -> Run:
    """A run with something of everything, whose workflow task nobody has yet."""
    run = Run.begin(run_timeout=HOUR)
    run.update("accepted")
    run.complete(
        c.AcceptUpdate("accepted"),
        schedule("started", heartbeat_timeout=MINUTE),
        schedule("backing off"),
        schedule("held"),
        schedule("scheduled"),
        c.StartTimer("t", MINUTE),
        c.StartChildWorkflow("child", "Child", "", ()),
        c.SignalExternalWorkflow("other", "", "hello", ()),
    )
    run.start("started")
    run.fail_activity(run.start("backing off"))
    run.fail_activity(run.start("held"), replace(FAILURE, kind="hold"))
    run.update("admitted")
    return run


def closed() -> Run:
    run = busy()
    run.terminate()
    return run


def activity(state: State, name: str) -> object:
    return state.activities[state.activity_ids[name]]


def assign(target: object, **fields: object) -> None:
    for name, value in fields.items():
        setattr(target, name, value)


# --- States ---------------------------------------------------------------------------------------------
def test_a_good_run_passes() -> None:
    for run in (busy(), closed()):
        check_state(run.state)
        check_execution(run.execution)
        check_history(run.history)


BROKEN_STATES: list[tuple[Callable[[State], object], str]] = [
    (lambda s: assign(s, running=0), "running is 0, but 1 activities are started"),
    (lambda s: assign(s, close_refusals=4), "refused 4 times"),
    (lambda s: assign(s, history_bytes=0), "has no history"),
    (lambda s: assign(s, seen=Position(99, 0)), "has seen"),
    (lambda s: assign(s, close_time=NOW), "is running, and has a close time"),
    (lambda s: assign(s, next_entry_id=1), "will be used again"),
    (lambda s: s.outbox.update({0: s.outbox[1]}), "outbox entry is misfiled"),
    (lambda s: s.buffered.append(replace(SIGNALED, id=9)), "in the buffer has an id"),
    (lambda s: (s.buffered.append(SIGNALED), assign(s, task=None)), "workflow task that isn't open"),
    (lambda s: assign(s, task=None), "an update waits, but no workflow task is open"),
    (lambda s: assign(s, task=OpenTask(0, 1, NOW)), "the open task is"),
    (lambda s: assign(s, task=OpenTask(2, 1, NOW, NOW)), "a first workflow task backs off"),
    (lambda s: s.activity_ids.pop("held"), "activity_ids is"),
    (lambda s: s.ended_ids.update({"held": 3}), "is pending and has its outcome in the buffer"),
    (lambda s: s.ended_timers.update({"t": 3}), "a timer runs and has its firing in the buffer"),
    (lambda s: s.ended_ids.update({"x": 3}), "1 outcomes should be in the buffer"),
    (lambda s: assign(activity(s, "held"), held_at=0), "held_at is 0"),
    (lambda s: assign(activity(s, "held"), held_for=-1), "less than no time"),
    (lambda s: assign(activity(s, "scheduled"), next_attempt_at=NOW), "next_attempt_at is"),
    (lambda s: assign(activity(s, "backing off"), next_attempt_at=0), "next_attempt_at is 0"),
    (lambda s: assign(activity(s, "backing off"), attempts_before=2), "more attempts are forgiven"),
    (lambda s: assign(activity(s, "started"), worker=""), "nobody knows where or when"),
    (lambda s: assign(activity(s, "held"), cancel_requested=True), "nobody works on it"),
    (lambda s: s.timers.update(other=s.timers["t"]), "timer 'other' is misfiled"),
    (lambda s: s.children.update({99: next(iter(s.children.values()))}), "child 99 is misfiled"),
    (lambda s: assign(next(iter(s.children.values())), started_event_id=9), "is started, but has no run"),
    (lambda s: s.signals_sent.update({99: next(iter(s.signals_sent.values()))}), "what was sent is misfiled"),
    (lambda s: s.finished.update(admitted=FinishedUpdate(None, None)), "in two stages at once"),
    (lambda s: assign(s.accepted["accepted"], accepted_event_id=0), "an update has no event"),
]


@pytest.mark.parametrize(("break_it", "says"), BROKEN_STATES)
def test_a_state_that_contradicts_itself_is_named(break_it: Callable[[State], object], says: str) -> None:
    state = busy().state
    break_it(state)
    with pytest.raises(InvariantBroken, match=r"'wf' \(run run-1\)") as caught:
        check_state(state)
    assert says in str(caught.value)


BROKEN_ENDS: list[tuple[Callable[[State], object], str]] = [
    (lambda s: assign(s, task=OpenTask(2, 1, NOW)), "has an open workflow task"),
    (lambda s: assign(s, last_time=NOW + 1), "something happened after"),
    (lambda s: s.buffered.append(SIGNALED), "buffered is not empty"),
    (lambda s: s.accepted.update(busy().state.accepted), "accepted is not empty"),
]


@pytest.mark.parametrize(("break_it", "says"), BROKEN_ENDS)
def test_a_closed_state_that_goes_on_is_named(break_it: Callable[[State], object], says: str) -> None:
    state = closed().state
    break_it(state)
    with pytest.raises(InvariantBroken, match=says):
        check_state(state)


BROKEN_MEMORIES: list[tuple[Callable[[Execution], object], str]] = [
    (lambda x: assign(x, taken=Position(1, 0)), "the history moved on from"),
    (lambda x: assign(x.state, task=None, admitted={}) or assign(x, taken=Position(1, 0)), "isn't open"),
    (lambda x: x.beats.update({99: Beat(NOW, ())}), "activity 99 has a heartbeat, but does not run"),
    (lambda x: x.state.timers.update(u=e.TimerStarted(3, NOW, "u", NOW + 1, 2)), "but should at"),
]


@pytest.mark.parametrize(("break_it", "says"), BROKEN_MEMORIES)
def test_an_execution_whose_memory_is_wrong_is_named(break_it: Callable[[Execution], object], says: str) -> None:
    execution = busy().execution
    break_it(execution)
    with pytest.raises(InvariantBroken, match=says):
        check_execution(execution)


def test_a_transition_that_contradicts_itself_is_named() -> None:
    def broken(says: str) -> None:
        with pytest.raises(InvariantBroken, match=says):
            check_transition(tx)

    tx = busy().complete(c.AcceptUpdate("admitted"), c.CompleteUpdate("admitted", NULL))
    check_transition(tx)
    tx.offers.append(fx.ActivityOffer(7, 2, "queue", 0))
    broken("offers what does not wait")
    tx.effects.clear()
    tx.private += [(99, r.CloseRefused())]
    broken("private records stand at")
    tx.private.clear()
    tx.encoded.pop()
    broken("the events are not what is stored")
    tx.events.pop()
    broken("the last event is not the state's")
    run = Run.begin()
    token = run.running()
    tx = run.fail_activity(token)
    tx.effects.append(fx.HandOver("worker-1", t.ActivityTask(token, "a", "x", "y", "q", (), NOW, NOW)))
    broken("handed over that was not started")


# --- Histories ------------------------------------------------------------------------------------------
STARTED = e.WorkflowExecutionStarted(1, NOW, "Type", "queue", (), "run-1")
TASK = [
    STARTED,
    e.WorkflowTaskScheduled(2, NOW, "queue"),
    e.WorkflowTaskStarted(3, NOW, 2),
    e.WorkflowTaskCompleted(4, NOW, 2, 3),
]
ACTIVITY = e.ActivityTaskScheduled(5, NOW, "a", "create_vpc", "queue", (), 4)
TIMER = e.TimerStarted(5, NOW, "t", NOW + 1, 4)
CHILD = e.StartChildWorkflowExecutionInitiated(5, NOW, "child", "Child", "queue", (), 4)
ACCEPTED = e.WorkflowExecutionUpdateAccepted(5, NOW, "u", "resize", (), "", 4)
TERMINATED = e.WorkflowExecutionTerminated(5, NOW, "why")


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([e.WorkflowTaskScheduled(1, NOW, "queue")], "is the first"),
        ([replace(STARTED, id=2)], "should have the id 1"),
        ([STARTED, replace(STARTED, id=2)], "is not the first"),
        ([STARTED, e.WorkflowTaskScheduled(3, NOW, "queue")], "comes after event 1"),
        ([STARTED, e.WorkflowTaskScheduled(2, NOW - 1, "queue")], "is before event 1, by time"),
        ([*TASK, TERMINATED, replace(SIGNALED, id=6)], "comes after the end"),
        ([*TASK[:2], e.WorkflowTaskScheduled(3, NOW, "queue")], "opens a second workflow task, beside 2"),
        ([*TASK[:2], e.WorkflowTaskStarted(3, NOW, 1)], "should point at 2"),
        ([*TASK[:3], e.WorkflowTaskCompleted(4, NOW, 3, 3)], "should point at 2"),
        ([*TASK[:2], e.WorkflowTaskCompleted(3, NOW, 2, 2)], "has no started event before it"),
        ([*TASK[:3], replace(SIGNALED, id=4)], "should be the outcome of event 3"),
        (
            [
                *TASK[:3],
                e.WorkflowTaskFailed(4, NOW, 2, 3, FAILURE),
                e.WorkflowTaskScheduled(5, NOW, "queue", 2),
                replace(SIGNALED, id=6),
            ],
            "stands between a later attempt's events",
        ),
        ([*TASK, replace(ACTIVITY, workflow_task_completed_event_id=3)], "is not asked for by 4"),
        ([*TASK, replace(SIGNALED, id=5), replace(ACTIVITY, id=6)], "is not asked for by 0"),
        ([*TASK, ACTIVITY, replace(ACTIVITY, id=6)], "has the id of a pending activity"),
        ([*TASK, e.ActivityTaskStarted(5, NOW, 4, 1, "w", NOW)], "is of no pending activity"),
        ([*TASK, ACTIVITY, e.ActivityTaskStarted(6, NOW, 5, 1, "w", 0)], "began at no time"),
        ([*TASK, ACTIVITY, e.ActivityTaskCompleted(6, NOW, 5, 5, NULL)], "has no started event before it"),
        ([*TASK, e.ActivityTaskCompleted(5, NOW, 4, 0, NULL)], "is of no pending activity"),
        (
            [*TASK, ACTIVITY, e.ActivityTaskStarted(6, NOW, 5, 1, "w", NOW), replace(SIGNALED, id=7)],
            "should be the outcome of event 6",
        ),
        (
            [
                *TASK,
                ACTIVITY,
                replace(ACTIVITY, id=6, activity_id="b"),
                e.ActivityTaskStarted(7, NOW, 5, 1, "w", NOW),
                e.ActivityTaskCompleted(8, NOW, 6, 7, NULL),
            ],
            "is not of event 7",
        ),
        ([*TASK, e.ActivityTaskCancelRequested(5, NOW, 0, 4)], "is of no pending activity"),
        ([*TASK, TIMER, replace(TIMER, id=6)], "has a running timer's id"),
        ([*TASK, e.TimerFired(5, NOW, "t", 4)], "is of no running timer"),
        ([*TASK, TIMER, e.TimerFired(6, NOW, "t", 5)], "is early"),
        ([*TASK, TIMER, e.TimerCanceled(6, NOW, "t", 0, 4)], "is of no running timer"),
        ([*TASK, ACCEPTED, replace(ACCEPTED, id=6)], "accepts an update twice"),
        ([*TASK, ACCEPTED, e.WorkflowExecutionUpdateCompleted(6, NOW, "v", 5, NULL, None, 4)], "is of no open update"),
        ([*TASK, ACCEPTED, e.WorkflowExecutionUpdateCompleted(6, NOW, "u", 5, None, None, 4)], "a result or a failure"),
        ([*TASK, e.ChildWorkflowExecutionStarted(5, NOW, 4, "child", "run")], "is of no child"),
        ([*TASK, CHILD, e.ChildWorkflowExecutionCompleted(6, NOW, 5, 0, NULL)], "is of a child that event 0 began"),
        ([*TASK, e.StartChildWorkflowExecutionFailed(5, NOW, 4, "child", FAILURE)], "is of no child"),
        ([*TASK, e.ExternalWorkflowExecutionSignaled(5, NOW, 4)], "is of no signal on its way"),
        ([*TASK, e.ExternalWorkflowExecutionCancelRequested(5, NOW, 4)], "is of no request on its way"),
    ],
)
def test_a_history_that_is_not_well_formed_is_named(events: Sequence[e.HistoryEvent], says: str) -> None:
    check_history(events[:-1])  # up to there it is
    with pytest.raises(InvariantBroken, match=says):
        check_history(events)


def test_a_good_history_may_have_everything_in_it() -> None:
    run = busy()
    run.complete(c.RejectUpdate("admitted", FAILURE), c.CancelTimer("t"), c.RequestCancelActivity("scheduled"))
    run.release()
    run.decide(t.ActivityCompletion(run.start("held"), payload(1)))
    run.complete(c.CompleteUpdate("accepted", payload(1)), c.FailWorkflow(FAILURE))
    kinds = {type(event) for event in run.history}
    assert len(kinds) >= 15
    check_history(run.history)
