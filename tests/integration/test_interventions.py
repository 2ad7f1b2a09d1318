"""What a person did about an activity stays visible: who, when, and why."""

from __future__ import annotations

import asyncio

from perdure import Hold, activity, embedded, workflow
from tests.integration.engines import described


@activity
async def wants_a_person() -> str:
    raise Hold("look at it")


@workflow
async def looked_after() -> list[str]:
    return list(await asyncio.gather(wants_a_person(), wants_a_person()))


async def test_a_description_tells_what_persons_did() -> None:
    async with embedded(":memory:") as client:
        handle = await client.start(looked_after(), id="looked-after")
        await described(handle, lambda run: [each.status for each in run.activities] == ["held", "held"])
        await handle.complete_activity("1", "done by hand", note="it was simple")
        await handle.complete_activity("2", "so was this")
        assert await handle.result() == ["done by hand", "so was this"]
        first, second = (await handle.describe()).interventions
        assert (first.activity_id, first.action, first.note) == ("1", "completed", "it was simple")
        assert (second.activity_id, second.note) == ("2", "")
        assert first.identity == client.identity
        assert first.time <= second.time
