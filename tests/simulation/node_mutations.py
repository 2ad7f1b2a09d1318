"""What several nodes have in common, broken on purpose: each mutation must be caught by the simulator of fleets.

As in `mutations.py`, which breaks one node.
"""

from __future__ import annotations

from typing import Any

from perdure.engine.core import decide as decide_module
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import activities, workflow_tasks
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.engine.node import offers
from perdure.engine.node import serving as serving_module
from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import Members, StoreClock
from perdure.engine.node.cluster.questions import Questions
from perdure.engine.node.cluster.watching import Watching
from perdure.engine.node.committer import Committer
from perdure.engine.node.dispatch import AttachedWorker
from perdure.engine.node.live import Live, Work, settle
from perdure.engine.node.queries import Queries
from perdure.engine.node.serving import Serving
from perdure.engine.storage.memory_nodes import Nodes
from tests.simulation.mutations import (
    Mutation,
    Patch,
    accept_stale_tokens,
    ignore_refusal,
    nothing,
    take_unknown_for_committed,
    zero,
)


def reply_from_memory(patch: Patch) -> None:
    def answer(self: Cluster, live: Live, work: Work, value: object) -> None:
        settle(work.answer, value)

    patch.setattr(Cluster, "answer", answer)


def ignore_losses(patch: Patch) -> None:
    take = Members._take

    def deaf(self: Members, *seen: Any) -> bool:
        take(self, *seen)
        return False

    patch.setattr(Members, "_take", deaf)
    patch.setattr(Cluster, "_look_again_at", 1 << 62, raising=False)


def take_the_living_for_dead(patch: Patch) -> None:
    take = Members._take

    def hasty(self: Members, *seen: Any) -> bool:
        take(self, *seen)
        self.alive, self.workers, self._known_until = frozenset({self.node}), {}, 1 << 62
        return True

    patch.setattr(Members, "_take", hasty)


def leave_it_to_nobody(patch: Patch) -> None:
    patch.setattr(Committer, "_leave_to_home", nothing)


def keep_old_memory(patch: Patch) -> None:
    patch.setattr(Serving, "moved", nothing)


def have_every_type(patch: Patch) -> None:
    def has(self: AttachedWorker, key: object) -> bool:
        return True

    patch.setattr(AttachedWorker, "has", has)


def keep_claims_of_the_dead(patch: Patch) -> None:
    claim = Nodes.claim

    def lasting(self: Nodes, node: int, waiting: Any, limit: int, alive: frozenset[int], lease: int) -> Any:
        return claim(self, node, waiting, limit, frozenset(range(1_000)), 1 << 50)

    patch.setattr(Nodes, "claim", lasting)


def take_new_workers_for_lost(patch: Patch) -> None:
    def known(self: Members, worker: str, since: int) -> bool:
        return self.workers.get(worker, self.node) != self.node

    patch.setattr(Members, "may_live", known)


def draw_the_same_places(patch: Patch) -> None:
    patch.setattr(serving_module, "OPENINGS_TOLD_APART", 1)


def never_look(patch: Patch) -> None:
    async def check(self: Watching, chains: object) -> None:
        """Whatever is in memory is believed."""

    def to_be_told(self: Committer, live: object, row: object) -> tuple[()]:
        return ()

    patch.setattr(Watching, "compare", check)
    patch.setattr(Committer, "_to_be_told", to_be_told)


def keep_to_the_own_clock(patch: Patch) -> None:
    patch.setattr(StoreClock, "follow", nothing)


def repeat_what_is_under_way(patch: Patch) -> None:
    patch.setattr(Serving, "_under_way", zero)


def ask_before_the_others(patch: Patch) -> None:
    patch.setattr(Queries, "_has_news", zero)


def forget_attempts(patch: Patch) -> None:
    """What another node has begun, its worker's node may end as it likes."""
    patch.setattr(activities, "workers_lost", nothing)
    patch.setattr(Serving, "look_for_lost", nothing)


def tell_no_givings_apart(patch: Patch) -> None:
    def take(execution: Execution, worker: str, now: int, build_id: str, given: int) -> bool:
        return workflow_tasks.take(execution, worker, now, build_id)

    patch.setattr(offers, "take", take)


def work_before_saying_so(patch: Patch) -> None:
    patch.setattr(Members, "silent", False)
    patch.setattr(Cluster, "silences", 0)


def keep_what_there_is_no_slot_for(patch: Patch) -> None:
    patch.setattr(Cluster, "release", nothing)


def hand_no_query_on(patch: Patch) -> None:
    async def nobody(self: Questions, question: object) -> None:
        """Whoever has the code keeps silent."""

    patch.setattr(Questions, "_answer", nobody)


def offer_only_what_somebody_had(patch: Patch) -> None:
    lost = workflow_tasks.lost

    def lose(tx: Transition, message: i.WorkflowTaskLost) -> None:
        was_out = tx.execution.taken is not None or tx.state.buffered
        lost(tx, message)
        if not was_out:
            tx.effects.clear()

    patch.setitem(decide_module.DECISIONS, i.WorkflowTaskLost, lose)


NODE_MUTATIONS = [
    Mutation("reply from memory", "1: no reply is older than what was acknowledged", reply_from_memory),
    Mutation("ignore that nodes are lost", "5: a run goes on", ignore_losses),
    Mutation("take living nodes for dead", "2: an attempt runs once", take_the_living_for_dead),
    Mutation("leave a task to the home, and tell nobody", "5: a run goes on", leave_it_to_nobody),
    Mutation("keep what another node has made old", "6: every request is answered", keep_old_memory),
    Mutation("give tasks to workers without the code", "6: what can't be done waits", have_every_type),
    Mutation("keep the claims of the dead", "5: a run goes on", keep_claims_of_the_dead, 24),
    Mutation("offer again only what somebody had", "5: a run goes on", offer_only_what_somebody_had, 50_068),
    Mutation("take new workers for lost", "2: an attempt runs once", take_new_workers_for_lost, 129),
    Mutation("draw the same places in a backlog", "4: what waits is on disk", draw_the_same_places, 121),
    Mutation("tell nobody, and never look", "6: every request is answered", never_look),
    Mutation("keep to the own clock", "3: a backoff is kept", keep_to_the_own_clock, 27),
    Mutation("repeat a request that is under way", "2: a repeated request takes effect once", repeat_what_is_under_way),
    Mutation("ask the code before it has the news", "1: no reply is older than what was acknowledged",
             ask_before_the_others),
    Mutation("take an answer to a task that was given again", "1: no reply is older than what was acknowledged",
             tell_no_givings_apart, 48),
    Mutation("forget attempts of lost workers", "5: a run goes on", forget_attempts),
    Mutation("work before the others know that it lives", "2: an attempt runs once", work_before_saying_so),
    Mutation("keep tasks that there is no slot for", "5: a run goes on", keep_what_there_is_no_slot_for),
    Mutation("hand no query on", "6: every request is answered", hand_no_query_on),
    Mutation("accept the outcome of a lost worker", "2: an old token is refused", accept_stale_tokens),
    Mutation("take an unknown commit for committed", "1: acknowledged means on disk", take_unknown_for_committed),
    Mutation("ignore that another node was faster", "1: acknowledged means on disk", ignore_refusal),
]  # fmt: skip
