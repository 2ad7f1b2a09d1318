"""Pauses of workflows and activities, resets of activities, and other options for them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from perdure import InvalidRequest, NotFound, RetryPolicy, activity, workflow
from perdure.engine.core.decisions import messages
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, activity_with, described
from tests.integration.work import Gate, echo, wait_at


@workflow(name="pauses.Counter")
class Counter:
    def __init__(self, goal: int = 3) -> None:
        self.count, self.goal = 0, goal

    async def run(self) -> int:
        await workflow.wait_until(lambda: self.count >= self.goal)
        return self.count

    @workflow.signal
    def add(self) -> None:
        self.count += 1

    @workflow.update
    def put(self, n: int) -> int:
        self.count = n
        return n

    @workflow.query
    def seen(self) -> int:
        return self.count


@workflow(name="pauses.two_steps")
async def two_steps(gate: str) -> list[str]:
    first = await wait_at(gate)
    return [first, await echo("second")]


async def test_a_paused_workflow_hears_of_nothing_until_it_is_resumed(engine: Engine) -> None:
    async with engine.open() as client:
        handle = await client.start(Counter(5), id="counter")
        await handle.signal(Counter.add)
        assert await handle.query(Counter.seen) == 1
        await handle.pause("too fast")
        await handle.signal(Counter.add)
        assert await handle.query(Counter.seen) == 1
        description = await handle.describe()
        assert description.paused is not None
        assert (description.paused.reason, description.paused.identity) == ("too fast", client.identity)
    async with engine.open() as client:
        handle = client.get("counter", Counter)
        await handle.signal(Counter.add)
        assert await handle.query(Counter.seen) == 1
        updating = asyncio.create_task(handle.update(Counter.put, 5))
        await described(handle, lambda d: len(d.pending_updates) == 1)
        await handle.resume("slower now")
        assert await updating == 5
        assert await handle.result() == 5
        actions = [(each.action, each.note) for each in (await handle.describe()).interventions]
        assert actions == [("paused", "too fast"), ("resumed", "slower now")]


async def test_a_repeated_pause_changes_nothing_after_the_resume(client: Client) -> None:
    handle = await client.start(Counter(1))
    once = handle.options(request_id="once")
    await once.pause()
    await handle.resume()
    await asyncio.gather(once.pause(), once.pause())
    assert (await handle.describe()).paused is None
    await asyncio.gather(handle.options(request_id="p").pause(), handle.options(request_id="r").resume(), once.pause())
    await handle.resume()
    await handle.signal(Counter.add)
    assert await handle.result() == 1


async def test_a_running_attempt_goes_on_while_its_workflow_is_paused(client: Client) -> None:
    gate = Gate.named("paused")
    handle = await client.start(two_steps("paused"))
    await gate.reached.wait()
    await handle.pause()
    gate.open()
    await described(handle, lambda d: not d.activities and d.workflow_task is not None)
    await handle.resume()
    assert await handle.result() == ["paused", "second"]


async def test_a_workflow_that_was_never_begun_is_paused(client: Client) -> None:
    handle = await client.start(Counter(), start_delay="1h")
    await handle.pause()
    await handle.cancel()
    await handle.resume()
    await described(handle, lambda d: d.status == "Canceled")


async def test_a_paused_activity_is_not_tried_again(client: Client) -> None:
    failures: list[int] = []

    @activity(name="pauses.fails", retry_policy=RetryPolicy(initial_interval=0.001, backoff_coefficient=1))
    async def fails() -> int:
        attempt = activity.info().attempt
        if attempt < 3:
            failures.append(attempt)
            await wait_at("failing")
            raise ValueError(f"attempt {attempt}")
        return attempt

    @workflow(name="pauses.calls_it")
    async def calls_it() -> int:
        return await fails()

    gate = Gate.named("failing")
    handle = await client.start(calls_it())
    await gate.reached.wait()
    (pending,) = (await handle.describe()).activities
    await handle.pause_activity(pending.activity_id, "look at it")
    gate.open()
    paused = (await described(handle, lambda d: d.activities[0].status == "scheduled")).activities[0]
    assert paused.paused is not None and paused.paused.reason == "look at it"
    assert failures == [1]
    await handle.unpause_activity(pending.activity_id, "seen")
    assert await handle.result() == 3


async def test_an_activity_is_reset(client: Client) -> None:
    @activity(name="pauses.late", retry_policy=RetryPolicy(initial_interval="1h", maximum_attempts=2))
    async def late() -> object:
        attempt = activity.info().attempt
        if attempt < 3:
            activity.heartbeat(attempt)
            raise ValueError(f"attempt {attempt}")
        return activity.heartbeat_details(object)

    @workflow(name="pauses.calls_late")
    async def calls_late() -> object:
        return await late()

    handle = await client.start(calls_late())
    pending = await activity_with(handle, "backing_off")
    await handle.reset_activity(pending.activity_id, keep_heartbeat=True, note="again")
    pending = (await described(handle, lambda d: d.activities[0].attempt == 3)).activities[0]
    assert pending.status == "backing_off" and pending.heartbeat_details == (2,)
    await handle.reset_activity(pending.activity_id)
    assert await handle.result() is None


async def test_options_of_an_activity_are_changed(client: Client) -> None:
    handle = await client.start(elsewhere())
    pending = await activity_with(handle, "scheduled")
    await handle.update_activity_options(pending.activity_id, task_queue="default", note="moved")
    assert await handle.result() == "here"
    (done,) = (await handle.describe()).interventions
    assert (done.activity_id, done.action, done.note) == (pending.activity_id, "changed", "moved")


async def test_wrong_interventions_are_refused(client: Client) -> None:
    handle = await client.start(elsewhere())
    pending = await activity_with(handle, "scheduled")
    with pytest.raises(NotFound, match="no pending activity 'nope'"):
        await handle.pause_activity("nope")
    with pytest.raises(InvalidRequest, match="no option is given"):
        await handle.update_activity_options(pending.activity_id)
    with pytest.raises(InvalidRequest, match="MAX_REASON_LENGTH"):
        await handle.pause("x" * 5000)
    with pytest.raises(TypeError, match="retry_policy must be"):
        await handle.update_activity_options(pending.activity_id, retry_policy=cast(RetryPolicy, 3))
    with pytest.raises(TypeError, match="the reason must be text, not int"):
        await handle.pause(cast(str, 3))
    with pytest.raises(ValueError, match="task_queue must have between"):
        await handle.update_activity_options(pending.activity_id, task_queue="")
    with pytest.raises(NotFound):
        await client.get("no-such-workflow").pause()
    assert (await handle.describe()).interventions == ()


async def test_a_workflow_that_a_limit_holds_is_released(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = await client.start(Counter(), id="held")
    with monkeypatch.context() as small:
        small.setattr(messages, "MAX_HISTORY_EVENTS", 10)
        await handle.signal(Counter.add)
        assert await handle.query(Counter.seen) == 1
        await handle.signal(Counter.add)
        await described(handle, lambda d: d.hold_reason is not None)
        await handle.release(note="it may go on")
        await handle.signal(Counter.add)
        assert await handle.result() == 3


@workflow(name="pauses.elsewhere")
async def elsewhere() -> str:
    return await echo.options(task_queue="nobody-serves-this")("here")
