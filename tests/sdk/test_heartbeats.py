"""Heartbeats: throttled on their way out, and never lost before a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from perdure.clock import SECOND
from perdure.errors import DecodeError
from perdure.model.payloads import Payload
from perdure.model.tasks import (
    ActivityCompletion,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityToken,
)
from tests.sdk.attempts import RUN, Bench, context


@dataclass
class Point:
    x: int
    y: int


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.executor.stop(grace=0)


async def test_the_first_heartbeat_is_sent_at_once_and_later_ones_wait(bench: Bench) -> None:
    beaten, release = asyncio.Event(), asyncio.Event()

    async def beat() -> None:
        for step in range(100):
            context().heartbeat(step)
        beaten.set()
        await release.wait()
        raise LookupError

    bench.executor.start(bench.task(beat, heartbeat_timeout=3600 * SECOND))
    await beaten.wait()
    token = ActivityToken(RUN, 1, 1)
    assert bench.node.messages == [ActivityHeartbeat(token, (Payload(b"0"),))]
    release.set()
    await bench.node.message(ActivityFailure)
    # The latest details go before the failure, so that the next attempt has them.
    assert [type(each) for each in bench.node.messages] == [ActivityHeartbeat, ActivityHeartbeat, ActivityFailure]
    assert bench.node.messages[1] == ActivityHeartbeat(token, (Payload(b"99"),))


async def test_a_heartbeat_that_waited_is_sent_when_its_time_comes(bench: Bench) -> None:
    async def beat() -> None:
        context().heartbeat("first")
        context().heartbeat("second", 2)
        await bench.node.count(2)

    bench.executor.start(bench.task(beat, heartbeat_timeout=1))
    await bench.node.message(ActivityCompletion)
    assert bench.node.messages[1] == ActivityHeartbeat(ActivityToken(RUN, 1, 1), (Payload(b'"second"'), Payload(b"2")))
    assert len(bench.node.messages) == 3


async def test_heartbeats_from_a_thread_arrive_before_its_failure(bench: Bench) -> None:
    def beat() -> None:
        for step in range(1000):
            context().heartbeat(step)
        raise LookupError

    bench.executor.start(bench.task(beat, heartbeat_timeout=3600 * SECOND))
    await bench.node.message(ActivityFailure)
    beats = [each for each in bench.node.messages if isinstance(each, ActivityHeartbeat)]
    assert beats[-1].details == (Payload(b"999"),)
    assert len(beats) <= 2
    assert isinstance(bench.node.messages[-1], ActivityFailure)


@pytest.mark.parametrize(("told", "last"), [((), b"5"), ((7,), b"7")])
async def test_a_heartbeat_without_details_keeps_those_that_were_told_last(
    bench: Bench, told: tuple[int, ...], last: bytes
) -> None:
    """By this attempt, or one before it: a helper that tells that it is alive knows nothing of them."""

    def beat() -> None:
        for each in told:
            context().heartbeat(each)
        context().heartbeat()
        raise LookupError

    bench.executor.start(bench.task(beat, heartbeat_details=(Payload(b"5"),)))
    await bench.node.message(ActivityFailure)
    *_, beat_before, _ = bench.node.messages
    assert beat_before == ActivityHeartbeat(ActivityToken(RUN, 1, 1), (Payload(last),))


async def test_a_heartbeat_without_details_may_be_the_first(bench: Bench) -> None:
    async def beat() -> None:
        context().heartbeat()

    token = bench.start(beat)
    await bench.node.message(ActivityCompletion)
    assert bench.node.messages[0] == ActivityHeartbeat(token, ())


async def test_the_next_attempt_finds_the_details(bench: Bench) -> None:
    seen: list[object] = []

    async def look() -> None:
        seen.append(context().heartbeat_details(Point))

    async def look_at_several() -> None:
        seen.append(context().heartbeat_details(tuple[Point, str]))

    async def look_at_nothing() -> None:
        seen.append(context().heartbeat_details(Point))

    point = Payload(b'{"x":1,"y":2}')
    bench.executor.start(bench.task(look, heartbeat_details=(point,)))
    bench.executor.start(bench.task(look_at_several, heartbeat_details=(point, Payload(b'"b"'))))
    bench.executor.start(bench.task(look_at_nothing))
    await bench.node.count(3)
    assert seen == [Point(1, 2), (Point(1, 2), "b"), None]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (tuple[int, str], (1, "b")),
        (tuple[object, ...], (1, "b")),
        (tuple, (1, "b")),
        (object, (1, "b")),
        (int, "the last heartbeat told 2 details, which don't fit <class 'int'>: ask for tuple[…] of 2"),
        (tuple[int], "the last heartbeat told 2 details, which don't fit tuple[int]: ask for tuple[…] of 2"),
        (tuple[str, ...], "heartbeat detail 1 doesn't fit `str`: expected `str`, got `int`"),
    ],
)
async def test_several_details_are_of_the_type_that_is_asked_for(bench: Bench, asked: object, found: object) -> None:
    seen: list[object] = []

    async def look() -> None:
        try:
            seen.append(context().heartbeat_details(asked))
        except DecodeError as error:
            seen.append(str(error))

    bench.executor.start(bench.task(look, heartbeat_details=(Payload(b"1"), Payload(b'"b"'))))
    await bench.node.count(1)
    assert seen == [found]


async def test_a_heartbeat_that_cannot_be_encoded_fails_the_attempt(bench: Bench) -> None:
    async def beat() -> None:
        context().heartbeat(1, threading.Lock())

    bench.start(beat)
    assert "heartbeat detail 2" in (await bench.node.message(ActivityFailure)).failure.message
