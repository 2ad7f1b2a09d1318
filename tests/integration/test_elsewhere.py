"""Activities that are completed from elsewhere than the worker that began them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from perdure import (
    ApplicationError,
    AttemptState,
    EncodeError,
    Hold,
    InvalidRequest,
    NotFound,
    NotRunning,
    RetryPolicy,
    activity,
    workflow,
)
from perdure.model.requests import SettleAttempt
from perdure.sdk.activity.tokens import decode_token
from perdure.sdk.client.client import Client
from perdure.sdk.converter import encode
from tests.integration.engines import Engine, activity_with, described, event_names

ONCE = RetryPolicy(maximum_attempts=1)


class Desk:
    """Where activities leave their tokens for those who complete them."""

    def __init__(self) -> None:
        self.tokens: asyncio.Queue[str] = asyncio.Queue()


desk = Desk()


@pytest.fixture(autouse=True)
def fresh_desk() -> None:
    desk.tokens = asyncio.Queue()


@activity(name="elsewhere.approval", retry_policy=RetryPolicy(initial_interval="1ms"))
async def approval(amount: int) -> str:
    desk.tokens.put_nowait(activity.info().task_token)
    raise activity.CompleteLater()


@activity(name="elsewhere.plain", retry_policy=RetryPolicy(initial_interval="1ms"))
def plain_approval() -> str:
    raise activity.CompleteLater


@workflow(name="elsewhere.order")
async def order(amount: int) -> str:
    return await approval(amount)


@workflow(name="elsewhere.plain_order")
async def plain_order() -> str:
    return await plain_approval.start()


async def test_an_attempt_is_completed_by_its_token(client: Client) -> None:
    handle = await client.start(order(5))
    token = await desk.tokens.get()
    pending = (await described(handle, lambda d: bool(d.activities) and d.activities[0].detached)).activities[0]
    assert (pending.status, pending.worker) == ("started", None)
    await client.activity(token).complete("ann")
    assert await handle.result() == "ann"
    with pytest.raises(NotRunning):
        await client.activity(token).complete("bob")


async def test_an_attempt_is_completed_before_it_has_said_so(client: Client) -> None:
    @activity(name="elsewhere.quick")
    async def quick() -> int:
        await client.activity(activity.info().task_token).complete(7)
        raise activity.CompleteLater()

    @workflow(name="elsewhere.quickly")
    async def quickly() -> int:
        return await quick()

    assert await client.run(quickly()) == 7


async def test_it_survives_its_worker(engine: Engine) -> None:
    async with engine.open() as client:
        handle = await client.start(order(5), id="o")
        token = await desk.tokens.get()
        await described(handle, lambda d: d.activities[0].detached)
        assert await client.activity(token).heartbeat("half", 2) == AttemptState()
    async with engine.open() as client:
        handle = client.get("o", order)
        assert await client.activity(token).heartbeat() == AttemptState()  # alive, and no further
        pending = (await handle.describe()).activities[0]
        assert (pending.attempt, pending.status, pending.heartbeat_details) == (1, "started", ("half", 2))
        await client.activity(token).complete("bob")
        assert await handle.result() == "bob"
    assert desk.tokens.empty()


async def test_a_failure_is_followed_by_another_attempt_with_another_token(client: Client) -> None:
    handle = await client.start(order(5))
    first = await desk.tokens.get()
    await client.activity(first).fail("not today")
    second = await desk.tokens.get()
    with pytest.raises(NotFound, match=r"attempt 1 of activity '1' of workflow .* is not running"):
        await client.activity(first).complete("late")
    await client.activity(second).fail(ApplicationError("never", non_retryable=True))
    with pytest.raises(ApplicationError, match="never"):
        await handle.result()


async def test_a_repeated_report_counts_once(client: Client) -> None:
    handle = await client.start(order(5))
    place = decode_token(await desk.tokens.get()).attempt
    request = SettleAttempt(
        "default", handle.id, place.run.run_id, "once", encode("ann", "result"), None, "", place.scheduled_event_id, 1
    )
    for _ in range(2):
        await client.service.call(request)
    assert await handle.result() == "ann"
    await client.service.call(request)
    assert (await event_names(handle)).count("ActivityTaskCompleted") == 1


async def test_it_is_completed_by_its_id_also_from_a_thread(client: Client) -> None:
    handle = await client.start(plain_order())
    pending = await described(handle, lambda d: bool(d.activities) and d.activities[0].detached)
    attempt = handle.activity(pending.activities[0].activity_id)
    with pytest.raises(EncodeError, match=r"the result of activity elsewhere\.plain doesn't fit `str`"):
        await attempt.complete(5)
    await attempt.fail(Hold("look at it"))
    assert (await activity_with(handle, "held")).hold_reason == "look at it"
    with pytest.raises(NotFound, match="is held: no attempt of it is running"):
        await attempt.complete("x")
    await handle.release()
    await described(handle, lambda d: bool(d.activities) and d.activities[0].detached)
    await handle.complete_activity(pending.activities[0].activity_id, "by hand")
    assert await handle.result() == "by hand"


async def test_who_heartbeats_hears_that_it_is_to_stop(client: Client) -> None:
    @workflow(name="elsewhere.gives_up")
    async def gives_up() -> str:
        try:
            return await approval.options(cancellation_type="wait")(5)
        except asyncio.CancelledError:
            return "cancelled"

    handle = await client.start(gives_up())
    attempt = client.activity(await desk.tokens.get())
    with pytest.raises(InvalidRequest, match="nobody asked activity '1' to stop"):
        await attempt.cancelled()
    await handle.pause_activity("1")
    assert await attempt.heartbeat() == AttemptState(paused=True)
    await handle.reset_activity("1")
    await handle.cancel()
    state = await attempt.heartbeat()
    while not state.cancel_requested:  # until the code has asked for it
        state = await attempt.heartbeat()
    assert state == AttemptState(cancel_requested=True, paused=True, reset=True)
    await attempt.cancelled()
    assert await handle.result() == "cancelled"


async def test_its_timeouts_hold(client: Client) -> None:
    @workflow(name="elsewhere.in_time")
    async def in_time() -> str:
        try:
            return await approval.options(start_to_close_timeout="50ms", retry_policy=ONCE)(5)
        except TimeoutError:
            return "too late"

    handle = await client.start(in_time())
    token = await desk.tokens.get()
    assert await handle.result() == "too late"
    with pytest.raises(NotRunning):
        await client.activity(token).heartbeat()


async def test_what_is_no_token_is_refused(client: Client) -> None:
    for wrong in ("", "nonsense", "ä", "AAAA"):
        with pytest.raises(ValueError, match="is no task token"):
            client.activity(wrong)
    with pytest.raises(TypeError, match="the task token must be text, not int"):
        client.activity(cast(str, 5))
    await client.start(order(5))
    token = await desk.tokens.get()
    with pytest.raises(ValueError, match="the task token is of namespace 'default'; this client is of 'other'"):
        Client(client.service, namespace="other").activity(token)
    attempt = client.activity(token)
    with pytest.raises(EncodeError):
        await attempt.complete(object())
    with pytest.raises(EncodeError):
        await attempt.heartbeat(object())
    with pytest.raises(TypeError, match="error must be an exception or a text, not int"):
        await attempt.fail(cast(str, 5))
    await attempt.complete("ann")
