"""The workflow task: giving news to the workflow's code, and taking what it asks for.

::

    (none) ──news──▶ scheduled ──take──▶ taken ──completion──▶ (none)
                        ▲                              │ failure
                        └──────── backing off ◀────────┘
"""

from __future__ import annotations

from perdure.clock import SECOND
from perdure.engine.core.decisions.activities import offer
from perdure.engine.core.decisions.checks import CLOSING, check
from perdure.engine.core.decisions.commands import COMMANDS
from perdure.engine.core.decisions.messages import history_full
from perdure.engine.core.decisions.postponing import give, updates_given
from perdure.engine.core.effects import EvictCopy, OfferWorkflowTask, Tell
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import RetryWorkflowTask, WorkflowTaskLost, WorkflowTaskUndecided
from perdure.engine.core.transition import Transition
from perdure.errors import NotFound
from perdure.limits import (
    CLOSE_REFUSALS,
    WORKFLOW_TASK_RETRY_INITIAL,
    WORKFLOW_TASK_RETRY_MAXIMUM,
)
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.commands import AcceptUpdate, ContinueAsNew, RejectUpdate
from perdure.model.failures import Failure
from perdure.model.state import OpenTask
from perdure.model.tasks import Position, WorkflowTaskCompletion, WorkflowTaskFailure

NOT_OPEN = "that workflow task is not open any more"


def take(execution: Execution, worker: str, now: int, build_id: str = "", given: int = 0) -> bool:
    """A worker, whose code has a build id, takes the open workflow task; False if there is none to take. `given` is
    another number each time.

    Only memory changes: if this process dies, the task is given out again.
    """
    state, task = execution.state, execution.state.task
    if task is None or execution.taken is not None or task.next_attempt_at or state.held or state.paused:
        return False
    execution.taken = Position(state.last_event_id, state.digest)
    execution.taken_at = max(state.last_time, now)
    execution.taken_by, execution.build_id, execution.given = worker, build_id, given
    execution.updates = updates_given(state) if state.admitted else ()
    return True


def lost(tx: Transition, lost: WorkflowTaskLost) -> None:
    """Give it out again. What arrived meanwhile enters the history, so that the next attempt sees it.

    Also meant for a run that was just read from the store: its worker was lost with the last process.
    """
    tx.execution.give_back()
    tx.flush()
    if tx.state.task is not None:  # also where something else has brought in the buffer before
        tx.effects.append(OfferWorkflowTask())


def taken_task(execution: Execution, answer: WorkflowTaskCompletion | WorkflowTaskFailure) -> OpenTask:
    """The task that a worker answers. Raises NotFound for any but the one that is out."""
    task = execution.state.task
    if task is None or execution.taken is None:
        raise NotFound(NOT_OPEN)
    if (execution.taken, execution.given, task.attempt) != (answer.position, answer.given, answer.attempt):
        raise NotFound(NOT_OPEN)
    return task


def complete(tx: Transition, message: WorkflowTaskCompletion) -> None:
    """The code waits again, or has ended: one event for each of its commands.

    Commands that can't be carried out fail the task; a close is refused while there are unseen messages.
    """
    execution, state = tx.execution, tx.state
    task = taken_task(execution, message)
    wrong = check(state, message.commands)
    if wrong is not None:
        task_failed(tx, task, wrong)
        return
    last = type(message.commands[-1]) if message.commands else None
    # What a run that goes on as another has not seen is carried over.
    if last in CLOSING and last is not ContinueAsNew and unseen(tx, message):
        refuse_close(tx, task)
        return
    started = start_event(tx, task)
    tx.add(
        e.WorkflowTaskCompleted(
            tx.next_id,
            tx.now,
            started - 1 if task.attempt > 1 else task.scheduled_event_id,
            started,
            execution.taken_by,
            execution.build_id,
            message.python,
            message.flags,
            message.exceptions,
        )
    )
    completed, before = state.last_event_id, len(tx.events)
    for command in message.commands:
        COMMANDS[type(command)](tx, command, completed)
    if state.status == "Running":
        offer_scheduled(tx, before)
        settle(tx)
        if message.more:
            tx.schedule_task()
    else:
        execution.give_back()


def offer_scheduled(tx: Transition, before: int) -> None:
    """Offer the activities that the code asked for, after so many events, and did not cancel in the same breath."""
    for event in tx.events[before:]:
        if type(event) is e.ActivityTaskScheduled:
            activity = tx.state.activities.get(event.id)
            if activity is not None:
                offer(tx, activity)


def settle(tx: Transition, *, everything: bool = False) -> None:
    """The task is over: what was buffered enters the history, and if there is news, the next one begins.

    everything: also what else was to be given later (see `postponing`).
    """
    tx.execution.give_back()
    arrived = tx.flush()
    if give(tx, everything=everything) or arrived or tx.state.admitted:
        tx.schedule_task()
    if history_full(tx.state):
        hold_run(tx)


def hold_run(tx: Transition) -> None:
    """The run has reached a hard limit: it waits for a person, and its code is given nothing more."""
    state = tx.state
    if not state.held:
        reason = (
            f"the history has {state.last_event_id} events and {state.history_bytes} bytes "
            "(limits.MAX_HISTORY_EVENTS, limits.MAX_HISTORY_BYTES)"
        )
        tx.note(r.RunHeld(reason, tx.now))


def start_event(tx: Transition, task: OpenTask) -> int:
    """Write the started event (and, for a later attempt, the scheduled one); its id."""
    execution = tx.execution
    if execution.taken_at > tx.now:  # the clock was set back since
        tx.now = execution.taken_at
    scheduled, size = task.scheduled_event_id, tx.state.history_bytes
    if task.attempt > 1:
        scheduled = tx.next_id
        queue = tx.state.started.task_queue
        tx.add(e.WorkflowTaskScheduled(scheduled, execution.taken_at, queue, task.attempt))
    tx.add(e.WorkflowTaskStarted(tx.next_id, execution.taken_at, scheduled, execution.taken_by, size))
    return tx.state.last_event_id


def unseen(tx: Transition, message: WorkflowTaskCompletion) -> bool:
    """Whether a message arrived that the code, which wants to close, hasn't seen."""
    answered = {command.update_id for command in message.commands if isinstance(command, AcceptUpdate | RejectUpdate)}
    return any(update_id not in answered for update_id in tx.state.admitted) or any(
        isinstance(event, e.WorkflowExecutionSignaled | e.WorkflowExecutionCancelRequested)
        for event in (*tx.state.buffered, *tx.state.postponed)
    )


def refuse_close(tx: Transition, task: OpenTask) -> None:
    """Nothing that was acknowledged may be lost: run the task again, with what it hasn't seen."""
    failure = Failure("the workflow wanted to close, but there are messages that it has not seen", kind="engine")
    if tx.state.close_refusals < CLOSE_REFUSALS:
        tx.note(r.CloseRefused())
    started = start_event(tx, task)
    scheduled = tx.state.task.scheduled_event_id if tx.state.task is not None else 0
    tx.add(e.WorkflowTaskFailed(tx.next_id, tx.now, scheduled, started, failure))
    tx.effects.append(EvictCopy())
    settle(tx, everything=True)
    tx.schedule_task()


def fail(tx: Transition, message: WorkflowTaskFailure) -> None:
    """The code has a bug, or does not fit its history."""
    task_failed(tx, taken_task(tx.execution, message), message.failure)


def undecided(tx: Transition, undecided: WorkflowTaskUndecided) -> None:
    """The engine can't decide on the answer: as if the code had failed, so that it is seen, and tried again later."""
    task = tx.state.task
    if task is not None and (tx.execution.taken is not None or take(tx.execution, undecided.worker, tx.now)):
        task_failed(tx, task, undecided.failure)


def task_failed(tx: Transition, task: OpenTask, failure: Failure) -> None:
    """A bug is not an outcome: the task is tried again. Only the first failure leaves events."""
    attempt = task.attempt
    if attempt == 1:
        started = start_event(tx, task)
        tx.add(e.WorkflowTaskFailed(tx.next_id, tx.now, task.scheduled_event_id, started, failure))
    news = failure.is_news(task.failure, attempt)
    delay = min(WORKFLOW_TASK_RETRY_INITIAL * 2 ** min(attempt - 1, 16), WORKFLOW_TASK_RETRY_MAXIMUM)
    tx.note(r.WorkflowTaskAttemptFailed(attempt, failure, tx.now + delay, tx.now))
    tx.execution.give_back()
    tx.flush()
    tx.effects.append(EvictCopy())
    if news:
        told = f"attempt {attempt} of its code ({tx.state.started.workflow_type})"
        tx.effects.append(Tell(told, failure, f"tried again in {delay // SECOND} s"))


def retry_now(tx: Transition, _: RetryWorkflowTask) -> None:
    """Don't wait for the backoff of a failing task."""
    task = tx.state.task
    if task is not None and task.next_attempt_at:
        due(tx)


def due(tx: Transition) -> None:
    """The backoff of a failing task is over."""
    tx.note(r.WorkflowTaskDue())
    tx.effects.append(OfferWorkflowTask())
