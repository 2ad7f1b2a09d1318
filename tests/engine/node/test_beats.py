"""How far an attempt came is on disk in time, also where it tells no more."""

from __future__ import annotations

import asyncio
from copy import deepcopy

import pytest

from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.limits import HEARTBEAT_JOURNAL_INTERVAL, SECOND
from perdure.model import tasks as t
from perdure.model.commands import ScheduleActivity
from perdure.model.payloads import Payload
from perdure.model.requests import DescribeWorkflow
from tests.engine.node.hands import Hand, simulate, start

CREATED = (Payload(b'"vpc-1"'),)
LATER = (Payload(b'"subnet-1"'),)


@pytest.mark.parametrize("told", [[CREATED], [LATER, CREATED]])
def test_what_was_told_once_is_known_after_a_kill(told: list[tuple[Payload, ...]]) -> None:
    store = MemoryStore()

    async def killed(node: Node) -> MemoryStore:
        hand = await Hand("first", slots=1).attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], ScheduleActivity("a", "a", "", ()))
        await asyncio.sleep(1)  # simulated time
        (task,) = hand.all(t.ActivityTask)
        for details in told:
            hand.link.send(t.ActivityHeartbeat(task.token, details))
            await asyncio.sleep(0.1)  # simulated time
        (shown,) = (await node.call(DescribeWorkflow("default", "w", ""))).activities
        assert shown.heartbeat_details == told[-1]
        await asyncio.sleep(HEARTBEAT_JOURNAL_INTERVAL / SECOND)  # simulated time
        return deepcopy(store)

    async def goes_on(node: Node) -> None:
        hand = await Hand("second", slots=1).attach(node)
        await asyncio.sleep(1)  # simulated time
        (task,) = hand.all(t.ActivityTask)
        assert (task.token.attempt, task.heartbeat_details) == (2, told[-1])

    simulate(goes_on, simulate(killed, store), seconds=100)
