"""One node of several: the `Peers` that it has.

What it hears from them (`heard`) only says where to look; whatever is not heard is found by looking every second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from perdure.engine.node.cluster.members import Members, StoreClock
from perdure.engine.node.cluster.questions import Questions
from perdure.engine.node.cluster.validation import Validation
from perdure.engine.node.cluster.watching import Watching
from perdure.engine.node.dispatch import Backlog
from perdure.engine.node.live import Live, Work
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import (
    BacklogGrew,
    BacklogItem,
    ChainKey,
    Due,
    MembersChanged,
    Notice,
    QuestionsMoved,
    QueueKey,
    RunKey,
    RunMoved,
    Shared,
)
from perdure.errors import PerdureError
from perdure.limits import (
    ABANDONED,
    BACKLOG_PAGE,
    CLAIM_LEASE,
    OVERDUE,
    POLL_INTERVAL,
    RENEWALS_A_GRACE,
    SECOND,
    SLOW_COMMIT,
    STORE_RETRY_MAXIMUM,
)
from perdure.model.tasks import CancelActivity

if TYPE_CHECKING:
    from perdure.engine.node.node import Node

logger = logging.getLogger("perdure.engine")


class Cluster:
    """See `Peers`.

    Args:
        store: what the nodes share.
        clock: this node's, which follows the store's.
        node: the node whose peers these are.
        random: numbers from 0 to 1, which spread the nodes' looking over time.
        grace: microseconds after which a node that says nothing is given up.
    """

    shared = True

    def __init__(self, store: Shared, clock: StoreClock, node: Node, random: Callable[[], float], grace: int) -> None:
        self._store, self._node, self._random, self._grace = store, node, random, grace
        self.members = Members(store, clock, grace, lambda: node.dispatcher.workers)
        self._validation = Validation(store, node.spawn, self._stale)
        self._watching = Watching(store, node)
        self._questions = Questions(store, node)
        self._renewal = asyncio.Event()
        self._look_again_at = 0  # for workers of lost nodes; 0: not

    @property
    def node(self) -> int:
        return self.members.node

    @property
    def silent(self) -> bool:
        return self.members.silent

    @property
    def silences(self) -> int:
        return self.members.silences

    @property
    def rescan(self) -> int:
        return int(POLL_INTERVAL * (0.7 + 0.6 * self._random()))

    # --- Life -------------------------------------------------------------------------------------------
    async def join(self) -> None:
        await self.members.join()

    async def serve(self) -> None:
        await self._store.listen(self.node, self.heard)
        for part in (self._renew(), self._poll(), self._watching.run(), self._questions.run()):
            self._node.spawn(part, vital=True)

    async def _renew(self) -> None:
        """Stay alive, and go on with what the dead have left."""
        since = 0  # when this node said first that it is alive, and the store hasn't taken it yet
        usual = self._grace // RENEWALS_A_GRACE
        while True:
            spread = 0.8 + 0.2 * self._random()
            if since:
                await self._pause(min(usual, STORE_RETRY_MAXIMUM) * spread)
            elif not self.silent:  # it may have been suspended before it heard the answer
                await self._pause(min(usual * spread, self._until_more_is_known()))
            before, silent = self.members.alive, self.silent
            since = since or self._node.clock.now()
            try:
                lost = await self.members.renew()
            except PerdureError as error:
                logger.warning("can't tell the other nodes that this one is alive (%s); trying again", error)
                continue
            if (now := self._node.clock.now()) - since > SLOW_COMMIT:
                self._node.stalls.add(since, now)  # a node that has nothing to commit learns it only here
            since = 0
            if silent:
                logger.warning("node %d was not heard of for the grace; it begins to work again", self.node)
                self._node.serving.nudge()
            if lost:
                if gone := before - self.members.alive:
                    logger.info("node %d goes on with what nodes %s have left", self.node, sorted(gone))
                    self._look_again_at = self._node.clock.now() + self._grace
                await self._node.take_up()
            elif 0 < self._look_again_at <= self._node.clock.now():
                self._look_again_at = 0
                await self._node.take_up()  # what was on workers that could not be told from new ones

    def _until_more_is_known(self) -> int:
        """Microseconds until a renewal tells that somebody is lost of whom that can't be said so far."""
        waits = self._look_again_at - self._node.clock.now(), self.members.patience
        return min((wait for wait in waits if wait > 0), default=self._grace)

    async def _pause(self, longest: float) -> None:
        """Wait until it is time to say again that this node is alive."""
        try:
            async with asyncio.timeout(longest / SECOND):
                await self._renewal.wait()
        except TimeoutError:
            pass
        self._renewal.clear()

    async def _poll(self) -> None:
        """Look for what no notice told."""
        turns = 0
        while True:
            await asyncio.sleep(self.rescan / SECOND)
            for queue in await patiently("backlogs", self._store.backlogged_queues):
                self._more(queue)
            turns += 1
            if turns % 5 == 0:
                self._look_at_attempts()

    def _look_at_attempts(self) -> None:
        """Perhaps somebody else has ended what a worker of ours runs, and the notice was lost."""
        lives = self._node.serving.lives
        for worker in self._node.dispatcher.workers.values():
            for run in dict.fromkeys(token.run for token in worker.held):
                chain = ChainKey(run.namespace, run.workflow_id)
                if chain not in lives:
                    self._node.serving.submit(chain, Work(None))

    # --- What the others say ----------------------------------------------------------------------------
    def heard(self, notice: Notice) -> None:
        """Act on a notice."""
        match notice:
            case RunMoved(chain):
                self.moved(chain)
                self._watching.moved(chain)
            case BacklogGrew(queue):
                self._more(queue)
            case QuestionsMoved():
                self._questions.moved()
            case MembersChanged():
                self._renewal.set()
            case _:
                logger.warning("what other nodes said may have been missed; looking at everything in memory")
                self._watching.watch_again()
                for chain in list(self._node.serving.lives):
                    self.moved(chain)

    def moved(self, chain: ChainKey) -> None:
        """Another node has written to a workflow id."""
        self._node.serving.moved(chain)

    def _more(self, queue: QueueKey) -> None:
        if self._node.dispatcher.serves(queue):
            self._node.dispatcher.backlog(queue).grew()
            self._node.serving.nudge()

    # --- Who is there -----------------------------------------------------------------------------------
    def elsewhere(self, home: int) -> bool:
        return home != self.members.node and self.members.is_alive(home)

    def orphaned(self, home: int) -> bool:
        return home not in (0, self.members.node) and not self.members.is_alive(home)

    def is_alive(self, worker: str, since: int) -> bool:
        return worker in self._node.dispatcher.workers or self.members.may_live(worker, since)

    def node_of(self, worker: str) -> int:
        node = self.members.workers.get(worker, 0)
        return 0 if node == self.members.node else node

    # --- Reading ----------------------------------------------------------------------------------------
    def answer(self, live: Live, work: Work, value: object) -> None:
        self._validation.check(live, work, value)

    def _stale(self, live: Live, work: Work) -> None:
        self.moved(live.chain)
        self._node.serving.submit(live.chain, work)

    def ask(self, live: Live, work: Work, queue: QueueKey) -> None:
        self._questions.ask(work, queue)

    def await_news(self, live: Live) -> None:
        self._watching.watch(live, elsewhere=live.home != self.node)

    def told(self, live: Live) -> None:
        self._watching.told(live)

    def served(self, live: Live) -> None:
        """What its activities are on disk is what they are; attempts that our workers run for nothing are stopped."""
        execution = live.run
        activities = execution.state.activities
        for worker in self._node.dispatcher.workers.values():
            for token in [token for token in worker.held if token.run == execution.ref]:
                activity = activities.get(token.scheduled_event_id)
                if activity is None or activity.attempt != token.attempt or activity.status != "started":
                    worker.receive(CancelActivity(token, "settled" if execution.open else "closed"))
                elif activity.cancel_requested:
                    worker.receive(CancelActivity(token, "cancel_requested"))

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        seen = min(now, self._node.clock.now())
        scope = self.members.scope(overdue=seen - OVERDUE, abandoned=seen - ABANDONED)
        return await self._store.due_in(scope, now, limit)

    async def running(self, after: RunKey | None, limit: int) -> Sequence[RunKey]:
        runs = await self._store.running_in(self.members.scope(), after, limit)
        # Those that are in memory may have gone on elsewhere, and who did it may have died before it told this node.
        lives = self._node.serving.lives
        if known := [run.chain for run in runs if run.chain in lives]:
            await self._watching.compare(known)
        return runs

    # --- Backlogs ---------------------------------------------------------------------------------------
    async def fetch(self, backlogs: Mapping[QueueKey, Backlog], room: int) -> None:
        queues, limit, alive = list(backlogs), min(room, BACKLOG_PAGE), self.members.alive
        claimed: dict[QueueKey, list[BacklogItem]] = {queue: [] for queue in queues}
        try:
            items = await self._store.claim(self.node, queues, limit, alive, CLAIM_LEASE)
        except PerdureError:
            # It may have been carried out; so this node asks also for what it has, which `fill` tells apart; and for so
            # much that nothing hides behind what has come to the front meanwhile. What there is no slot for goes back.
            limit = BACKLOG_PAGE + sum(len(backlog.claimed) for backlog in backlogs.values())
            claim = partial(self._store.claim, self.node, queues, limit, alive - {self.node}, CLAIM_LEASE)
            items = await patiently("a backlog", claim)
        for item in items:
            claimed[item.queue].append(item)
        for queue, backlog in backlogs.items():
            backlog.fill(claimed[queue], more=len(items) >= limit)
        self._node.serving.nudge()

    def release(self, items: Iterable[BacklogItem]) -> None:
        items = tuple(items)
        if items:
            self._node.spawn(self._unclaim(items))

    async def _unclaim(self, items: Sequence[BacklogItem]) -> None:
        await patiently("claims", partial(self._store.unclaim, self.node, items))
