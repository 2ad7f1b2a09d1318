"""What a person did about an activity stays visible: who, when, and why."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from perdure import DecodeError, EncodeError, Hold, activity, embedded, workflow
from perdure.sdk.client.client import Client
from perdure.sdk.registry import REGISTRY
from tests.integration.engines import activity_with, described


@activity
async def wants_a_person() -> str:
    raise Hold("look at it")


@workflow
async def looked_after() -> list[str]:
    return list(await asyncio.gather(wants_a_person(), wants_a_person()))


async def test_a_description_tells_what_persons_did() -> None:
    async with embedded(":memory:", identity="ann@ops") as client:
        handle = await client.start(looked_after(), id="looked-after")
        await described(handle, lambda run: [each.status for each in run.activities] == ["held", "held"])
        await handle.complete_activity("1", "done by hand", note="it was simple")
        await handle.complete_activity("2", "so was this")
        assert await handle.result() == ["done by hand", "so was this"]
        first, second = (await handle.describe()).interventions
        assert (first.activity_id, first.action, first.note) == ("1", "completed", "it was simple")
        assert (second.activity_id, second.note) == ("2", "")
        assert first.identity == "ann@ops"
        assert first.time <= second.time


async def test_a_result_that_the_activity_could_not_have_is_refused(client: Client) -> None:
    @activity(name="interventions.counts")
    async def counts() -> int:
        raise Hold("for the test")

    @workflow(name="interventions.adds")
    async def adds() -> int:
        return await counts() + 1

    handle = await client.start(adds())
    held = await activity_with(handle, "held")
    with pytest.raises(EncodeError, match=r"the result of activity interventions\.counts doesn't fit `int`"):
        await handle.complete_activity(held.activity_id, "oops")
    await handle.complete_activity(held.activity_id, 4)
    assert await handle.result() == 5


async def test_a_result_that_nobody_could_check_can_be_caught(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    @activity(name="interventions.unknown_here")
    async def unknown_here() -> int:
        raise Hold("for the test")

    @workflow(name="interventions.catches")
    async def catches() -> int:
        try:
            return await unknown_here()
        except DecodeError:
            return await unknown_here()

    handle = await client.start(catches())
    held = await activity_with(handle, "held")
    with monkeypatch.context() as elsewhere:
        elsewhere.delitem(REGISTRY.activities, "interventions.unknown_here")
        await handle.complete_activity(held.activity_id, "oops")
    await described(handle, lambda d: [a.activity_id for a in d.activities if a.status == "held"] == ["2"])
    await handle.complete_activity("2", 4)
    assert await handle.result() == 4


async def test_an_activity_is_failed_by_an_exception_or_a_text(client: Client) -> None:
    with pytest.raises(TypeError, match="error must be an exception or a text, not int"):
        await client.get("any").fail_activity("5", cast(str, 1))
