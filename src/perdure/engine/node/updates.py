"""Updates for one certain run, which may have left them to the next one of its chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from perdure.engine.core.queries import FOLLOWED, update_outcome
from perdure.engine.node.live import Live, Work
from perdure.engine.node.waiting import far_enough
from perdure.engine.storage.api import ChainKey
from perdure.errors import NotRunning
from perdure.model.requests import GetResult, Outcome, UpdateOutcome, UpdateWorkflow

if TYPE_CHECKING:
    from perdure.engine.node.node import Node
    from perdure.engine.node.serving import Serving


class Follow(NamedTuple):
    """Wait for an update that another run was sent, if it was left to this one. The reply is None if it wasn't; or
    NotRunning where it is `repeated`: an earlier run has carried it out."""

    request: UpdateWorkflow
    repeated: bool = False


async def update(node: Node, request: UpdateWorkflow) -> UpdateOutcome:
    """Hand an update to a run, and wait for what becomes of it, there or in a later run that it was left to.

    Raises NotRunning where the run is closed and has left it to nobody: then it never had it.
    """
    chain = ChainKey(request.namespace, request.workflow_id)
    try:
        return cast(UpdateOutcome, await node.tell(chain, request.run_id, request))
    except NotRunning:
        run_id = request.run_id
        while run_id:
            ended = await node.tell(chain, run_id, GetResult(*chain, run_id, wait=False))
            assert isinstance(ended, Outcome)
            run_id = ended.new_run_id if ended.status in FOLLOWED else ""
            outcome = await node.tell(chain, run_id, Follow(request)) if run_id else None
            if isinstance(outcome, UpdateOutcome):
                return outcome
        raise


def follow(serving: Serving, live: Live, work: Work) -> None:
    """What has become of an update that another run was sent, as soon as it is what its caller wants to know."""
    assert isinstance(work.input, Follow)
    request, state = work.input.request, live.run.state
    outcome = update_outcome(state, request.update_id)
    if far_enough(outcome, request.wait_for):
        serving.reply(live, work, outcome)
    elif request.update_id in state.admitted or request.update_id in state.accepted:
        wait(serving, live, work, request)
    elif work.input.repeated:
        text = f"update {request.update_id!r} was given to an earlier run of {request.workflow_id!r}, which is closed"
        serving.reply(live, work, NotRunning(text))
    else:
        serving.reply(live, work, None)


def wait(serving: Serving, live: Live, work: Work, request: UpdateWorkflow) -> None:
    """The caller of an update hears of it when it has come as far as that wants to know."""
    assert work.answer is not None
    serving.waiting.for_update(live.run.ref.run_id, request.update_id, work.answer, request.wait_for)
    serving.depends(live, work)
    serving.peers.await_news(live)
