"""The bounds that the node keeps: each is reached here, and something is seen to stop at it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.engine.core.deduplication import dedup_id
from perdure.engine.node import committer, loader, node, reading, schedules, serving, wakeups
from perdure.engine.node.inbound import check_request
from perdure.engine.node.node import Node
from perdure.engine.storage.api import ChainKey, Due, StoredRun, Verdict, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.errors import InvalidRequest, PayloadTooLarge, PerdureError, Unavailable
from perdure.limits import (
    MAX_DURATION,
    MAX_ID_LENGTH,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_REASON_LENGTH,
    SECOND,
    SPECULATION_WAIT,
    STORE_RETRY_INITIAL,
    STORE_RETRY_MAXIMUM,
)
from perdure.model import schedules as s
from perdure.model import tasks as t
from perdure.model.commands import StartTimer
from perdure.model.payloads import Payload
from perdure.model.requests import (
    CancelWorkflowRequest,
    DescribeWorkflow,
    GetHistory,
    ListWorkflows,
    SignalWorkflow,
    StartWorkflow,
)
from tests.engine.node.hands import Hand, simulate, start


async def pass_time(seconds: float) -> None:
    await asyncio.sleep(seconds)  # simulated time


class Watched(MemoryStore):
    """Notes when it was asked for what; fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.commits: list[float] = []
        self.due_at_once: list[int] = []
        self.loaded = 0
        self.down = False

    async def commit(self, group: Sequence[Write], now: int) -> Sequence[Verdict]:
        self.commits.append(asyncio.get_running_loop().time())
        if self.down:
            raise Unavailable("down")
        self.groups.append(len(group))
        return await super().commit(group, now)

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        if self.down:
            raise Unavailable("down")
        self.loaded += len(chains)
        return await super().load(chains)

    async def due(self, now: int, limit: int) -> Sequence[Due]:
        found = await super().due(now, limit)
        self.due_at_once.append(len(found))
        return found


def test_a_group_is_no_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "MAX_GROUP", 10)
    store = Watched()

    async def body(node: Node) -> None:
        await asyncio.gather(*(node.call(start(f"w{n}")) for n in range(55)))

    simulate(body, store)
    assert sum(store.groups) == 55
    assert max(store.groups) == 10


def test_a_turn_is_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_GROUP", 10)
    store = Watched()

    async def body(node: Node) -> None:
        await asyncio.gather(*(node.call(start(f"w{n}")) for n in range(55)))

    simulate(body, store)
    assert sum(store.groups) == 55
    assert len(store.groups) > 1, "the store is given work between the turns"


def test_what_ran_is_read_a_batch_at_a_time_and_others_have_their_turn_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "MAX_GROUP", 10)
    store = Watched()

    async def leave(node: Node) -> None:
        await Hand("silent").attach(node)
        await asyncio.gather(*(node.call(start(f"w{n}")) for n in range(55)))

    async def take_up(node: Node) -> None:
        before, most = store.loaded, 0
        while store.loaded < before + 55:
            seen = store.loaded
            await asyncio.sleep(0)
            most = max(most, store.loaded - seen)
        assert most == 10

    simulate(leave, store)
    simulate(take_up, store, seconds=60.0)


def test_an_input_waits_no_longer_for_its_workflow_task() -> None:
    store = Watched()

    async def body(node: Node) -> None:
        await Hand("silent").attach(node)
        before = asyncio.get_running_loop().time()
        await node.call(start("w"))
        assert store.commits[0] - before == pytest.approx(SPECULATION_WAIT / SECOND)

    simulate(body, store)


def test_while_the_store_is_down_no_more_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "MAX_UNCOMMITTED", 3)
    store = Watched()

    async def body(node: Node) -> None:
        await node.call(start("w"))
        assert node.committer.uncommitted == 0
        store.down = True
        signals = [SignalWorkflow("default", "w", "", "hello", (), f"r{n}") for n in range(5)]
        sent = [asyncio.ensure_future(node.call(signal)) for signal in signals[:3]]
        await pass_time(0.001)
        for signal in signals[3:]:
            with pytest.raises(Unavailable, match="MAX_UNCOMMITTED"):
                await node.call(signal)
        store.down = False
        await asyncio.gather(*sent)
        assert node.committer.uncommitted == 0
        await node.call(signals[3])

    simulate(body, store)


def test_the_store_is_asked_again_less_and_less_often() -> None:
    store = Watched()

    async def body(node: Node) -> None:
        store.down = True
        starting = asyncio.ensure_future(node.call(start("w")))
        reading = asyncio.ensure_future(node.call(DescribeWorkflow("default", "w", "")))
        await pass_time(60.0)
        store.down = False
        await asyncio.gather(starting, reading)
        pauses = [after - before for before, after in zip(store.commits, store.commits[1:], strict=False)]
        assert pauses[0] == pytest.approx(STORE_RETRY_INITIAL / SECOND)
        assert max(pauses) == pytest.approx(STORE_RETRY_MAXIMUM / SECOND)
        assert len(pauses) < 70

    simulate(body, store)


def test_no_more_are_woken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "DUE_SCAN_LIMIT", 4)
    store = Watched()

    async def begin(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        for n in range(11):
            await node.call(start(f"w{n}"))
            hand.complete(hand.all(t.WorkflowTask)[-1], StartTimer("nap", 10 * SECOND))
        await pass_time(0.1)

    async def wake(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await pass_time(1.0)
        assert len(hand.all(t.WorkflowTask)) == 11

    simulate(begin, store)
    store.due_at_once.clear()
    simulate(wake, store, seconds=100.0)
    assert max(store.due_at_once) == 4


class Broken(MemoryStore):
    """Its executions can't be read."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.tries: list[float] = []

    async def load(self, chains: Sequence[ChainKey]) -> Sequence[StoredRun | None]:
        if self.broken:
            self.tries.append(asyncio.get_running_loop().time())
            raise PerdureError("broken")
        return await super().load(chains)


def test_a_wake_up_that_fails_is_tried_again_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "WAKE_BACKOFF_INITIAL", 2 * SECOND)
    monkeypatch.setattr(wakeups, "WAKE_BACKOFF_MAXIMUM", 7 * SECOND)
    store = Broken()

    async def begin(node: Node) -> None:
        hand = await Hand("hand").attach(node)
        await node.call(start("w"))
        hand.complete(hand.all(t.WorkflowTask)[-1], StartTimer("nap", SECOND))
        await pass_time(0.1)

    async def wake(node: Node) -> None:
        store.broken = True
        await pass_time(30.0)
        pauses = [round(after - before) for before, after in zip(store.tries, store.tries[1:], strict=False)]
        assert pauses[:4] == [2, 4, 7, 7]

    simulate(begin, store)
    simulate(wake, store, seconds=100.0)


def test_a_page_of_a_list_is_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LIST_PAGE", 3)

    async def body(node: Node) -> None:
        for n in range(5):
            await node.call(start(f"w{n}"))
        for limit in (0, 100):
            first = await node.call(ListWorkflows("default", "", limit=limit))
            assert len(first.rows) == 3
            last = await node.call(ListWorkflows("default", "", page=first.next, limit=limit))
            assert len(last.rows) == 2
            assert not last.next

    simulate(body)


def test_a_page_of_a_history_is_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HISTORY_PAGE_BYTES", 1)

    async def body(node: Node) -> None:
        await node.call(start("w"))
        for n in range(3):
            await node.call(SignalWorkflow("default", "w", "", "hello", (), f"r{n}"))
        ids: list[int] = []
        token, pages = 0, 0
        while token or not pages:
            page = await node.call(GetHistory("default", "w", "", token))
            ids += [event.id for event in page.events]
            token, pages = page.next, pages + 1
        assert ids == [1, 2, 3, 4, 5]
        assert pages >= 4

    simulate(body)


LONG = "x" * (MAX_ID_LENGTH + 1)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (start(LONG), "workflow_id has 1001 characters; limits.MAX_ID_LENGTH"),
        (start("w", queue=LONG), "task_queue has 1001 characters; limits.MAX_ID_LENGTH"),
        (SignalWorkflow("default", "w", "", LONG, (), "r"), "name has 1001 characters"),
        (SignalWorkflow("default", "w", "", "", (), "r"), "name must not be empty"),
        (start(" "), "workflow_id must neither begin nor end with white space, as ' ' does"),
        (start("w", queue="eu\n"), "task_queue must neither begin nor end with white space"),
        (StartWorkflow("\u3000", "w", "t", "q", (), "r"), "namespace must neither begin nor end with white space"),
        (
            CancelWorkflowRequest("default", "w", "", "x" * (MAX_REASON_LENGTH + 1)),
            "reason has 4001 characters; limits.MAX_REASON_LENGTH",
        ),
        (StartWorkflow("default", "w", "t", "q", (), "r", run_timeout=MAX_DURATION + 1), "run_timeout must be between"),
        (StartWorkflow("default", "w", "t", "q", (), "r", execution_timeout=-1), "execution_timeout must be between"),
        (ListWorkflows("default", "", limit=-1), "limit must not be negative, as -1 is"),
        (s.ListSchedules("default", "", limit=-1), "limit must not be negative, as -1 is"),
    ],
)
def test_a_request_over_a_limit_is_refused(request_: StartWorkflow, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        check_request(request_)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([MAX_PAYLOAD + 1], "limits.MAX_PAYLOAD"),
        ([MAX_PAYLOAD] * (MAX_MESSAGE // MAX_PAYLOAD) + [1], "limits.MAX_MESSAGE"),
    ],
)
def test_payloads_over_a_limit_are_refused(sizes: list[int], says: str) -> None:
    payloads = tuple(Payload(b"x" * size) for size in sizes)
    with pytest.raises(PayloadTooLarge, match=says):
        check_request(SignalWorkflow("default", "w", "", "hello", payloads, "r"))
    check_request(SignalWorkflow("default", "w", "", "hello", payloads[:-1], "r"))


def test_requests_at_their_limits_are_taken() -> None:
    check_request(start("w", queue="x" * MAX_ID_LENGTH))
    check_request(CancelWorkflowRequest("default", "w", "", "x" * MAX_REASON_LENGTH))
    check_request(StartWorkflow("default", "w", "t", "q", (), "r", run_timeout=MAX_DURATION))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"build_id": 5}, "build_id must be text, not int"),
        ({"instance": "\ud800"}, "instance is no valid text"),
        ({"workflows": (1,)}, "workflows must be text, not int"),
        ({"namespace": ""}, "namespace must not be empty"),
    ],
)
def test_a_worker_that_introduces_itself_wrongly_is_not_attached(wrong: dict[str, Any], says: str) -> None:
    async def body(node: Node) -> None:
        hello = t.WorkerHello("default", "w1", ("default",), 1)
        with pytest.raises(InvalidRequest, match=says):
            await node.attach(replace(hello, **wrong), lambda _: None)
        assert not list(node.dispatcher.workers)

    simulate(body, Watched())


def test_the_next_times_of_a_schedule_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "SHOWN_TIMES", 3)

    async def body(node: Node) -> None:
        spec = s.ScheduleSpec(intervals=(s.IntervalSpec(3600 * SECOND),))
        for remaining, shown in ((-1, 3), (2, 2)):
            schedule = s.Schedule(spec, start("w"), remaining_actions=remaining)
            await node.call(s.CreateSchedule("default", f"s{remaining}", schedule, "r"))
            description = await node.call(s.DescribeSchedule("default", f"s{remaining}"))
            assert len(description.next_times) == shown

    simulate(body)


def test_a_signal_is_not_compared_with_each_that_waits_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    class Compared(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def id_of(request: SignalWorkflow) -> str:
        return Compared(dedup_id(request))

    monkeypatch.setattr(serving, "dedup_id", id_of)

    async def body(node: Node) -> None:
        await node.call(start("w"))
        signals = [SignalWorkflow("default", "w", "", "hello", (), f"r{n % 100}") for n in range(200)]
        await asyncio.gather(*map(node.call, signals))
        assert (await node.call(DescribeWorkflow("default", "w", ""))).history_events == 102

    simulate(body)
    assert 100 <= compared <= 200, "only the repetitions are"
