"""What leaves the engine, once the row that it hangs on is on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from perdure.engine.core import effects as fx
from perdure.engine.core.decisions.starts import may_have_joined
from perdure.engine.core.queries import outcome
from perdure.engine.node.chains import follow
from perdure.engine.node.delivery import deliver
from perdure.engine.node.live import Live, Work, settle
from perdure.engine.node.places import Locate, Location
from perdure.engine.node.resets import ResetRun
from perdure.engine.node.updates import Follow
from perdure.engine.storage.api import ChainKey
from perdure.errors import EngineStopped, PerdureError, WorkflowAlreadyStarted
from perdure.model.requests import Done, ResetWorkflow, Started, StartWorkflow, UpdateWorkflow
from perdure.model.tasks import ActivityEvicted, CancelActivity, InputStored, WorkflowTaskAcknowledged

logger = logging.getLogger("perdure.engine")

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
        peers, token = self._node.peers, effect.task.token
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is None:
            never = ActivityEvicted(token, effect.worker, begun=False)
            self._node.serving.submit(live.chain, Work(never, None, token.run.run_id))
        elif worker.leaving or peers.silent or worker.held.get(token, peers.silences) != peers.silences:
            # It would be let go, or another node may have begun it again, or be about to.
            self._node.received(worker, ActivityEvicted(token, begun=False))
        else:
            self._offers.later(worker, effect.task)

    def cancel_attempt(self, live: Live, effect: fx.CancelAttempt) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(CancelActivity(effect.token, effect.reason))

    def update_progressed(self, live: Live, effect: fx.UpdateProgressed) -> None:
        self._node.serving.waiting.progressed(live.run.ref.run_id, effect.outcome)

    def run_closed(self, live: Live, effect: fx.RunClosed) -> None:
        self._node.serving.waiting.ended(outcome(live.run.state))
        follow(self._node.serving, live)

    def send(self, live: Live, effect: fx.Send) -> None:
        self._node.spawn(self._send(live, effect))

    def tell(self, live: Live, effect: fx.Tell) -> None:
        level = logging.INFO if effect.usual else logging.WARNING
        logger.log(level, "%s: %s failed: %s; %s", live.chain, effect.what, effect.failure.located, effect.then)

    async def _send(self, live: Live, effect: fx.Send) -> None:
        try:
            answer = await deliver(live.run, effect.entry_id, effect.message, self._node.call, self._node.tell)
        except EngineStopped:
            return  # the entry is in the journal, and is sent by the next engine
        self._node.serving.submit(live.chain, Work(answer, None, live.run.ref.run_id))

    def send_history(self, live: Live, effect: fx.SendHistory) -> None:
        self._node.reading.task_history(live, effect.given)

    def wake_served(self, live: Live, effect: fx.WakeServed) -> None:
        self._node.wakeups.done(effect.key)

    def acknowledge(self, live: Live, effect: fx.Acknowledge) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(WorkflowTaskAcknowledged(live.run.ref, effect.position))

    def tell_stored(self, live: Live, effect: fx.TellStored) -> None:
        worker = self._node.dispatcher.workers.get(effect.worker)
        if worker is not None:
            worker.receive(InputStored(live.run.ref, effect.given))

    def offer_workflow_task(self, live: Live, effect: fx.OfferWorkflowTask) -> None:
        self._offers.workflow_task(live)

    def answer_repeat(self, work: Work) -> None:
        """A request was carried out before, by a run that may have ended since."""
        if isinstance(work.input, ResetRun):
            self._node.spawn(self._answer_with_latest(work, work.input.request))
        elif isinstance(work.input, StartWorkflow) and may_have_joined(work.input):
            self._node.spawn(self._answer_with_latest(work, work.input))
        elif isinstance(work.input, StartWorkflow):
            text = f"this start of {work.input.workflow_id!r} was carried out before, and another run followed it"
            settle(work.answer, WorkflowAlreadyStarted(text))
        elif isinstance(work.input, UpdateWorkflow):
            request = work.input
            chain = ChainKey(request.namespace, request.workflow_id)
            follow_it = Work(Follow(request, repeated=True), work.answer, work.run_id)
            self._node.serving.decide_again(chain, [follow_it])  # the caller may wait for it already
        else:
            settle(work.answer, Done())

    async def _answer_with_latest(self, work: Work, request: StartWorkflow | ResetWorkflow) -> None:
        """A start has joined a run before, or a reset began one: nearly always the latest one."""
        try:
            found = await self._node.tell(ChainKey(request.namespace, request.workflow_id), "", Locate())
        except PerdureError as error:
            settle(work.answer, error)
        else:
            assert isinstance(found, Location)
            settle(work.answer, Started(found.run_id, existing=True))


EFFECTS: Final[dict[type[Any], Callable[[Performing, Live, Any], None]]] = {
    fx.HandOver: Performing.hand_over,
    fx.CancelAttempt: Performing.cancel_attempt,
    fx.UpdateProgressed: Performing.update_progressed,
    fx.RunClosed: Performing.run_closed,
    fx.Send: Performing.send,
    fx.Tell: Performing.tell,
    fx.SendHistory: Performing.send_history,
    fx.WakeServed: Performing.wake_served,
    fx.Acknowledge: Performing.acknowledge,
    fx.TellStored: Performing.tell_stored,
    fx.OfferWorkflowTask: Performing.offer_workflow_task,
}
"""What carries out each effect that waits for the disk."""
