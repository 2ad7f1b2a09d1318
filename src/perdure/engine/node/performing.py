"""What leaves the engine, once the row that it hangs on is on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.queries import outcome
from perdure.engine.node.delivery import deliver
from perdure.engine.node.live import Answer, Live, Work, settle
from perdure.errors import PerdureError, WorkflowAlreadyStarted
from perdure.model.requests import Done, QueryResult, StartWorkflow, UpdateWorkflow
from perdure.model.tasks import CancelActivity, QueryAnswer, WorkflowTaskAcknowledged

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


class Performing:
    """Carries out effects."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._offers = node.serving.offers

    def perform(self, live: Live, effects: list[fx.Effect]) -> None:
        """Carry out the effects of a row that is on disk, in order."""
        for effect in effects:
            EFFECTS[type(effect)](self, live, effect)

    def hand_over(self, live: Live, effect: fx.HandOver) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(effect.task)
        else:
            alive = frozenset(self._node.dispatcher.workers)
            self._node.serving.submit(live.chain, Work(i.WorkersLost(alive), None, live.run.ref.run_id))

    def cancel_attempt(self, live: Live, effect: fx.CancelAttempt) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(CancelActivity(effect.token, effect.reason))

    def update_progressed(self, live: Live, effect: fx.UpdateProgressed) -> None:
        key = live.run.ref.run_id, effect.outcome.update_id
        waiting = self._offers.updates.pop(key, [])
        still: list[tuple[Answer, UpdateWorkflow]] = []
        for answer, request in waiting:
            if effect.outcome.stage == "accepted" and request.wait_for == "completed":
                still.append((answer, request))
            else:
                settle(answer, effect.outcome)
        if still:
            self._offers.updates[key] = still

    def run_closed(self, live: Live, effect: fx.RunClosed) -> None:
        ended = outcome(live.run.state)
        for answer in self._node.serving.results.pop(ended.run_id, ()):
            settle(answer, ended)

    def send(self, live: Live, effect: fx.Send) -> None:
        self._node.spawn(self._send(live, effect))

    async def _send(self, live: Live, effect: fx.Send) -> None:
        answer = await deliver(live.run, effect.entry_id, effect.message, self._node.call, self._node.tell)
        self._node.serving.submit(live.chain, Work(answer, None, live.run.ref.run_id))

    def send_history(self, live: Live, effect: fx.SendHistory) -> None:
        self._node.reading.task_history(live)

    def wake_served(self, live: Live, effect: fx.WakeServed) -> None:
        self._node.wakeups.done(effect.key)

    def acknowledge(self, live: Live, effect: fx.Acknowledge) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(WorkflowTaskAcknowledged(live.run.ref, effect.position))

    def offer_workflow_task(self, live: Live, effect: fx.OfferWorkflowTask) -> None:
        self._offers.workflow_task(live)

    # --- Answers ----------------------------------------------------------------------------------------
    def query_answered(self, message: QueryAnswer) -> None:
        """A worker has answered a query."""
        asked = self._offers.queries.pop(message.query_id, None)
        if asked is not None:
            live, work = asked
            if live.gone:  # the answer saw what was discarded
                self._node.serving.submit(live.chain, work)
                return
            self._node.serving.reply(live, work, QueryResult(message.result, message.failure))

    def answer_repeat(self, work: Work) -> None:
        """A request was carried out before, by a run that may have ended since."""
        if isinstance(work.input, StartWorkflow):
            text = f"this start of {work.input.workflow_id!r} was carried out before, and another run followed it"
            settle(work.answer, WorkflowAlreadyStarted(text))
        else:
            settle(work.answer, Done())

    def abandon(self, error: PerdureError) -> None:
        """The node stops: whoever still waits hears of it."""
        serving = self._node.serving
        waiting = [answer for answers in serving.results.values() for answer in answers]
        waiting += [answer for answers in self._offers.updates.values() for answer, _ in answers]
        waiting += [work.answer for _, work in self._offers.queries.values() if work.answer is not None]
        for live in (*serving.lives.values(), *serving.older.values()):
            works = (*live.inbox, *live.parked, *live.queries)
            waiting += [work.answer for work in works if work.answer is not None]
        for answer in waiting:
            settle(answer, error)


EFFECTS: Final[dict[type[Any], Callable[[Performing, Live, Any], None]]] = {
    fx.HandOver: Performing.hand_over,
    fx.CancelAttempt: Performing.cancel_attempt,
    fx.UpdateProgressed: Performing.update_progressed,
    fx.RunClosed: Performing.run_closed,
    fx.Send: Performing.send,
    fx.SendHistory: Performing.send_history,
    fx.WakeServed: Performing.wake_served,
    fx.Acknowledge: Performing.acknowledge,
    fx.OfferWorkflowTask: Performing.offer_workflow_task,
}
"""What carries out each effect that waits for the disk."""
