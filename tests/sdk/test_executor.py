"""The executor: real coroutines and threads, against a node that only listens."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from perdure.errors import Hold
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.tasks import (
    ActivityCancellation,
    ActivityCompletion,
    ActivityEvicted,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityToken,
    CancelActivity,
)
from perdure.sdk.activity.context import ActivityContext, current
from tests.sdk.attempts import Bench, context


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.executor.stop(grace=0)


# --- Outcomes -------------------------------------------------------------------------------------------
@dataclass
class Point:
    x: int
    y: int


async def test_a_coroutine_returns(bench: Bench) -> None:
    async def shift(point: Point, by: int) -> Point:
        await asyncio.sleep(0)
        return Point(point.x + by, point.y + by)

    token = bench.start(shift, {"x": 1, "y": 2}, 10)
    assert await bench.node.message(ActivityCompletion) == ActivityCompletion(token, Payload(b'{"x":11,"y":12}'))


async def test_a_plain_function_returns_from_a_thread(bench: Bench) -> None:
    def where(name: str) -> str:
        return f"{name} in {threading.current_thread().name}"

    token = bench.start(where, "ann")
    message = await bench.node.message(ActivityCompletion)
    assert message == ActivityCompletion(token, Payload(b'"ann in perdure-activity-1"'))


async def fails_async() -> None:
    raise LookupError("no such region")


def fails_plain() -> None:
    raise LookupError("no such region")


@pytest.mark.parametrize("function", [fails_async, fails_plain])
async def test_an_exception_crosses_with_its_classes(bench: Bench, function: Callable[..., object]) -> None:
    token = bench.start(function)
    message = await bench.node.message(ActivityFailure)
    assert message.token == token
    assert message.failure.types == ("builtins.LookupError", "builtins.Exception")
    assert message.failure.message == "no such region"
    assert not message.failure.non_retryable


async def test_hold_asks_for_a_person(bench: Bench) -> None:
    async def hold() -> None:
        raise Hold("the quota is used up")

    bench.start(hold)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert (failure.kind, failure.message) == ("hold", "the quota is used up")


async def test_an_unknown_activity_is_tried_again_and_says_what_there_is(bench: Bench) -> None:
    bench.task(fails_async)
    bench.task(fails_plain)
    bench.start("fails_asinc")
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.message == "this worker has no activity 'fails_asinc'; it has: fails_async, fails_plain"
    assert not failure.non_retryable


async def test_wrong_arguments_are_not_tried_again(bench: Bench) -> None:
    ran: list[object] = []

    async def shift(point: Point) -> None:
        ran.append(point)

    bench.start(shift, {"x": 1, "y": "two"})
    failure = (await bench.node.message(ActivityFailure)).failure
    assert (failure.kind, failure.non_retryable) == ("encoding", True)
    assert "'point'" in failure.message
    assert "$.y" in failure.message
    assert ran == []


async def test_a_result_without_an_encoding_is_not_tried_again(bench: Bench) -> None:
    async def lock() -> object:
        return threading.Lock()

    bench.start(lock)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert (failure.kind, failure.non_retryable) == ("encoding", True)
    assert "the result of activity lock" in failure.message


async def test_annotations_that_cannot_be_read_may_be_mended_by_a_deploy(bench: Bench) -> None:
    def broken(point: object) -> None: ...

    broken.__annotations__["point"] = "Nowhere"

    bench.start(broken, 1)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert "Nowhere" in failure.message
    assert not failure.non_retryable


async def test_the_same_attempt_delivered_again_runs_once(bench: Bench) -> None:
    release, ran = asyncio.Event(), list[int]()

    async def once() -> None:
        ran.append(1)
        await release.wait()

    task = bench.task(once)
    bench.executor.start(task)
    await asyncio.sleep(0)
    bench.executor.start(task)
    release.set()
    await bench.node.message(ActivityCompletion)
    assert ran == [1]
    assert len(bench.node.messages) == 1


async def test_threads_are_no_more_than_the_slots() -> None:
    bench = Bench(slots=2)
    names, gate = set[str](), threading.Barrier(2)

    def work() -> None:
        gate.wait()
        names.add(threading.current_thread().name)

    for _ in range(8):
        bench.start(work)
    await bench.node.count(8)
    assert len(names) == 2
    await bench.executor.stop()


# --- Context --------------------------------------------------------------------------------------------
async def test_info_tells_about_the_attempt(bench: Bench) -> None:
    seen: list[ActivityContext] = []

    async def look() -> None:
        seen.append(context())

    bench.executor.start(bench.task(look, last_failure=Failure("full", ("app.Full", "builtins.Exception"))))
    await bench.node.message(ActivityCompletion)
    info = seen[0].info
    assert (info.workflow_id, info.run_id, info.namespace) == ("wf", "run-1", "default")
    assert (info.activity_id, info.activity_type, info.attempt) == ("a1", "look", 1)
    assert info.scheduled_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert info.start_to_close_timeout == timedelta(seconds=30)
    assert info.heartbeat_timeout is None
    assert info.last_failure == "app.Full: full"
    assert current() is None


caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")


async def test_an_attempt_does_not_see_the_context_of_what_caused_it(bench: Bench) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(caller.get())

    caller.set("whoever happened to start it")
    bench.start(look)
    await bench.node.message(ActivityCompletion)
    assert seen == ["nobody"]


async def test_the_context_is_there_in_threads_of_a_coroutine(bench: Bench) -> None:
    seen: list[str] = []

    async def outer() -> None:
        await asyncio.to_thread(lambda: seen.append(context().info.activity_id))

    bench.start(outer)
    await bench.node.message(ActivityCompletion)
    assert seen == ["a1"]


# --- Cancellation ---------------------------------------------------------------------------------------
async def test_a_cancelled_coroutine_cleans_up_and_says_so(bench: Bench) -> None:
    started, cleaned = asyncio.Event(), list[bool]()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(context().cancelled)

    token = bench.start(wait)
    await started.wait()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)
    assert cleaned == [True]


async def test_cancelled_before_it_began_it_does_not_run(bench: Bench) -> None:
    ran: list[int] = []

    async def never() -> None:
        ran.append(1)

    token = bench.start(never)
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert bench.node.messages == [ActivityCancellation(token)]
    await asyncio.sleep(0)
    assert ran == []


async def test_a_plain_function_cancelled_before_it_began_does_not_run() -> None:
    bench = Bench(slots=1)
    gate, ran = threading.Event(), list[int]()

    def first() -> None:
        gate.wait()

    def never() -> None:
        ran.append(1)

    bench.start(first)
    token = bench.start(never)
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert bench.node.messages == [ActivityCancellation(token)]
    gate.set()
    await bench.node.message(ActivityCompletion)
    await bench.executor.stop()
    assert ran == []


async def test_a_plain_function_sees_that_it_is_cancelled(bench: Bench) -> None:
    started, told = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def poll() -> None:
        loop.call_soon_threadsafe(started.set)
        told.wait()
        if context().cancelled:
            raise asyncio.CancelledError

    token = bench.start(poll)
    await started.wait()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    told.set()
    assert await bench.node.message(ActivityCancellation) == ActivityCancellation(token)


async def test_a_coroutine_that_finishes_in_spite_of_the_cancellation_completes(bench: Bench) -> None:
    started = asyncio.Event()

    async def stubborn() -> str:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done anyway"

    token = bench.start(stubborn)
    await started.wait()
    bench.executor.cancel(CancelActivity(token, "cancel_requested"))
    assert (await bench.node.message(ActivityCompletion)).result == Payload(b'"done anyway"')


@pytest.mark.parametrize("reason", ["timed_out", "closed"])
async def test_an_attempt_that_was_given_up_frees_its_slot_when_it_ends(bench: Bench, reason: str) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    token = bench.start(wait)
    await started.wait()
    bench.executor.cancel(CancelActivity(token, reason))
    await asyncio.sleep(0)
    assert bench.node.messages == []
    release.set()
    assert await bench.node.message(ActivityEvicted) == ActivityEvicted(token)


async def test_cancelled_error_that_nobody_asked_for_is_a_failure(bench: Bench) -> None:
    async def odd() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    bench.start(odd)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.type == "CancelledError"
    assert "nobody asked" in failure.message


async def test_an_attempt_that_is_cancelled_by_its_own_code_has_failed(bench: Bench) -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    bench.start(cancels_itself)
    failure = (await bench.node.message(ActivityFailure)).failure
    assert failure.type == "CancelledError"
    assert "nobody asked" in failure.message


def test_attempts_that_end_with_their_loop_have_no_outcome() -> None:
    benches: list[Bench] = []

    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        benches.append(Bench())
        for _ in range(3):
            benches[0].start(wait)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert [type(each) for each in benches[0].node.messages] == [ActivityEvicted] * 3


# --- The end --------------------------------------------------------------------------------------------
async def test_stop_lets_go_of_what_has_no_outcome() -> None:
    bench = Bench()
    gate, started = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        context().heartbeat("half")
        context().heartbeat("nearly")
        await asyncio.Event().wait()

    async def finishes() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "just in time"

    def hangs() -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait()

    waiting, finishing, hanging = bench.start(wait), bench.start(finishes), bench.start(hangs)
    await started.wait()
    problems: list[object] = []
    loop.set_exception_handler(lambda _, problem: problems.append(problem))
    await bench.executor.stop(grace=0.01)
    late = bench.start(wait)
    gate.set()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("perdure-activity")]
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])  # what comes now, comes too late
    assert problems == []
    assert bench.node.messages == [
        ActivityHeartbeat(waiting, (Payload(b'"half"'),)),
        ActivityHeartbeat(waiting, (Payload(b'"nearly"'),)),
        ActivityEvicted(waiting),
        ActivityCompletion(finishing, Payload(b'"just in time"')),
        ActivityEvicted(hanging),
        ActivityEvicted(late, begun=False),
    ]


async def test_stop_says_what_never_began() -> None:
    bench, gate, busy, ran = Bench(slots=1), threading.Event(), asyncio.Event(), list[str]()
    loop = asyncio.get_running_loop()

    def first() -> None:
        loop.call_soon_threadsafe(busy.set)
        gate.wait()

    def plain() -> None:
        ran.append("plain")

    async def coroutine() -> None:
        ran.append("coroutine")

    begun = bench.start(first)
    await busy.wait()
    never = [bench.start(plain), bench.start(coroutine)]
    loop.call_soon(gate.set)
    await bench.executor.stop()
    assert bench.node.messages == [
        *(ActivityEvicted(token, begun=False) for token in never), ActivityCompletion(begun, Payload(b"null")),
    ]  # fmt: skip
    assert ran == []


def _ignore(*_: object) -> None: ...


async def interrupts_async() -> None:
    raise KeyboardInterrupt


def interrupts_plain() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", [interrupts_async, interrupts_plain])
def test_an_interrupt_is_never_an_outcome(function: Callable[..., object]) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_ignore)  # that nobody retrieves the interrupt from the task is no news
    benches: list[Bench] = []

    async def main() -> None:
        benches.append(Bench())
        benches[0].start(function)
        await asyncio.Event().wait()

    main_task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main_task)
    assert [type(each) for each in benches[0].node.messages] == [ActivityEvicted]
    main_task.cancel()
    loop.run_until_complete(asyncio.wait([main_task]))
    loop.run_until_complete(benches[0].executor.stop())
    loop.close()


# --- Everything at once ---------------------------------------------------------------------------------
OUTCOMES = (ActivityCompletion, ActivityFailure, ActivityCancellation, ActivityEvicted)


@pytest.mark.parametrize("seed", range(20))
async def test_each_attempt_has_exactly_one_outcome(seed: int) -> None:
    """Coroutines and threads that return, raise, beat, wait and are cancelled at random, and then a stop."""
    dice, bench, gate = random.Random(seed), Bench(slots=8), threading.Event()

    async def returns(step: int) -> int:
        context().heartbeat(step)
        return step

    async def waits(steps: int) -> None:
        for step in range(steps):
            context().heartbeat(step)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async def raises(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        raise LookupError

    def returns_plain(step: int) -> int:
        context().heartbeat(step)
        return step

    def polls(_: int) -> None:
        while not context().cancelled and not gate.is_set():
            gate.wait(0.001)
        raise asyncio.CancelledError

    kinds = (returns, waits, raises, returns_plain, polls)
    tokens: list[ActivityToken] = []
    for _ in range(200):
        tokens.append(bench.start(dice.choice(kinds), dice.randrange(5)))
        if dice.random() < 0.5:
            reason = dice.choice(("cancel_requested", "timed_out", "closed"))
            bench.executor.cancel(CancelActivity(dice.choice(tokens), reason))
        if dice.random() < 0.3:
            await asyncio.sleep(0)
    await bench.executor.stop()
    gate.set()
    ended = [message.token for message in bench.node.messages if isinstance(message, OUTCOMES)]
    assert sorted(token.scheduled_event_id for token in ended) == [token.scheduled_event_id for token in tokens]
    beaten_after = {
        message.token
        for index, message in enumerate(bench.node.messages)
        if isinstance(message, ActivityHeartbeat)
        and any(isinstance(each, OUTCOMES) and each.token == message.token for each in bench.node.messages[:index])
    }
    assert beaten_after == set()  # no attempt beats after its end
