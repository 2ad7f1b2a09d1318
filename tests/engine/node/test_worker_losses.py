"""Workers that go, fall silent, or are not there yet: what they had is given to others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from perdure.engine.node import dispatch, node
from perdure.engine.node.node import Node
from perdure.engine.storage.api import QueueKey
from perdure.engine.storage.memory import MemoryStore
from perdure.limits import SECOND, WORKFLOW_TASK_TIMEOUT
from perdure.model import tasks as t
from perdure.model.commands import ScheduleActivity
from perdure.model.events import (
    ActivityTaskCompleted,
    ActivityTaskFailed,
    HistoryEvent,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowTaskCompleted,
)
from perdure.model.payloads import Payload
from perdure.model.requests import (
    CancelWorkflowRequest,
    DescribeWorkflow,
    GetHistory,
    GetResult,
    QueryWorkflow,
    SignalWorkflow,
    UpdateWorkflow,
)
from perdure.model.retry import RetryPolicy
from tests.engine.node.hands import Hand, simulate, start

WORKFLOWS = QueueKey("default", "workflow", "default", "sample")


async def pass_time(seconds: float = 0.1) -> None:
    await asyncio.sleep(seconds)  # simulated time


async def events(node: Node) -> Sequence[HistoryEvent]:
    """The history of workflow "w"."""
    return (await node.call(GetHistory("default", "w", ""))).events


def test_a_task_whose_history_is_being_read_is_not_lost_with_its_worker() -> None:
    async def body(node: Node) -> None:
        first = await Hand("first").attach(node)
        await node.call(start("w"))
        first.complete(first.all(t.WorkflowTask)[-1])
        await node.call(SignalWorkflow("default", "w", "", "hello", (), "r"))
        task = first.all(t.WorkflowTask)[-1]
        first.link.send(t.HistoryWanted(task.run, given=task.given))  # it has dropped its copy
        await first.link.detach()
        second = await Hand("second").attach(node)
        await pass_time()
        second.finish(second.all(t.WorkflowTask)[-1])
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"

    simulate(body)


def test_a_query_at_a_worker_that_goes_is_answered_by_another() -> None:
    async def body(node: Node) -> None:
        first = await Hand("first").attach(node)
        await node.call(start("w"))
        first.complete(first.all(t.WorkflowTask)[-1])
        await pass_time()
        asking = asyncio.ensure_future(node.call(QueryWorkflow("default", "w", "", "status", ())))
        await pass_time()
        assert len(first.all(t.QueryTask)) == 1
        second = await Hand("second").attach(node)
        await first.link.detach()
        await pass_time()
        (query,) = second.all(t.QueryTask)
        assert query.events, "the second does not hold the workflow"
        second.link.send(t.QueryAnswer(query.run, query.query_id, Payload(b"1")))
        assert (await asking).result == Payload(b"1")

    simulate(body)


def test_a_query_that_needs_the_history_gets_it() -> None:
    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1])
        asking = asyncio.ensure_future(node.call(QueryWorkflow("default", "w", "", "status", ())))
        await pass_time()
        (query,) = hand.all(t.QueryTask)
        assert not query.events
        hand.link.send(t.HistoryWanted(query.run, query.query_id))
        await pass_time()
        query = hand.all(t.QueryTask)[-1]
        assert [event.id for event in query.events] == [1, 2, 3, 4]
        hand.link.send(t.QueryAnswer(query.run, query.query_id, Payload(b"1")))
        await asking

    simulate(body)


def test_a_task_that_is_not_answered_goes_to_another_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def body(node: Node) -> None:
        silent = await Hand("silent").attach(node)
        await node.call(start("w"))
        await pass_time(3 * WORKFLOW_TASK_TIMEOUT / SECOND)
        assert len(silent.all(t.WorkflowTask)) == 1, "to the same one it would only be one more thing to do"
        other = await Hand("other").attach(node)
        await pass_time(WORKFLOW_TASK_TIMEOUT / SECOND + 1)
        other.finish(other.all(t.WorkflowTask)[-1])
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"
        assert silent.all(t.EvictWorkflow)
        silent.finish(silent.all(t.WorkflowTask)[0])  # too late, and harmless

    simulate(body)
    assert "silent did not answer a workflow task" in caplog.text


def test_a_start_may_say_how_long_a_task_may_take() -> None:
    async def body(node: Node) -> None:
        await Hand("silent").attach(node)
        other = await Hand("other").attach(node)
        await node.call(start("slow"))
        await node.call(replace(start("quick"), task_timeout=2 * SECOND))
        await pass_time(3)
        assert [task.run.workflow_id for task in other.all(t.WorkflowTask)] == ["quick"]
        await pass_time(WORKFLOW_TASK_TIMEOUT / SECOND)
        assert "slow" in [task.run.workflow_id for task in other.all(t.WorkflowTask)]

    simulate(body)


def test_what_another_worker_has_now_is_not_answered_by_the_first() -> None:
    """It may have been told less, such as of fewer updates; then the other's copy is not what is recorded."""

    async def body(node: Node) -> None:
        silent = await Hand("silent").attach(node)
        await node.call(start("w"))
        other = await Hand("other").attach(node)
        await pass_time(WORKFLOW_TASK_TIMEOUT / SECOND + 1)
        first, second = silent.all(t.WorkflowTask)[0], other.all(t.WorkflowTask)[0]
        assert (first.position, first.attempt) == (second.position, second.attempt)
        silent.complete(first)
        silent.link.send(t.HistoryWanted(first.run, given=first.given))
        await pass_time()
        assert len(silent.all(t.WorkflowTask)) == 1
        other.complete(second)
        await pass_time()
        events = (await node.call(GetHistory("default", "w", ""))).events
        assert [event.identity for event in events if isinstance(event, WorkflowTaskCompleted)] == ["other"]

    simulate(body)


def test_a_task_that_is_answered_in_time_is_given_once() -> None:
    async def body(node: Node) -> None:
        hands = [await Hand(name).attach(node) for name in ("one", "other")]
        await node.call(start("w"))
        (task,) = [task for hand in hands for task in hand.all(t.WorkflowTask)]
        await pass_time(WORKFLOW_TASK_TIMEOUT / SECOND - 1)
        next(hand for hand in hands if hand.given).complete(task)
        await pass_time(3 * WORKFLOW_TASK_TIMEOUT / SECOND)
        assert sum(len(hand.all(t.WorkflowTask)) for hand in hands) == 1

    simulate(body)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BACKLOG_PAGE", 5)
    monkeypatch.setattr(node, "BACKLOG_PAGE", 5)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("restarted", [False, True])
def test_workflows_that_wait_for_a_worker_all_begin(restarted: bool) -> None:
    store, ids = MemoryStore(), [f"w{n}" for n in range(37)]

    async def begin(node: Node) -> None:
        for workflow_id in ids:
            await node.call(start(workflow_id))
        if not restarted:
            await work(node)

    async def work(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await pass_time()
        assert [task.run.workflow_id for task in hand.all(t.WorkflowTask)] == ids

    simulate(begin, store)
    if restarted:
        simulate(work, store, seconds=100.0)


async def signal_while_the_task_is_out(node: Node) -> None:
    hand = await Hand("hand").attach(node)
    await node.call(start("w"))
    assert hand.all(t.WorkflowTask)
    await node.call(SignalWorkflow("default", "w", "", "hello", (), "r1"))


@pytest.mark.parametrize("first", ["signal", "cancel"])
def test_a_task_that_a_crash_has_left_is_given_out_again_whatever_comes_first(first: str) -> None:
    store = MemoryStore()

    async def after(node: Node) -> None:
        hand = await Hand("other").attach(node)
        if first == "signal":
            await node.call(SignalWorkflow("default", "w", "", "hello", (), "r2"))
        else:
            await node.call(CancelWorkflowRequest("default", "w", ""))
        await pass_time()
        (task,) = hand.all(t.WorkflowTask)
        news = WorkflowExecutionSignaled if first == "signal" else WorkflowExecutionCancelRequested
        assert [type(event) for event in task.events[-2:]] == [WorkflowExecutionSignaled, news]

    simulate(signal_while_the_task_is_out, store)
    simulate(after, store, seconds=100.0)


def test_an_update_after_a_crash_comes_behind_the_signals_from_before_it() -> None:
    store = MemoryStore()

    async def after(node: Node) -> None:
        asking = asyncio.ensure_future(node.call(UpdateWorkflow("default", "w", "", "u", "add", ())))
        await pass_time()
        hand = await Hand("other").attach(node)
        await pass_time()
        (task,) = hand.all(t.WorkflowTask)
        assert [type(event).__name__ for event in task.events][-1:] == ["WorkflowExecutionSignaled"]
        assert [update.update_id for update in task.updates] == ["u"]
        asking.cancel()

    simulate(signal_while_the_task_is_out, store)
    simulate(after, store, seconds=100.0)


def test_a_waiting_workflow_is_queued_once() -> None:
    store = MemoryStore()

    async def begin(node: Node) -> None:
        await node.call(start("w"))

    async def look(node: Node) -> None:
        await node.call(DescribeWorkflow("default", "w", ""))
        assert len(await store.backlog(WORKFLOWS, None, 10)) == 1

    simulate(begin, store)
    for life in range(1, 4):
        simulate(look, store, seconds=life * 10.0)
    assert not simulate(lambda node: store.running(None, 10), store, seconds=50.0), "it is found in the backlog"


def test_what_waits_is_kept_where_a_later_process_adds_to_it_by_the_same_time() -> None:
    store = MemoryStore()
    for workflow_id in "ab":
        simulate(lambda node, id=workflow_id: node.call(start(id)), store)  # type: ignore[misc]
    waiting = asyncio.run(store.backlog(WORKFLOWS, None, 10))
    assert sorted(item.run.workflow_id for item in waiting) == ["a", "b"]


@pytest.mark.parametrize("leaving", [False, True])
def test_what_a_worker_was_never_given_was_not_begun(leaving: bool) -> None:
    once = ScheduleActivity("a", "a", "", (), retry_policy=RetryPolicy(maximum_attempts=1))

    async def body(node: Node) -> None:
        first = await Hand("first", slots=1).attach(node)
        await node.call(start("w"))
        first.complete(first.all(t.WorkflowTask)[-1], once)
        await asyncio.sleep(0)
        assert node.dispatcher.workers["first"].held
        if leaving:
            first.link.send(t.WorkerLeaving())
        await first.link.detach()
        assert not first.all(t.ActivityTask), "its start is not on disk yet"
        second = await Hand("second", slots=1).attach(node)
        await pass_time()
        (task,) = second.all(t.ActivityTask)
        assert task.token.attempt == 2
        second.link.send(t.ActivityCompletion(task.token, Payload(b"1")))
        await pass_time()
        (activity,) = [e for e in (await events(node)) if isinstance(e, ActivityTaskCompleted)]
        assert activity.result == Payload(b"1")

    simulate(body)


@pytest.mark.parametrize("leaving", [False, True])
def test_what_a_worker_has_not_let_go_may_have_had_its_effect(leaving: bool) -> None:
    """Even one that leaves: what it said of that may have been lost on the way."""
    once = ScheduleActivity("a", "a", "", (), retry_policy=RetryPolicy(maximum_attempts=1))

    async def body(node: Node) -> None:
        hand = await Hand("hand", slots=1).attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], once)
        await pass_time()
        assert hand.all(t.ActivityTask)
        if leaving:
            hand.link.send(t.WorkerLeaving())
        await hand.link.detach()
        await pass_time()
        (failed,) = [e for e in (await events(node)) if isinstance(e, ActivityTaskFailed)]
        assert failed.failure.kind == "worker_lost"

    simulate(body)


def test_queues_that_share_a_worker_take_turns() -> None:
    async def body(node: Node) -> None:
        hand = await Hand("hand", slots=1).attach(node)
        await node.call(start("w"))
        commands = [ScheduleActivity(f"{queue}{n}", "a", queue, ()) for n in range(3) for queue in ("left", "right")]
        hand.complete(hand.all(t.WorkflowTask)[-1], *commands)
        await pass_time()
        both = await Hand("both", slots=1, queues=("left", "right")).attach(node)
        for _ in range(6):
            await pass_time()
            both.link.send(t.ActivityCompletion(both.all(t.ActivityTask)[-1].token, Payload(b"1")))
        queues = [task.task_queue for task in both.all(t.ActivityTask)]
        assert queues in (["left", "right"] * 3, ["right", "left"] * 3)
        left = [task.activity_id for task in both.all(t.ActivityTask) if task.task_queue == "left"]
        assert left == ["left0", "left1", "left2"]

    simulate(body)


def test_slots_are_free_again_whatever_becomes_of_an_attempt() -> None:
    async def body(node: Node) -> None:
        hand = await Hand("hand", slots=2).attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], *(ScheduleActivity(f"{n}", "a", "", ()) for n in range(5)))
        await pass_time()
        worker = node.dispatcher.workers["hand"]
        first, second = hand.all(t.ActivityTask)
        assert worker.room == 0
        hand.link.send(t.ActivityEvicted(first.token))
        hand.link.send(t.ActivityCompletion(second.token, Payload(b"1")))
        hand.link.send(t.ActivityCompletion(second.token, Payload(b"1")))  # again, and refused
        await pass_time()
        assert len(worker.held) == 2
        assert len(hand.all(t.ActivityTask)) == 4
        hand.link.send(t.WorkerLeaving())
        await pass_time()
        assert worker.room == 0
        await hand.link.detach()
        other = await Hand("other", slots=9).attach(node)
        await pass_time()
        tasks = other.all(t.ActivityTask)
        assert sorted(task.activity_id for task in tasks) == ["0", "2", "3", "4"]

    simulate(body)
