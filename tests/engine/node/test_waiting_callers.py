"""Every caller is answered, and who has given up is not remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.engine.node.node import Node
from perdure.engine.node.waiting import Waiting
from perdure.engine.storage.api import QueueKey, Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import EngineStopped, InvalidRequest, NotFound, StoreError, StoreFull, Unavailable
from perdure.limits import SECOND, STOP_WAIT, STORE_FULL_WAIT, STORE_RETRY_MAXIMUM
from perdure.model.events import WorkflowExecutionSignaled
from perdure.model.requests import (
    DescribeWorkflow,
    GetHistory,
    GetResult,
    Outcome,
    QueryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
    UpdateOutcome,
    UpdateWorkflow,
)
from perdure.model.tasks import WorkflowTask
from tests.engine.node.hands import Hand, chain, simulate, start


async def settled() -> None:
    """Let everything run that doesn't wait for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_update_is_told_to_those_who_want_to_know() -> None:
    waiting, loop = Waiting(), asyncio.get_running_loop()
    accepted, completed, ended = loop.create_future(), loop.create_future(), loop.create_future()
    waiting.for_update("run", "u", accepted, "accepted")
    waiting.for_update("run", "u", completed, "completed")
    waiting.for_end("run", ended)
    waiting.progressed("run", UpdateOutcome("u", "accepted"))
    assert accepted.done()
    assert not completed.done()
    waiting.progressed("run", UpdateOutcome("u", "completed"))
    assert completed.done()
    waiting.ended(Outcome("run", "Completed"))
    assert ended.result().status == "Completed"
    assert len(waiting) == 0


def test_who_gives_up_is_not_remembered() -> None:
    async def body(node: Node) -> None:
        await node.call(start("w"))
        requests = (GetResult("default", "w", ""), UpdateWorkflow("default", "w", "", "u", "resize", ()))
        impatient = [asyncio.ensure_future(node.call(request)) for request in requests]
        await settled()
        assert len(node.serving.waiting) == 2
        for caller in impatient:
            caller.cancel()
        await settled()
        assert len(node.serving.waiting) == 0

    simulate(body)


class Refusing(MemoryStore):
    """Refuses the first row of each run, as if another node had been faster."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if not self.refused:
            self.refused = [write.run_id for write in group]
            return ["stale" for _ in group]
        return await super().commit(group, now)


def test_who_waits_for_a_run_that_never_was_hears_of_the_one_that_is() -> None:
    store = Refusing()

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        starting = asyncio.ensure_future(node.call(start("w")))
        waiting = asyncio.ensure_future(node.call(GetResult("default", "w", "")))
        run_id = (await starting).run_id
        assert store.refused
        assert run_id not in store.refused
        hand.finish(hand.all(WorkflowTask)[-1])
        assert (await waiting).run_id == run_id

    simulate(body, store)


def test_a_query_before_the_next_start_is_answered_by_the_last_run() -> None:
    async def body(node: Node) -> None:
        await node.call(start("w"))
        await node.call(TerminateWorkflow("default", "w", ""))
        asking = asyncio.ensure_future(node.call(QueryWorkflow("default", "w", "", "status", ())))
        again = start("w")
        starting = asyncio.ensure_future(node.call(type(again)("default", "w", "sample", "default", (), "another")))
        with pytest.raises(NotFound, match="no worker here serves"):
            await asking
        await starting

    simulate(body)


def test_what_is_only_read_is_not_kept() -> None:
    async def body(node: Node) -> None:
        first = (await node.call(start("w"))).run_id
        await node.call(TerminateWorkflow("default", "w", ""))
        again = start("w")
        await node.call(type(again)("default", "w", "sample", "default", (), "another"))
        await node.call(DescribeWorkflow("default", "w", first))
        await node.call(GetHistory("default", "w", first))
        for request in (DescribeWorkflow("default", "none", ""), GetResult("default", "none", "")):
            with pytest.raises(NotFound):
                await node.call(request)
        assert list(node.serving.lives) == [chain("w")]
        assert not node.serving.older

    simulate(body)


@pytest.mark.parametrize("workflow_id", ["\ud800", "ok\udfff"])
def test_text_that_is_none_is_refused(workflow_id: str) -> None:
    async def body(node: Node) -> None:
        with pytest.raises(InvalidRequest, match="workflow_id is no valid text"):
            await node.call(start(workflow_id))
        await node.call(start("größe"))

    simulate(body)


class Picky(MemoryStore):
    """Can't store one workflow, by a fault of its own."""

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if any(write.key.workflow_id == "poison" for write in group):
            raise ValueError("can't store that")
        return await super().commit(group, now)


def test_a_row_that_can_not_be_stored_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def body(node: Node) -> None:
        ids = ("one", "poison", "two")
        replies = await asyncio.gather(*(node.call(start(id)) for id in ids), return_exceptions=True)
        assert [type(reply).__name__ for reply in replies] == ["Started", "ValueError", "Started"]
        await node.call(SignalWorkflow("default", "one", "", "hello", (), "r"))

    simulate(body, Picky())
    assert "can't be stored" in caplog.text


def test_who_waits_when_the_engine_stops_is_told() -> None:
    async def body(node: Node) -> tuple[asyncio.Future[Outcome], asyncio.Future[UpdateOutcome]]:
        await node.call(start("w"))
        result = asyncio.ensure_future(node.call(GetResult("default", "w", "")))
        update = asyncio.ensure_future(node.call(UpdateWorkflow("default", "w", "", "u", "resize", ())))
        await settled()
        await node.stop()
        await node.stop()
        for waiting in (result, update):
            with pytest.raises(EngineStopped, match="open it again"):
                await waiting
        with pytest.raises(EngineStopped):
            await node.call(start("other"))
        with pytest.raises(EngineStopped):
            await Hand("late").attach(node)
        return result, update

    simulate(body)


class Down(MemoryStore):
    """Takes no commits from some time on."""

    down = False

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if self.down:
            raise Unavailable("down")
        return await super().commit(group, now)


def test_a_stop_does_not_wait_for_ever_for_a_store_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    store = Down()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        store.down = True
        unheard = asyncio.ensure_future(node.call(SignalWorkflow("default", "w", "", "hello", (), "r")))
        await settled()
        before = node.clock.now()
        await node.stop()
        assert node.clock.now() - before == STOP_WAIT
        with pytest.raises(EngineStopped):
            await unheard

    simulate(body, store)
    assert "stopped without what the store has not taken" in caplog.text
    assert STOP_WAIT == 10 * SECOND


class Full(MemoryStore):
    """Has no space for some time."""

    full = False

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        if self.full:
            raise StoreFull("no space")
        return await super().commit(group, now)


def test_who_asks_for_something_hears_that_the_store_is_full_and_it_is_as_if_they_had_not() -> None:
    store = Full()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        result = asyncio.ensure_future(node.call(GetResult("default", "w", "")))
        await settled()
        store.full = True
        for request in (start("v"), SignalWorkflow("default", "w", "", "hello", (), "r")):
            before = node.clock.now()
            with pytest.raises(StoreFull):
                await node.call(request)
            assert STORE_FULL_WAIT <= node.clock.now() - before < STORE_FULL_WAIT + STORE_RETRY_MAXIMUM
        store.full = False
        with pytest.raises(NotFound):
            await node.call(DescribeWorkflow("default", "v", ""))
        history = await node.call(GetHistory("default", "w", ""))
        assert not [event for event in history.events if type(event) is WorkflowExecutionSignaled]
        assert not result.done()
        await node.call(TerminateWorkflow("default", "w", "", "over"))
        assert (await result).status == "Terminated"

    simulate(body, store)


def test_who_only_looks_while_the_store_is_full_takes_nothing_back() -> None:
    store = Full()

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        store.full = True
        hand.finish(hand.all(WorkflowTask)[0])
        await settled()
        for request in (DescribeWorkflow("default", "w", ""), GetHistory("default", "w", "")):
            with pytest.raises(StoreFull):
                await node.call(request)
        store.full = False
        assert (await node.call(GetResult("default", "w", ""))).status == "Completed"
        assert len(hand.all(WorkflowTask)) == 1

    simulate(body, store)


def test_callers_hear_nothing_of_a_store_that_makes_room_at_once() -> None:
    store = Full()

    async def body(node: Node) -> None:
        store.full = True
        asyncio.get_running_loop().call_later(0.5 * STORE_FULL_WAIT / SECOND, setattr, store, "full", False)
        await node.call(start("w"))

    simulate(body, store)


def test_what_goes_on_by_itself_is_kept_while_the_store_is_full() -> None:
    store = Full()

    async def body(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        await node.call(start("v"))
        store.full = True
        hand.finish(hand.all(WorkflowTask)[0])
        result = asyncio.ensure_future(node.call(GetResult("default", "w", "")))
        with pytest.raises(StoreFull):
            await node.call(SignalWorkflow("default", "v", "", "hello", (), "r"))
        assert not result.done()
        store.full = False
        assert (await result).status == "Completed"

    simulate(body, store)


class Unreadable(MemoryStore):
    """Opens, and can't be read."""

    closed = False

    async def backlogged_queues(self) -> Sequence[QueueKey]:
        raise StoreError("damaged")

    async def close(self) -> None:
        self.closed = True


def test_a_start_that_fails_lets_go_of_the_store() -> None:
    store = Unreadable()
    with pytest.raises(StoreError, match="damaged"):
        simulate(lambda node: settled(), store)
    assert store.closed


def test_without_a_vital_part_nobody_is_left_to_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(node: Node) -> None:
        await node.call(start("w"))
        waiting = asyncio.ensure_future(node.call(GetResult("default", "w", "")))
        await settled()
        monkeypatch.setattr(node.committer, "_gather", lambda: 1 / 0)
        with pytest.raises(EngineStopped, match="the engine has failed"):
            await node.call(SignalWorkflow("default", "w", "", "hello", (), "r"))
        with pytest.raises(EngineStopped, match="the engine has failed"):
            await waiting

    simulate(body)
    assert "the engine has failed" in caplog.text
