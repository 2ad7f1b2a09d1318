"""What a person does about a run: stop it for a while, let it go on, or let it go beyond a hard limit.

While a run is paused, its code is given nothing and no attempt of an activity is started. What arrives is taken, what
runs goes on, timers fire, and timeouts count, but for the time that activities wait for a worker.
"""

from __future__ import annotations

from perdure.engine.core.deadlines import ACTIVITY
from perdure.engine.core.decisions.activities import offer
from perdure.engine.core.decisions.messages import DONE, require_open
from perdure.engine.core.effects import OfferWorkflowTask
from perdure.engine.core.transition import Transition
from perdure.limits import MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS, RELEASED_BYTES, RELEASED_EVENTS
from perdure.model import records as r
from perdure.model.requests import PauseWorkflow, ResumeWorkflow


def pause(tx: Transition, request: PauseWorkflow) -> None:
    """Stop the run. What a worker does with a workflow task at this moment is taken still."""
    require_open(tx.execution)
    if tx.state.paused is None:
        tx.note(r.RunPaused(request.reason, request.identity, tx.now))
        tx.remember(request)
    tx.reply = DONE


def resume(tx: Transition, request: ResumeWorkflow) -> None:
    """The code hears of what has come meanwhile, and attempts that wait are started."""
    require_open(tx.execution)
    if tx.state.paused is not None:
        tx.note(r.RunResumed(request.note, request.identity, tx.now))
        tx.remember(request)
        for scheduled, activity in tx.state.activities.items():
            if activity.status == "scheduled":
                tx.execution.deadlines.watch((ACTIVITY, scheduled, ""))
                offer(tx, activity)
        offer_task(tx)
    tx.reply = DONE


def offer_task(tx: Transition) -> None:
    """The open workflow task may be given to a worker again."""
    task = tx.state.task
    if task is not None and not task.next_attempt_at and tx.execution.taken is None:
        tx.effects.append(OfferWorkflowTask())


def release_run(tx: Transition, note: str, identity: str) -> None:
    """A run that a hard limit holds goes on, with some more room: enough to end, or to continue as new.

    The room begins where the history is by now: what was under way when the run was held has been written, too.
    """
    state = tx.state
    events = max(state.released_events, state.last_event_id - MAX_HISTORY_EVENTS) + RELEASED_EVENTS
    size = max(state.released_bytes, state.history_bytes - MAX_HISTORY_BYTES) + RELEASED_BYTES
    tx.note(r.RunReleased(note, identity, tx.now, events, size))
    if state.task is None:
        tx.schedule_task()  # for what came while it was held
    else:
        offer_task(tx)
