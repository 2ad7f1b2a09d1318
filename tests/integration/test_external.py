"""Signals and cancel requests between workflows, and what a parent's end means to its children."""

from __future__ import annotations

import asyncio

import pytest

from perdure import NotFound, WorkflowCancelled, WorkflowTerminated, workflow
from perdure.model.events import ParentClosePolicy
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, described, event_names
from tests.integration.work import Gate, echo, wait_at


@workflow(name="external.Listener")
class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: "end" in self.heard)
        return self.heard

    @workflow.signal
    def say(self, word: str) -> None:
        self.heard.append(word)


@workflow(name="external.speaks")
async def speaks(id: str, words: list[str]) -> str:
    other = workflow.external(id, Listener)
    try:
        for word in words:
            await other.signal(Listener.say, word)
    except NotFound as error:
        return f"{type(error).__name__}: {error}"
    return "said"


@workflow(name="external.cancels")
async def cancels(id: str, run_id: str | None = None) -> str:
    try:
        await workflow.external(id, run_id=run_id).cancel()
    except NotFound as error:
        return f"{type(error).__name__}: {error}"
    return "asked"


async def test_a_workflow_signals_another(client: Client) -> None:
    listener = await client.start(Listener(), id="listener")
    assert await client.run(speaks("listener", ["one", "two", "end"])) == "said"
    assert await listener.result() == ["one", "two", "end"]
    assert (await client.run(speaks("listener", ["late"]))).startswith("NotRunning: workflow 'listener' is not running")
    assert await client.run(speaks("nobody", ["x"])) == "NotFound: there is no workflow with the id 'nobody'"


async def test_a_child_is_signalled_by_the_id_of_its_handle(client: Client) -> None:
    @workflow(name="external.parent")
    async def parent() -> tuple[str, list[str]]:
        child = workflow.start(Listener())
        other = workflow.external(child.id, Listener)
        await other.signal(Listener.say, "one")
        await other.signal(Listener.say, "end")
        return child.id, await child

    id, heard = await client.run(parent(), id="parent")
    assert id.startswith("parent/")
    assert heard == ["one", "end"]


async def test_a_child_that_has_the_id_of_an_earlier_one_is_reached(client: Client) -> None:
    @workflow
    async def child() -> str:
        return await workflow.receive("word", str)

    @workflow
    async def parent() -> list[str]:
        heard: list[str] = []
        for word in ("first", "second"):
            each = workflow.start(child(), id="external.again")
            await workflow.external(each.id).signal("word", word)
            heard.append(await each)
        last = workflow.start(child(), id="external.again")
        await workflow.external(last.id).cancel()
        with pytest.raises(WorkflowCancelled):
            await last
        return heard

    assert await client.run(parent()) == ["first", "second"]


async def test_a_workflow_cancels_another(client: Client) -> None:
    listener = await client.start(Listener(), id="to-cancel")
    assert (await client.run(cancels("to-cancel", "no-such-run"))).startswith("NotFound: ")
    assert await client.run(cancels("to-cancel", listener.run_id)) == "asked"
    with pytest.raises(WorkflowCancelled):
        await listener.result()
    assert (await client.run(cancels("to-cancel"))).startswith("NotRunning: ")
    assert (await client.run(cancels("nobody"))).startswith("NotFound: ")


async def test_what_was_sent_survives_a_restart(engine: Engine) -> None:
    @workflow(name="external.waits_between")
    async def waits_between(gate: str) -> None:
        other = workflow.external("restarted", Listener)
        await other.signal(Listener.say, "one")
        await wait_at(gate)
        await other.signal(Listener.say, "end")

    gate = Gate.named("external")
    async with engine.open() as client:
        await client.start(Listener(), id="restarted")
        await client.start(waits_between("external"), id="sender")
        await gate.reached.wait()
    gate.open()
    async with engine.open() as client:
        await client.get("sender", waits_between).result()
        assert await client.get("restarted", Listener).result() == ["one", "end"]


# --- Children -------------------------------------------------------------------------------------------
@workflow(name="external.rolls")
async def rolls(gate: str, rolled: bool = False) -> None:
    """Continues as new once, and then waits."""
    if not rolled:
        workflow.continue_as_new(rolls(gate, True))
    try:
        await wait_at(gate)
    finally:
        await echo("cleaned up")


@workflow(name="external.has_child")
async def has_child(policy: ParentClosePolicy, gate: str) -> None:
    rolls.options(id=f"rolling-{gate}", parent_close_policy=policy).start(gate)
    await workflow.receive("end", object)


@pytest.mark.parametrize("policy", ["terminate", "request_cancel", "abandon"])
async def test_a_parents_end_reaches_a_child_that_continued_as_new(client: Client, policy: ParentClosePolicy) -> None:
    gate = Gate.named(policy)
    handle = await client.start(has_child(policy, policy))
    await gate.reached.wait()
    await handle.signal("end")
    await handle.result()
    child = client.get(f"rolling-{policy}", rolls)
    if policy == "terminate":
        with pytest.raises(WorkflowTerminated):
            await child.result()
    elif policy == "request_cancel":
        with pytest.raises(WorkflowCancelled):
            await child.result()
        assert "ActivityTaskCompleted" in await event_names(client.get(child.id))
    else:
        assert (await child.describe()).status == "Running"
        gate.open()
        await child.result()


async def test_cancelling_reaches_a_child_that_continued_as_new(client: Client) -> None:
    @workflow(name="external.awaits_child")
    async def awaits_child(gate: str) -> str:
        try:
            await rolls.options(id="rolling-child")(gate)
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    gate = Gate.named("rolling")
    handle = await client.start(awaits_child("rolling"))
    await gate.reached.wait()
    await handle.cancel()
    assert await handle.result() == "cancelled"
    assert (await described(client.get("rolling-child"), lambda d: d.status != "Running")).status == "Canceled"


async def test_an_id_that_was_taken_over_is_not_the_childs(client: Client) -> None:
    gate = Gate.named("taken-over")
    parent = await client.start(has_child("terminate", "taken-over"))
    await gate.reached.wait()
    await client.get("rolling-taken-over").terminate("make room")
    other = await client.start(Listener(), id="rolling-taken-over")
    await parent.signal("end")
    await parent.result()
    await other.signal(Listener.say, "end")
    assert await other.result() == ["end"]
