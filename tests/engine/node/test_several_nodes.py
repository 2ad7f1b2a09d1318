"""Two nodes over one memory, in simulated time: what one of them has claimed, and then can't go on with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from msgspec.structs import replace

from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.node.cluster.members import Members, StoreClock
from perdure.engine.node.node import Node
from perdure.engine.storage.api import ChainKey, Membership, Notice, Question, RunKey, StoredRun, Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import StoreCorrupt, StoreError, Unavailable, WorkflowAlreadyStarted
from perdure.ids import SeededIds
from perdure.limits import CLAIM_LEASE, NODE_GRACE, QUERY_ELSEWHERE, SECOND, SHARDS, WATCH_INTERVAL
from perdure.model import tasks as t
from perdure.model.commands import AcceptUpdate, CompleteUpdate, ContinueAsNew, ScheduleActivity
from perdure.model.payloads import Payload
from perdure.model.requests import (
    DescribeWorkflow,
    GetResult,
    QueryResult,
    QueryWorkflow,
    UpdateOutcome,
    UpdateWorkflow,
)
from perdure.testing.simulation.loop import SimulatedClock, SimulatedLoop
from tests.engine.node.hands import EPOCH, Hand, start


class GatedStore(MemoryStore):
    """A store that can be made to wait before it reads or commits, and to be out of reach in part."""

    reads: asyncio.Event | None = None
    commits: asyncio.Event | None = None
    cut = False
    deaf = False  # notices to its node are lost
    loads = 0
    damage = False  # to what tells how far runs have come

    async def versions(self, runs: Sequence[RunKey]) -> Sequence[int]:
        if self.damage:
            raise self.damaged("a page")
        return await super().versions(runs)

    async def listen(self, node: int, heard: Callable[[Notice], None]) -> None:
        await super().listen(node, lambda notice: None if self.deaf else heard(notice))

    async def renew(self, node: int, workers: Sequence[str], grace: int) -> Membership:
        if self.cut:
            raise Unavailable("it is cut off")
        return await super().renew(node, workers, grace)

    async def ask(self, question: Question, lasts: int) -> None:
        if self.cut:
            raise Unavailable("it is cut off")
        await super().ask(question, lasts)

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        if self.reads is not None:
            await self.reads.wait()
        self.loads += 1
        return await super().load(chains)

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if self.commits is not None:
            await self.commits.wait()
        return await super().commit(group, now)


Member = tuple[Node, GatedStore]


def member(store: GatedStore, loop: SimulatedLoop, name: str, skew: int = 0) -> Node:
    clock, ids = StoreClock(SimulatedClock(loop, EPOCH, skew)), SeededIds(name)
    return Node(store, clock, ids, peers=lambda node: Cluster(store, clock, node, lambda: 0.5, NODE_GRACE))


def simulate(body: Callable[[Member, Member], Awaitable[None]], skew: int = 0) -> None:
    """The life of two nodes, each given with its store. skew: how far their clocks are ahead of the store's."""
    loop = SimulatedLoop(max_steps=1_000_000)
    memory = MemoryStore(SimulatedClock(loop, EPOCH))
    stores = [GatedStore() for _ in range(2)]
    for store in stores:
        store.__dict__.update(memory.another().__dict__)
    one, other = (member(store, loop, f"node {number}", skew) for number, store in enumerate(stores))

    async def life() -> None:
        for node in (one, other):
            await node.start()
            await node.serve()
        try:
            await body((one, stores[0]), (other, stores[1]))
        finally:
            for node in (one, other):
                await node.stop()

    try:
        loop.run_until_complete(life())
    finally:
        loop.close()


async def pass_time(seconds: float) -> None:
    await asyncio.sleep(seconds)  # simulated time


async def first_task(hand: Hand) -> t.WorkflowTask:
    """What a worker is given first."""
    async with asyncio.timeout(CLAIM_LEASE / SECOND / 2):
        while not hand.all(t.WorkflowTask):
            await pass_time(0.01)
    return hand.all(t.WorkflowTask)[0]


def test_what_a_node_has_no_worker_for_any_more_is_given_back() -> None:
    async def body(one: Member, other: Member) -> None:
        node, store = one
        await other[0].call(start("w"))  # into the backlog: nobody is there
        store.reads = asyncio.Event()
        hasty = await Hand("hasty").attach(node)
        await pass_time(1.5)  # it is claimed, and its run is being read
        await hasty.link.detach()
        store.reads.set()
        steady = await Hand("steady").attach(other[0])
        await first_task(steady)

    simulate(body)


def test_a_run_that_another_node_began_first_is_no_older_one() -> None:
    async def body(one: Member, other: Member) -> None:
        node, store = one
        hand = await Hand("hand").attach(node)
        store.commits = asyncio.Event()
        refused = asyncio.ensure_future(node.call(start("w")))
        mine = (await first_task(hand)).run
        taken = await other[0].call(replace(start("w"), request_id="another"))
        await pass_time(1.5)  # what the other has put into the backlog is claimed
        hand.given.clear()
        store.commits.set()
        with pytest.raises(WorkflowAlreadyStarted):
            await refused
        task = await first_task(hand)
        assert task.run.run_id == taken.run_id != mine.run_id
        hand.finish(task)
        ended = await other[0].call(GetResult("default", "w", ""))
        assert ended.status == "Completed"

    simulate(body)


def test_who_comes_after_the_store_was_away_takes_nobody_for_dead() -> None:
    """Nobody could say for the grace that it is alive. What they run isn't begun again."""
    loop = SimulatedLoop()
    clock = SimulatedClock(loop, EPOCH)
    memory = MemoryStore(clock)

    def members(worker: str) -> Members:
        return Members(memory.another(), StoreClock(clock), NODE_GRACE, lambda: [worker])

    async def life() -> None:
        old, new = members("old"), members("new")
        await old.join()
        begun = clock.now() + 1
        await pass_time(1.5 * NODE_GRACE / SECOND)
        await new.join()
        assert new.may_live("old", begun)
        for _ in range(3):
            await pass_time(NODE_GRACE / SECOND / 4)
            assert not await new.renew()
            assert new.may_live("old", begun)
        await pass_time(NODE_GRACE / SECOND / 4)
        assert await new.renew(), "now it is known"
        assert not new.may_live("old", begun)

    try:
        loop.run_until_complete(life())
    finally:
        loop.close()


async def first_attempt(hand: Hand) -> t.ActivityTask:
    """The first attempt that a worker is given."""
    async with asyncio.timeout(3 * NODE_GRACE / SECOND):
        while not hand.all(t.ActivityTask):
            await pass_time(0.01)
    return hand.all(t.ActivityTask)[0]


def test_a_node_whose_clock_is_ahead_was_not_silent_when_it_came() -> None:
    """It follows the store's clock from then on, so the time by its own is the future: all was begun before that."""

    async def body(one: Member, other: Member) -> None:
        node, _ = one
        hand = await Hand("hand", slots=1).attach(node)
        await node.call(start("w"))
        hand.complete(await first_task(hand), ScheduleActivity("1", "a", "", ()))
        assert (await first_attempt(hand)).token.attempt == 1

    simulate(body, skew=60 * SECOND)


def test_what_a_dead_node_began_is_found_although_memory_is_older() -> None:
    """The home of the run heard nothing of the attempt, and has the run in memory as it was before."""

    async def body(one: Member, other: Member) -> None:
        node, store = one
        code = await Hand("code").attach(node)
        await node.call(start("w"))
        code.complete(await first_task(code), ScheduleActivity("1", "a", "", ()))
        await pass_time(0.1)
        await store.listen(node.peers.node, lambda notice: None)
        dying = await Hand("dying", slots=1).attach(other[0])
        await first_attempt(dying)
        steady = await Hand("steady", slots=1).attach(node)
        assert not steady.all(t.ActivityTask)
        other[1].cut = True
        assert (await first_attempt(steady)).token.attempt == 2

    simulate(body)


def test_a_node_that_can_ask_nobody_does_not_say_that_nobody_answers() -> None:
    async def body(one: Member, other: Member) -> None:
        node, store = one
        hand = await Hand("hand").attach(other[0])
        await other[0].call(start("w"))
        hand.complete(await first_task(hand))
        await pass_time(0.1)
        store.cut = True
        asking = asyncio.ensure_future(node.call(QueryWorkflow("default", "w", "", "status", ())))
        await pass_time(2 * QUERY_ELSEWHERE / SECOND)
        assert not asking.done()
        store.cut = False
        await pass_time(2.5)
        (query,) = hand.all(t.QueryTask)
        hand.link.send(t.QueryAnswer(query.run, query.query_id, Payload(b"1")))
        assert await asking == QueryResult(Payload(b"1"), None)

    simulate(body)


def test_who_comes_takes_no_shards_from_others_before_it_takes_anybody_for_dead() -> None:
    """Else each that comes would put off for a grace what others were about to find."""
    loop = SimulatedLoop()
    clock = SimulatedClock(loop, EPOCH)
    memory = MemoryStore(clock)

    def members() -> Members:
        return Members(memory.another(), StoreClock(clock), NODE_GRACE, list)

    async def life() -> None:
        old, new = members(), members()
        await old.join()
        await new.join()
        for _ in range(4):
            await old.renew()
            assert len(old.scope().shards) == SHARDS
            assert len(new.scope().shards) < SHARDS
            await pass_time(NODE_GRACE / SECOND / 4)
            await new.renew()
        await old.renew()
        assert not old.scope().shards & new.scope().shards
        assert len(old.scope().shards | new.scope().shards) == SHARDS

    try:
        loop.run_until_complete(life())
    finally:
        loop.close()


def test_a_node_that_can_not_see_what_others_ask_goes_on_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(one: Member, other: Member) -> None:
        async def broken(*_: object) -> list[Question]:
            raise StoreError("the table is not as it should be")

        node, store = one
        monkeypatch.setattr(store, "asked", broken)
        hand = await Hand("hand").attach(node)
        await pass_time(3)
        await node.call(start("w"))
        hand.complete(await first_task(hand))

    simulate(body)


def test_who_waits_for_a_run_hears_of_it_though_others_wait_for_the_one_that_follows() -> None:
    """Also where the notice is lost: what each of them was told last is known by run."""

    async def body(one: Member, other: Member) -> None:
        hand = await Hand("hand").attach(one[0])
        await one[0].call(start("w"))
        hand.complete(await first_task(hand))
        await pass_time(0.1)
        update = UpdateWorkflow("default", "w", "", "u", "add", ())
        asking = asyncio.ensure_future(other[0].call(update))
        await pass_time(1.0)
        other[1].deaf = True
        answered = AcceptUpdate("u"), CompleteUpdate("u", Payload(b"1"))
        hand.complete(hand.all(t.WorkflowTask)[-1], *answered, ContinueAsNew("sample", "default", ()))
        await pass_time(0.1)
        waiting = asyncio.ensure_future(other[0].call(GetResult("default", "w", "")))
        await pass_time(3 * WATCH_INTERVAL / SECOND)
        assert asking.done()
        assert await asking == UpdateOutcome("u", "completed", Payload(b"1"))
        hand.finish(hand.all(t.WorkflowTask)[-1])
        assert (await waiting).status == "Completed"

    simulate(body)


def test_who_waits_hears_what_was_read_for_another_who_waits_for_the_same_run() -> None:
    """Also where the notice is lost: the later one is up to date, the earlier one was told of less."""

    async def body(one: Member, other: Member) -> None:
        hand = await Hand("hand").attach(one[0])
        await one[0].call(start("w"))
        hand.complete(await first_task(hand))
        await pass_time(0.1)
        asking = asyncio.ensure_future(other[0].call(UpdateWorkflow("default", "w", "", "u", "add", ())))
        await pass_time(1.0)
        other[1].deaf = True
        hand.complete(hand.all(t.WorkflowTask)[-1], AcceptUpdate("u"), CompleteUpdate("u", Payload(b"1")))
        await pass_time(0.1)
        await other[0].call(DescribeWorkflow("default", "w", ""))  # which reads it
        waiting = asyncio.ensure_future(other[0].call(GetResult("default", "w", "")))
        await pass_time(0.1)
        assert asking.done()
        assert await asking == UpdateOutcome("u", "completed", Payload(b"1"))
        waiting.cancel()

    simulate(body)


def test_who_asks_hears_that_it_can_not_be_told_whether_it_is_still_so() -> None:
    async def body(one: Member, other: Member) -> None:
        node, store = one
        hand = await Hand("hand", slots=1).attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], ScheduleActivity("1", "a", "", ()))
        await pass_time(0.5)
        (activity,) = hand.all(t.ActivityTask)
        store.damage = True
        with pytest.raises(StoreCorrupt):
            await node.call(DescribeWorkflow("default", "w", ""))
        loads = store.loads
        hand.link.send(t.ActivityCompletion(replace(activity.token, attempt=2), Payload(b"1")))
        await pass_time(0.5)
        assert store.loads == loads + 1, "what memory does not know of may be news: it is looked at again"
        store.damage = False
        hand.link.send(t.ActivityCompletion(activity.token, Payload(b"1")))
        await pass_time(0.5)
        hand.finish(hand.all(t.WorkflowTask)[-1])
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"

    simulate(body)
