"""Timers: fired, cancelled, and both at once."""

from __future__ import annotations

import pytest

from perdure.clock import DAY, HOUR, SECOND
from perdure.engine.core import effects as fx
from perdure.model import commands as c
from perdure.model import events as e
from tests.engine.core.harness import NOW, Run, effects


def test_a_timer_fires_at_its_time_and_not_before() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", 7 * DAY))
    started = run.last
    assert run.execution.wake_at() == NOW + 7 * DAY
    assert not run.wake(NOW + 7 * DAY - 1).changed
    tx = run.wake(NOW + 7 * DAY)
    fired = run.history[-2]
    assert fired == e.TimerFired(started.id + 1, NOW + 7 * DAY, "t", started.id)
    assert effects(tx, fx.OfferWorkflowTask) and run.execution.wake_at() == 0


def test_a_timer_fires_late_after_a_downtime() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", HOUR))
    run.crash()
    run.wake(NOW + DAY)
    assert run.history[-2].time == NOW + DAY


def test_a_timer_fires_once_however_often_it_is_looked_at() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", SECOND))
    run.wake()
    assert not run.wake(run.now).changed
    assert run.names().count("TimerFired") == 1


def test_timers_that_are_due_together_fire_in_the_order_of_their_times() -> None:
    run = Run.begin()
    run.complete(*(c.StartTimer(str(n), (10 - n) * SECOND) for n in range(10)))
    tx = run.wake(NOW + DAY)
    fired = [event.timer_id for event in run.history if isinstance(event, e.TimerFired)]
    assert fired == [str(n) for n in reversed(range(10))]
    assert len(effects(tx, fx.OfferWorkflowTask)) == 1


@pytest.mark.parametrize("crash", [False, True])
def test_timers_of_one_time_fire_in_the_order_in_which_they_were_started(crash: bool) -> None:
    run = Run.begin()
    run.complete(*(c.StartTimer(str(n), SECOND) for n in range(1, 13)))
    if crash:
        run.crash()
    run.wake()
    fired = [event.timer_id for event in run.history if isinstance(event, e.TimerFired)]
    assert fired == [str(n) for n in range(1, 13)]


def test_a_timer_of_no_duration_is_due_at_once() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", 0), c.StartTimer("past", -SECOND))
    assert run.execution.wake_at() == NOW
    run.wake()
    assert run.names().count("TimerFired") == 2


def test_a_cancelled_timer_never_fires() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", HOUR))
    started = run.last
    run.signal()
    run.complete(c.CancelTimer("t"))
    cancelled = run.last
    assert isinstance(cancelled, e.TimerCanceled)
    assert (cancelled.timer_id, cancelled.started_event_id) == ("t", started.id)
    assert run.execution.wake_at() == 0


def test_a_timer_that_fires_during_a_task_is_heard_of_in_the_next() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", SECOND))
    run.signal()
    run.take()
    run.wake()
    assert run.execution.wake_at() == 0
    length = len(run.history)
    run.complete()
    assert run.names(length) == ["WorkflowTaskStarted", "WorkflowTaskCompleted", "TimerFired", "WorkflowTaskScheduled"]


def test_a_timer_that_fired_while_the_code_cancelled_it_was_cancelled() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", SECOND), c.StartTimer("u", SECOND))
    started = run.history[-2]
    run.signal()
    run.take()
    run.wake()
    length = len(run.history)
    run.complete(c.CancelTimer("t"))
    assert run.names(length + 2) == ["TimerCanceled", "TimerFired", "WorkflowTaskScheduled"]
    cancelled, fired = run.history[length + 2 : length + 4]
    assert isinstance(cancelled, e.TimerCanceled) and cancelled.started_event_id == started.id
    assert isinstance(fired, e.TimerFired) and fired.timer_id == "u"


def test_nothing_is_left_to_say_when_all_that_was_buffered_is_cancelled() -> None:
    run = Run.begin()
    run.complete(c.StartTimer("t", SECOND))
    run.signal()
    run.take()
    run.wake()
    tx = run.complete(c.CancelTimer("t"))
    assert isinstance(run.last, e.TimerCanceled)
    assert run.state.task is None and not effects(tx, fx.OfferWorkflowTask)


def test_of_many_timers_those_fire_whose_time_has_come() -> None:
    run = Run.begin()
    run.complete(*(c.StartTimer(str(n), SECOND + n) for n in range(2_000)))
    run.wake(NOW + SECOND + 999)
    assert len(run.state.timers) == 1_000
    assert run.execution.wake_at() == NOW + SECOND + 1_000
