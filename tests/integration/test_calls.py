"""Workflows and activities in every form of call, and what crosses between them."""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

from perdure import ApplicationError, DecodeError, EncodeError, PayloadTooLarge, RetryPolicy, activity, workflow
from perdure.limits import MAX_PAYLOAD
from perdure.sdk.client.client import Client


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Parcel:
    number: int
    weight: Decimal
    sent: datetime
    key: uuid.UUID
    colour: Colour
    points: list[Point]
    body: bytes
    waits: timedelta
    note: str | None = None


@activity(name="calls.double")
async def double(n: int) -> int:
    return 2 * n


@activity(name="calls.shout")
def shout(text: str, *, marks: int = 1) -> str:
    return text.upper() + "!" * marks


@activity(name="calls.turn")
async def turn(parcel: Parcel) -> Parcel:
    assert isinstance(parcel.weight, Decimal) and isinstance(parcel.points[0], Point)
    parcel.number += 1
    return parcel


@activity(name="calls.unencodable", retry_policy=RetryPolicy(maximum_attempts=1))
async def unencodable() -> object:
    return object()


@workflow(name="calls.every_form")
async def every_form(n: int) -> list[object]:
    called = await double(n)
    handle = double.start(n + 1)
    optional = await double.options(start_to_close_timeout="1h", priority=3)(n + 2)
    plain = await shout.start("loud", marks=2)
    mapped = await double.map(range(5), concurrency=2)
    one_by_one = [value async for value in double.map([7, 8], concurrency=1)]
    return [called, await handle, optional, plain, mapped, one_by_one, handle.done()]


@workflow(name="calls.Order")
class Order:
    """A class: its input goes to `__init__`."""

    def __init__(self, first: int, *, second: int = 5) -> None:
        self.first, self.second = first, second

    async def run(self) -> int:
        return await double(self.first) + self.second


@workflow(name="calls.plain")
def plain_workflow(n: int) -> int:
    return n + 1


@workflow(name="calls.parcels")
async def parcels(parcel: Parcel) -> Parcel:
    assert isinstance(parcel.colour, Colour)
    return await turn(parcel)


async def test_every_form_of_call(client: Client) -> None:
    assert await client.run(every_form(10)) == [20, 22, 24, "LOUD!!", [0, 2, 4, 6, 8], [14, 16], True]


async def test_class_and_plain_workflows(client: Client) -> None:
    assert await client.run(Order(4, second=1)) == 9
    assert await client.run(plain_workflow(1)) == 2


async def test_an_activity_outside_a_workflow_is_the_function(client: Client) -> None:
    assert await double(3) == 6
    assert shout("a") == "A!"


async def test_values_cross_with_their_types(client: Client) -> None:
    parcel = Parcel(
        1, Decimal("0.10"), datetime(2026, 1, 2, tzinfo=UTC), uuid.UUID(int=5), Colour.BLUE,
        [Point(1, 2), Point(3)], b"\x00\xff", timedelta(hours=3),
    )  # fmt: skip
    result = await client.run(parcels(parcel))
    parcel.number += 1
    assert result == parcel


async def test_a_plain_activity_called_without_start_says_what_to_write(client: Client) -> None:
    @workflow(name="calls.blocking")
    async def blocking() -> str:
        try:
            shout("x")
        except TypeError as error:
            return str(error)
        return ""

    assert "await shout.start(…)" in await client.run(blocking())


async def test_map_keeps_to_its_concurrency(client: Client) -> None:
    running = most = 0

    @activity(name="calls.counted")
    async def counted(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return n

    @workflow(name="calls.mapping")
    async def mapping() -> list[int]:
        return await counted.map(range(12), concurrency=3)

    assert await client.run(mapping()) == list(range(12))
    assert most == 3


async def test_a_failing_map_cancels_the_rest(client: Client) -> None:
    stopped: list[int] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    @activity(name="calls.one_fails", retry_policy=RetryPolicy(maximum_attempts=1))
    async def one_fails(n: int) -> int:
        if n == 0:
            await begun.wait()
            raise ApplicationError("the first fails")
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            stopped.append(n)
            ended.set()
        return n

    @workflow(name="calls.failing_map")
    async def failing_map() -> str:
        try:
            await one_fails.map([0, 1])
        except ApplicationError as error:
            await workflow.wait_until(lambda: True)
            return str(error)
        return ""

    assert await client.run(failing_map()) == "the first fails"
    await ended.wait()
    assert stopped == [1]


async def test_a_map_whose_items_end_in_an_error_cancels_what_it_has_begun(client: Client) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @activity(name="calls.waits")
    async def waits(n: int) -> int:
        if n == 0:
            await begun.wait()
            return n
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return n

    @workflow(name="calls.failing_items")
    async def failing_items() -> str:
        def items() -> Iterator[int]:
            yield from (0, 1)
            raise LookupError("no more")

        try:
            return str([number async for number in waits.map(items(), concurrency=2)])
        except LookupError as error:
            return str(error)

    assert await client.run(failing_items()) == "no more"
    await stopped.wait()


async def test_wrong_arguments_are_refused_at_the_call(client: Client) -> None:
    with pytest.raises(TypeError, match="missing"):
        await client.start(every_form())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue, reportUnknownArgumentType]
    with pytest.raises(TypeError, match="third"):
        await client.start(Order(1, third=2))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(EncodeError):
        await client.start(every_form(object()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert [row async for row in client.list()] == []


async def test_a_payload_over_its_limit_is_refused_with_its_size(client: Client) -> None:
    @workflow(name="calls.large")
    async def large(text: str) -> int:
        try:
            await shout.start(text + text)
        except PayloadTooLarge as error:
            return int(f"{MAX_PAYLOAD:,}" in str(error))
        return 2

    with pytest.raises(PayloadTooLarge, match=f"{MAX_PAYLOAD:,}"):
        await client.start(large("x" * (MAX_PAYLOAD + 1)), id="too-large")
    assert await client.run(large("x" * (MAX_PAYLOAD // 2 + 10))) == 1


async def test_a_value_that_does_not_fit_names_the_field(client: Client) -> None:
    @activity(name="calls.wrong_type")
    async def wrong_type() -> Point:
        return {"x": "seven"}  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @workflow(name="calls.mismatch")
    async def mismatch() -> str:
        try:
            await wrong_type.options(retry_policy=RetryPolicy(maximum_attempts=1))()
        except (DecodeError, EncodeError, ApplicationError) as error:
            return str(error)
        return ""

    assert "x" in await client.run(mismatch())


async def test_an_activity_result_that_cannot_be_encoded_fails_it_at_once(client: Client) -> None:
    @workflow(name="calls.catches_encoding")
    async def catches_encoding() -> str:
        try:
            await unencodable()
        except EncodeError as error:
            return str(error)
        return ""

    assert "object" in await client.run(catches_encoding())


async def test_calls_that_can_never_run_are_told_of(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def forgets() -> None:
        double.start(1)

    await client.run(forgets())
    assert "calls activities, so they never run: calls.double" in caplog.text
