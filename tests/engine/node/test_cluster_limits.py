"""The bounds of `perdure.limits` that several nodes over one store keep: how often they speak and look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from perdure.engine.node.cluster.cluster import Cluster
from perdure.engine.storage.api import Membership
from perdure.ids import shard_of
from perdure.limits import ABANDONED, NODE_GRACE, OVERDUE, POLL_INTERVAL, RENEWALS_A_GRACE, SECOND
from perdure.model import tasks as t
from perdure.model.commands import StartTimer
from perdure.model.requests import QueryWorkflow
from tests.engine.node.hands import Hand, start
from tests.engine.node.test_several_nodes import Member, first_task, pass_time, simulate


def now() -> float:
    return asyncio.get_running_loop().time()


async def seconds_until_given(hand: Hand, kind: type[t.ToWorker]) -> float:
    """How long it takes until a worker is given something of a kind."""
    since = now()
    async with asyncio.timeout(60):
        while not hand.all(kind):
            await pass_time(0.001)
    return now() - since


def test_a_node_says_often_enough_that_it_is_alive() -> None:
    said: list[float] = []

    async def body(one: Member, other: Member) -> None:
        _, store = one
        renew = store.renew

        async def heard(node: int, workers: Sequence[str], grace: int) -> Membership:
            said.append(now())
            return await renew(node, workers, grace)

        store.renew = heard
        await pass_time(10 * NODE_GRACE / SECOND)

    simulate(body)
    longest = NODE_GRACE / SECOND / RENEWALS_A_GRACE
    pauses = [after - before for before, after in pairwise(said)]
    assert longest * 0.8 < max(pauses) <= longest
    assert len(said) <= 1.25 * 10 * RENEWALS_A_GRACE + 3, "and not more often than it must"


def test_what_no_notice_told_is_found_all_the_same() -> None:
    """By looking into the backlogs, and among the questions."""

    async def body(one: Member, other: Member) -> None:
        (node, store), (teller, _) = one, other
        hand = await Hand("hand").attach(node)
        await pass_time(2 * NODE_GRACE / SECOND)
        store.deaf = True
        waited: list[float] = []
        for number in range(7):
            await pass_time(0.3)
            hand.given.clear()
            await teller.call(start(f"w{number}"))
            waited.append(await seconds_until_given(hand, t.WorkflowTask))
            hand.complete(hand.all(t.WorkflowTask)[0])
        assert POLL_INTERVAL / SECOND / 2 < max(waited) <= POLL_INTERVAL / SECOND + 0.01
        waited.clear()
        for _ in range(7):
            await pass_time(0.3)
            hand.given.clear()
            asking = asyncio.ensure_future(teller.call(QueryWorkflow("default", "w1", "", "status", ())))
            waited.append(await seconds_until_given(hand, t.QueryTask))
            asking.cancel()
        assert POLL_INTERVAL / SECOND / 2 < max(waited) <= POLL_INTERVAL / SECOND + 0.01

    simulate(body)


@pytest.mark.parametrize("whose", ["own", "of the home"])
def test_what_its_home_does_not_do_in_time_another_node_does(whose: str) -> None:
    """Where the run is in the shards of the other node, sooner than where it is in those of its home."""

    async def body(one: Member, other: Member) -> None:
        (node, store), (helper, _) = one, other
        await pass_time(2 * NODE_GRACE / SECOND)
        assert isinstance(helper.peers, Cluster)
        own = helper.peers.members.scope().shards
        ids = (f"w{number}" for number in range(100))
        workflow_id = next(id for id in ids if (shard_of("default", id) in own) is (whose == "own"))
        code = await Hand("code").attach(node)
        await node.call(start(workflow_id))
        code.complete(await first_task(code), StartTimer("nap", 10 * SECOND))
        began = now()
        await pass_time(5)
        hand = await Hand("hand").attach(helper)
        store.commits = asyncio.Event()  # the home can't go on
        await seconds_until_given(hand, t.WorkflowTask)
        late = now() - began - 10
        limit = (OVERDUE if whose == "own" else ABANDONED) / SECOND
        assert limit - 0.01 <= late <= limit + POLL_INTERVAL / SECOND + 0.01
        store.commits.set()

    simulate(body)
