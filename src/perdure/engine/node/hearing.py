"""What a worker says, and what comes of it: a table from the message's type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from perdure.engine.node.dispatch import AttachedWorker
from perdure.engine.node.live import Work
from perdure.engine.storage.api import ChainKey
from perdure.model import tasks as t

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


def task_answered(node: Node, _: AttachedWorker, message: t.WorkflowTaskCompletion | t.WorkflowTaskFailure) -> None:
    """A workflow task is over. If that can't be kept, the task is given out again, so this is not decided again."""
    run = message.run
    node.serving.submit(ChainKey(run.namespace, run.workflow_id), Work(message, None, run.run_id, False))


def heartbeat(node: Node, _: AttachedWorker, message: t.AboutAttempt) -> None:
    """An attempt is alive."""
    run = message.token.run
    node.serving.submit(ChainKey(run.namespace, run.workflow_id), Work(message, None, run.run_id))


def attempt_ended(node: Node, worker: AttachedWorker, message: t.AboutAttempt) -> None:
    """An attempt is over: its slot is free."""
    worker.held.pop(message.token, None)
    node.serving.nudge()
    heartbeat(node, worker, message)


def history_wanted(node: Node, worker: AttachedWorker, message: t.HistoryWanted) -> None:
    """The worker does not hold the run, or not at that position."""
    if message.query_id:
        node.serving.queries.ask_again(message.query_id)
    else:
        node.reading.history_wanted(worker, message)


def query_answered(node: Node, _: AttachedWorker, message: t.QueryAnswer) -> None:
    """The code has answered a question."""
    node.serving.queries.answered(message)


def input_wanted(node: Node, _: AttachedWorker, message: t.InputWanted) -> None:
    """Local activities wait for what their workflow task told to be on disk."""
    run = message.run
    node.serving.submit(ChainKey(run.namespace, run.workflow_id), Work(message, None, run.run_id, False))


def leaving(_: Node, worker: AttachedWorker, __: t.WorkerLeaving) -> None:
    """It takes no more attempts."""
    worker.leaving = True


def serves(node: Node, worker: AttachedWorker, message: t.WorkerServes) -> None:
    """It has more types than before."""
    worker.workflows.update(message.workflows)
    worker.activities.update(message.activities)
    node.serving.nudge()


HEARD: Final[dict[type[t.FromWorker], Callable[[Node, AttachedWorker, Any], None]]] = {
    t.WorkflowTaskCompletion: task_answered,
    t.WorkflowTaskFailure: task_answered,
    t.HistoryWanted: history_wanted,
    t.QueryAnswer: query_answered,
    t.ActivityCompletion: attempt_ended,
    t.ActivityFailure: attempt_ended,
    t.ActivityCancellation: attempt_ended,
    t.ActivityEvicted: attempt_ended,
    t.ActivityDetached: attempt_ended,
    t.ActivityHeartbeat: heartbeat,
    t.InputWanted: input_wanted,
    t.WorkerServes: serves,
    t.WorkerLeaving: leaving,
}
