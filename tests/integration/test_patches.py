"""Code that is changed while it runs, over every kind of engine."""

from __future__ import annotations

from perdure import workflow
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow.calls import WorkflowCall, WorkflowFunction
from tests.integration.engines import Engine, event_names
from tests.integration.work import echo


def call() -> WorkflowCall[object]:
    """A call of the workflow as it is defined now."""
    return WorkflowFunction[..., object](REGISTRY.workflows["patches.flow"])()


def define(version: int) -> None:
    @workflow(name="patches.flow")
    async def flow() -> str:
        await workflow.receive("go", bool)
        if version == 0:
            return await echo("old")
        if version == 1:
            return await (echo("new") if workflow.patched("change") else echo("old"))
        if version == 2:
            workflow.deprecate_patch("change")
        return await echo("new")


async def test_deploys_of_a_patch(engine: Engine) -> None:
    define(0)
    async with engine.open() as client:
        before = await client.start(call(), id="before")
        waits = await client.start(call(), id="waits")
        await before.signal("go", True)
        assert await before.result() == "old"
    define(1)
    async with engine.open() as client:
        late = await client.start(call(), id="late")
        await late.signal("go", True)
        assert await late.result() == "new"
        assert (await event_names(late)).count("MarkerRecorded") == 1
    for version in (2, 3):
        define(version)
        async with engine.open() as client:
            waits = await client.start(call(), id=f"waits-{version}")
            await waits.signal("go", True)
            assert await waits.result() == "new"
            assert (await event_names(waits)).count("MarkerRecorded") == (version == 2)
            assert (await waits.describe()).status == "Completed"
    async with engine.open() as client:
        waits = client.get("waits")
        await waits.signal("go", True)
        assert await waits.result() == "new"
