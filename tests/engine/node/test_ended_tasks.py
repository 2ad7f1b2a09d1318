"""Tasks in a backlog that nobody needs to begin any more: their rows go."""

from __future__ import annotations

import asyncio

import pytest

from perdure.engine.node.node import Node
from perdure.engine.storage.api import BacklogItem, QueueKey
from perdure.engine.storage.memory import MemoryStore
from perdure.limits import DEFAULT_RETENTION, SECOND
from perdure.model import tasks as t
from perdure.model.commands import CompleteWorkflow, RequestCancelActivity, ScheduleActivity
from perdure.model.requests import DescribeWorkflow, SignalWorkflow, TerminateWorkflow
from tests.engine.node.hands import NOTHING, Hand, chain, simulate, start

ELSEWHERE = QueueKey("default", "activity", "elsewhere", "a")


async def pass_time(seconds: float = 0.1) -> None:
    await asyncio.sleep(seconds)  # simulated time


def waiting(id: str, *, within: int = 0) -> ScheduleActivity:
    """An activity in a queue that nobody serves."""
    return ScheduleActivity(id, "a", "elsewhere", (), schedule_to_start_timeout=within)


async def rows(node: Node) -> list[BacklogItem]:
    """All rows of all backlogs."""
    queues = await node.store.backlogged_queues()
    return [item for queue in queues for item in await node.store.backlog(queue, None, 100)]


async def schedule(node: Node, *activities: ScheduleActivity) -> Hand:
    """A workflow that waits for activities."""
    hand = await Hand("hand").attach(node)
    await node.call(start("w"))
    hand.complete(hand.all(t.WorkflowTask)[-1], *activities)
    await pass_time()
    assert len(await rows(node)) == len(activities)
    return hand


@pytest.mark.parametrize("end", ["completed", "terminated"])
def test_the_tasks_of_a_run_go_with_its_end(end: str) -> None:
    async def body(node: Node) -> None:
        hand = await schedule(node, waiting("one"), waiting("two"))
        if end == "completed":
            await node.call(SignalWorkflow("default", "w", "", "enough", (), "r"))
            hand.complete(hand.all(t.WorkflowTask)[-1], CompleteWorkflow(NOTHING))
        else:
            await node.call(TerminateWorkflow("default", "w", "", "enough"))
        await pass_time()
        assert await rows(node) == []
        assert not node.dispatcher.backlogs

    simulate(body)


def test_a_workflow_that_nobody_began_leaves_no_task() -> None:
    async def body(node: Node) -> None:
        await node.call(start("w"))
        assert len(await rows(node)) == 1
        await node.call(TerminateWorkflow("default", "w", "", "enough"))
        assert await rows(node) == []
        await Hand("hand").attach(node)
        await pass_time()

    simulate(body)


@pytest.mark.parametrize("end", ["cancelled", "timed out"])
def test_the_task_of_an_activity_that_ends_before_it_began_goes(end: str) -> None:
    async def body(node: Node) -> None:
        first = waiting("one", within=SECOND if end == "timed out" else 0)
        hand = await schedule(node, first, waiting("two"))
        if end == "timed out":
            await pass_time(2)
        else:
            await node.call(SignalWorkflow("default", "w", "", "enough", (), "r"))
            hand.complete(hand.all(t.WorkflowTask)[-1], RequestCancelActivity("one"))
        await pass_time()
        described = await node.call(DescribeWorkflow("default", "w", ""))
        assert [activity.activity_id for activity in described.activities] == ["two"]
        assert len(await rows(node)) == 1
        other = await Hand("other", slots=2, queues=("elsewhere",)).attach(node)
        await pass_time()
        assert [task.activity_id for task in other.all(t.ActivityTask)] == ["two"]
        assert await rows(node) == []

    simulate(body)


def test_what_is_added_and_ended_in_one_commit_leaves_nothing() -> None:
    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], waiting("one"))
        await node.call(TerminateWorkflow("default", "w", "", "enough"))
        assert await rows(node) == []
        assert not node.dispatcher.backlogs

    simulate(body)


def test_tasks_of_runs_that_are_deleted_go_when_a_worker_comes_for_them() -> None:
    store = MemoryStore()
    later = 100 + 2 * DEFAULT_RETENTION / SECOND

    async def begin(node: Node) -> None:
        await schedule(node, *(waiting(f"{n}") for n in range(3)))

    async def end(node: Node) -> None:  # of the last life's tasks this one doesn't know the places
        await node.call(TerminateWorkflow("default", "w", "", "enough"))

    async def find(node: Node) -> None:
        await pass_time(2)
        assert await store.load([chain("w")]) == [None], "its retention is over"
        assert len(await rows(node)) == 3
        await Hand("other", slots=2, queues=("elsewhere",)).attach(node)
        await pass_time()
        assert await rows(node) == []
        assert not node.dispatcher.backlogs

    simulate(begin, store)
    simulate(end, store, seconds=100.0)
    simulate(find, store, seconds=later)
