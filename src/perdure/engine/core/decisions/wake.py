"""What happens because time has passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from perdure.engine.core.deadlines import (
    ACTIVITY,
    OUTBOX,
    RUN,
    SCHEDULE,
    TASK,
    TIMER,
    Key,
    activity_deadline,
    run_deadline,
)
from perdure.engine.core.decisions.activities import offer, timed_out
from perdure.engine.core.decisions.chains import end_or_retry
from perdure.engine.core.decisions.outbox import resend
from perdure.engine.core.decisions.postponing import give
from perdure.engine.core.decisions.schedules import due as schedule_due
from perdure.engine.core.decisions.workflow_tasks import due as task_due
from perdure.engine.core.effects import DeleteRun, EvictCopy
from perdure.engine.core.inputs import WakeUp
from perdure.engine.core.transition import Transition
from perdure.model import events as e
from perdure.model import records as r


def wake_up(tx: Transition, wake: WakeUp) -> None:
    """Act on every deadline that has passed; afterwards none has."""
    deadlines = tx.execution.deadlines
    deadlines.extend(wake.stalls)
    for key in deadlines.due(tx.now):
        KINDS[key[0]](tx, key)
        deadlines.watch(key)


def _run(tx: Transition, _: Key) -> None:
    if not tx.execution.open:
        tx.effects.append(DeleteRun())
    elif tx.now >= run_deadline(tx.state):
        tx.flush()
        give(tx, everything=True)
        end_or_retry(tx, e.WorkflowExecutionTimedOut(0, tx.now))
        tx.effects.append(EvictCopy())


def _task(tx: Transition, _: Key) -> None:
    if tx.state.task is None:
        tx.schedule_task()  # the first one, whose delay is over
    elif tx.state.task.next_attempt_at:
        task_due(tx)


def _activity(tx: Transition, key: Key) -> None:
    _, scheduled, _ = key
    activity = tx.state.activities.get(scheduled)
    if activity is None:
        return
    beat, stalls = tx.execution.beats.get(scheduled), tx.execution.deadlines.stalls
    paused = tx.state.paused is not None
    at, reason = activity_deadline(activity, beat, stalls, paused=paused)
    if not at or at > tx.now:
        return
    if reason == "retry":
        tx.note(r.ActivityAttemptDue(scheduled, tx.now))
        at, reason = activity_deadline(activity, beat, stalls, paused=paused)
        if not at or at > tx.now:
            offer(tx, activity)
            return
    timed_out(tx, activity, reason)


def _timer(tx: Transition, key: Key) -> None:
    _, id, name = key
    if name in tx.state.timers:
        tx.arrive(e.TimerFired(0, tx.now, name, id))
        tx.schedule_task()


def _outbox(tx: Transition, key: Key) -> None:
    entry = tx.state.outbox.get(key[1])
    if entry is not None:
        resend(tx, entry)


KINDS: Final[dict[int, Callable[[Transition, Key], None]]] = {
    RUN: _run,
    TASK: _task,
    ACTIVITY: _activity,
    TIMER: _timer,
    OUTBOX: _outbox,
    SCHEDULE: schedule_due,
}
"""What is done about each kind of deadline."""
