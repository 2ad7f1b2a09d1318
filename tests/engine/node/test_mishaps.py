"""Errors of the engine's own, and stops in the middle of something: nothing acknowledged is lost by them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.engine.core import decide as decide_module
from perdure.engine.core.transition import Transition
from perdure.engine.node import performing
from perdure.engine.node.node import Node
from perdure.engine.storage.api import BacklogItem, ChainKey, JournalPage, QueueKey, RunKey, Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import EngineStopped, StoreCorrupt, StoreError, Unavailable
from perdure.limits import SECOND, WAKE_BACKOFF_INITIAL
from perdure.model import tasks as t
from perdure.model.commands import ScheduleActivity, StartChildWorkflow
from perdure.model.payloads import Payload
from perdure.model.requests import (
    CancelWorkflowRequest,
    DescribeWorkflow,
    Done,
    GetHistory,
    GetResult,
    SignalWorkflow,
    TerminateWorkflow,
)
from tests.engine.node.hands import Hand, simulate, start


async def pass_time(seconds: float = 0.1) -> None:
    await asyncio.sleep(seconds)  # simulated time


def signal(n: int) -> SignalWorkflow:
    return SignalWorkflow("default", "w", "", "hello", (), f"r{n}")


def test_a_decision_that_raises_harms_only_its_own_input(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(tx: Transition, request: CancelWorkflowRequest) -> None:
        tx.state.cancel_requested = True
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(decide_module.DECISIONS, CancelWorkflowRequest, broken)

    async def body(node: Node) -> None:
        hand = await Hand("hand", slots=1).attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], ScheduleActivity("1", "a", "", ()))
        calls = [node.call(signal(1)), node.call(CancelWorkflowRequest("default", "w", "")), node.call(signal(2))]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(reply).__name__ for reply in replies] == ["Done", "ZeroDivisionError", "Done"]
        await pass_time(WAKE_BACKOFF_INITIAL / SECOND + 1)
        (activity,) = hand.all(t.ActivityTask)
        hand.link.send(t.ActivityCompletion(activity.token, Payload(b"1")))
        await pass_time()
        hand.complete(hand.all(t.WorkflowTask)[-1])
        await pass_time()
        hand.finish(hand.all(t.WorkflowTask)[-1])
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"
        names = [type(event).__name__ for event in (await node.call(GetHistory("default", "w", ""))).events]
        assert names.count("WorkflowExecutionSignaled") == 2
        assert "WorkflowExecutionCancelRequested" not in names

    simulate(body)
    assert "deciding CancelWorkflowRequest" in caplog.text


def test_a_task_that_can_not_be_decided_is_not_all_that_the_engine_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(tx: Transition, completion: t.WorkflowTaskCompletion) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(decide_module.DECISIONS, t.WorkflowTaskCompletion, broken)

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        tries = 0
        for _ in range(100):
            await pass_time()
            tasks = hand.all(t.WorkflowTask)
            for task in tasks[tries:]:
                hand.finish(task)
            tries = len(tasks)
        assert 4 <= tries <= 8, "with a backoff"
        task = (await node.call(DescribeWorkflow("default", "w", ""))).workflow_task
        assert task is not None and task.failure is not None
        assert "could not decide" in task.failure.message

    simulate(body)
    assert "a bug" in caplog.text


def test_a_stop_is_no_answer_to_what_one_workflow_sends_another(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    delivering: list[asyncio.Event] = []
    deliver = performing.deliver

    async def late(*args: object) -> object:
        await delivering[0].wait()
        return await deliver(*args)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def begin(node: Node) -> None:
        delivering.append(asyncio.Event())
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        child = StartChildWorkflow("child", "sample", "default", ())
        hand.complete(hand.all(t.WorkflowTask)[-1], child)
        await pass_time()
        stopping = asyncio.ensure_future(node.stop())
        delivering[0].set()
        await stopping

    async def go_on(node: Node) -> None:
        await pass_time(10.0)
        assert (await node.call(DescribeWorkflow("default", "child", ""))).status == "Running"

    with monkeypatch.context() as patch:
        patch.setattr(performing, "deliver", late)
        simulate(begin, store)
    simulate(go_on, store, seconds=10.0)


class Slow(MemoryStore):
    """Takes its time to commit."""

    closed = 0

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        await pass_time()
        return await super().commit(group, now)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@pytest.mark.parametrize("steps", range(1, 7))
def test_a_stop_that_is_cancelled_is_done_all_the_same(steps: int) -> None:
    store = Slow()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        asked = asyncio.ensure_future(node.call(signal(1)))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(node.stop())
        for _ in range(steps):
            await asyncio.sleep(0)
        for _ in range(2):
            stopping.cancel()
            await asyncio.sleep(0)
        await node.stop()
        assert store.closed == 1
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert await asked == Done()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(body, store)
    assert store.closed == 1


def test_a_stop_on_a_loop_that_is_interrupted_closes_the_store() -> None:
    store = Slow()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        asked = asyncio.ensure_future(node.call(signal(1)))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(node.stop())
        await pass_time(0.01)
        tasks = asyncio.all_tasks() - {asyncio.current_task()} - {asked}
        for task in tasks:  # as `asyncio.run` does
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert store.closed == 1
        assert stopping.cancelled()
        with pytest.raises(EngineStopped):
            await asked

    with pytest.raises(asyncio.CancelledError):
        simulate(body, store)  # it stops the node again


def test_a_delivery_that_meets_an_error_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        call, errors = node.call, [Unavailable("not now"), ZeroDivisionError("a bug of the other side")]

        async def failing(request: object) -> object:
            if errors:
                raise errors.pop()
            return await call(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUnknownVariableType]

        monkeypatch.setattr(node, "call", failing)
        hand.complete(hand.all(t.WorkflowTask)[-1], StartChildWorkflow("child", "sample", "default", ()))
        await pass_time(10.0)
        assert not errors
        assert (await call(DescribeWorkflow("default", "child", ""))).status == "Running"

    simulate(body, store)


class Unreadable(MemoryStore):
    """Once, its backlogs can't be read, and nothing is said to be won by trying again."""

    broken = False

    async def backlog(self, queue: QueueKey, after: BacklogItem | None, limit: int) -> Sequence[BacklogItem]:
        if self.broken:
            self.broken = False
            raise StoreError("a page is damaged")
        return await super().backlog(queue, after, limit)


def test_a_backlog_that_could_not_be_read_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Unreadable()

    async def leave(node: Node) -> None:
        await node.call(start("w"))

    async def take_up(node: Node) -> None:
        store.broken = True
        hand = await Hand("hand").attach(node)
        await pass_time(1.0)
        assert not store.broken
        assert "could not finish" in caplog.text
        await node.call(start("another"))  # the next thing to do
        await pass_time(1.0)
        assert {task.run.workflow_id for task in hand.all(t.WorkflowTask)} == {"w", "another"}

    simulate(leave, store)
    simulate(take_up, store, seconds=60.0)


# --- Reads that fail for good ---------------------------------------------------------------------------
class Damaged(MemoryStore):
    """While they are damaged, neither request ids nor histories can be read."""

    damage = False
    attempts = 0

    def _look(self) -> None:
        self.attempts += self.damage
        if self.damage:
            raise self.damaged("a page")

    async def taken(self, chain: ChainKey, request_ids: Sequence[str], now: int) -> set[str]:
        self._look()
        return await super().taken(chain, request_ids, now)

    async def journal(self, run: RunKey, after: int, limit_bytes: int) -> JournalPage:
        self._look()
        return await super().journal(run, after, limit_bytes)


@pytest.mark.parametrize("closed", [True, False])
def test_who_asks_hears_that_it_can_not_be_told_whether_it_was_done_before(*, closed: bool) -> None:
    store = Damaged()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        await node.call(signal(1))
        if closed:
            await node.call(TerminateWorkflow("default", "w", "", ""))
        store.damage = True
        replies = await asyncio.gather(node.call(signal(1)), node.call(signal(1)), return_exceptions=True)
        assert [type(reply) for reply in replies] == [StoreCorrupt, StoreCorrupt]
        store.damage = False
        assert await node.call(signal(1)) == Done()

    simulate(body, store)


def test_a_task_whose_history_can_not_be_read_has_failed_and_is_tried_again() -> None:
    store = Damaged()

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1])
        await node.call(signal(1))
        task = hand.all(t.WorkflowTask)[-1]
        store.damage = True
        hand.link.send(t.HistoryWanted(task.run, given=task.given))  # it has dropped its copy
        await pass_time(10.0)
        assert 3 <= store.attempts <= 5, "with a backoff"
        seen = (await node.call(DescribeWorkflow("default", "w", ""))).workflow_task
        assert seen is not None and seen.failure is not None
        assert "could not read the history: StoreCorrupt" in seen.failure.message
        store.damage = False
        await pass_time(20.0)
        task = hand.all(t.WorkflowTask)[-1]
        assert task.events[0].id == 1
        hand.finish(task)
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"

    simulate(body, store)
