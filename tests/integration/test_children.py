"""Child workflows."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    ApplicationError,
    NotFound,
    RetryPolicy,
    WorkflowAlreadyStarted,
    WorkflowFailed,
    WorkflowTerminated,
    embedded,
    workflow,
)
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, described, event_names, failing_task
from tests.integration.work import Gate, echo, wait_at


class Broken(Exception):
    def __init__(self, part: str) -> None:
        super().__init__(f"{part} is broken")
        self.part = part


@workflow(name="children.leaf", failure_exceptions=(Broken,))
async def leaf(text: str) -> str:
    if text == "broken":
        raise Broken("leaf")
    return (await echo(text)).upper()


@workflow(name="children.waiting")
async def waiting(gate: str) -> str:
    return await wait_at(gate)


@workflow(name="children.Tree")
class Tree:
    def __init__(self, depth: int) -> None:
        self.depth = depth

    async def run(self) -> int:
        if self.depth == 0:
            return 1
        halves = await asyncio.gather(workflow.run(Tree(self.depth - 1)), workflow.start(Tree(self.depth - 1)))
        return sum(halves)


async def test_children_give_their_results(engine: Engine) -> None:
    @workflow(name="children.parent")
    async def parent() -> list[str]:
        awaited = await leaf("a")
        handle = leaf.start("b")
        named = await leaf.options(id="named-child")("c")
        return [awaited, await handle, named, await workflow.run(leaf("d"), id="other-child")]

    async with engine.open() as client:
        handle = await client.start(parent(), id="parent")
        assert await handle.result() == ["A", "B", "C", "D"]
        assert await client.get("named-child", leaf).result() == "C"
        assert (await client.get("other-child").describe()).parent_id == "parent"
        assert "ChildWorkflowExecutionCompleted" in await event_names(handle)


async def test_a_tree_of_children(client: Client) -> None:
    assert await client.run(Tree(4)) == 16


async def test_a_failing_child_raises_its_own_exception(client: Client) -> None:
    @workflow(name="children.catching")
    async def catching() -> str:
        try:
            await leaf("broken")
        except Broken as error:
            return error.part
        return ""

    @workflow(name="children.not_catching")
    async def not_catching() -> str:
        return await leaf("broken")

    assert await client.run(catching()) == "leaf"
    with pytest.raises(Broken) as caught:
        await client.run(not_catching())
    assert caught.value.part == "leaf"


async def test_a_taken_id_fails_the_start_of_a_child(client: Client) -> None:
    @workflow(name="children.colliding")
    async def colliding() -> str:
        try:
            await waiting.options(id="occupied")("x")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    Gate.named("occupied")
    await client.start(waiting("occupied"), id="occupied")
    assert "occupied" in await client.run(colliding())


async def test_a_child_can_be_cancelled_and_terminated(client: Client) -> None:
    @workflow(name="children.cancelling")
    async def cancelling(gate: str) -> str:
        child = waiting.options(id=f"child-{gate}").start(gate)
        await workflow.receive("cancel", object)
        child.cancel()
        try:
            await child
        except asyncio.CancelledError:
            await workflow.receive("end", object)  # its end would terminate the child
            return "cancelled"
        return ""

    @workflow(name="children.watching")
    async def watching(gate: str) -> str:
        try:
            return await waiting.options(id=f"child-{gate}")(gate)
        except WorkflowTerminated as error:
            return f"terminated: {error}"

    gate = Gate.named("cancel")
    handle = await client.start(cancelling("cancel"))
    await gate.reached.wait()
    await handle.signal("cancel")
    await gate.cancelled.wait()
    assert (await described(client.get("child-cancel"), lambda d: d.status != "Running")).status == "Canceled"
    await handle.signal("end")
    assert await handle.result() == "cancelled"

    gate = Gate.named("terminate")
    handle = await client.start(watching("terminate"))
    await gate.reached.wait()
    await client.get("child-terminate").terminate("by hand")
    assert (await handle.result()).startswith("terminated: child workflow 'child-terminate' was terminated: by hand")


async def test_children_end_with_their_parent(engine: Engine) -> None:
    @workflow(name="children.abandoning")
    async def abandoning() -> str:
        waiting.options(id="left-behind").start("left")
        await workflow.receive("end", object)
        return "done"

    gate = Gate.named("left")
    async with engine.open() as client:
        handle = await client.start(abandoning())
        await gate.reached.wait()
        await handle.signal("end")
        assert await handle.result() == "done"
        with pytest.raises(WorkflowTerminated):
            await client.get("left-behind", waiting).result()
        await gate.cancelled.wait()


async def test_a_child_of_a_class_may_be_left_behind(client: Client) -> None:
    @workflow(name="children.Staying")
    class Staying:
        async def run(self) -> str:
            return await workflow.receive("go", str)

    @workflow(name="children.leaving")
    async def leaving() -> str:
        return workflow.start(Staying(), parent_close_policy="abandon", memo={"team": "web"}).id

    child = client.get(await client.run(leaving()), Staying)
    assert (await child.describe()).memo == {"team": "web"}
    await child.signal("go", "home")
    assert await child.result() == "home"


async def test_a_child_that_fails_is_tried_again(engine: Engine) -> None:
    @workflow(name="children.third_time", failure_exceptions=(Broken,))
    async def third_time(attempts: int) -> int:
        await asyncio.sleep(0.01)
        if workflow.info().attempt < attempts:
            raise Broken("leaf")
        return workflow.info().attempt

    thrice = RetryPolicy(initial_interval="10ms", maximum_attempts=3)

    @workflow(name="children.trying")
    async def trying(attempts: int) -> int:
        return await third_time.options(id=f"tried-{attempts}", retry_policy=thrice)(attempts)

    async with engine.open() as client:
        handle = await client.start(trying(3))
        assert await handle.result() == 3
        ends = [name for name in await event_names(handle) if name.startswith("ChildWorkflowExecution")]
        assert ends == ["ChildWorkflowExecutionStarted", "ChildWorkflowExecutionCompleted"]
        with pytest.raises(Broken):
            await client.run(trying(4))


async def test_an_id_that_a_child_may_not_use_again(client: Client) -> None:
    @workflow(name="children.once")
    async def once() -> str:
        first = await leaf.options(id="once", id_reuse_policy="allow_duplicate_failed_only")("a")
        try:
            return await workflow.run(leaf("b"), id="once", id_reuse_policy="allow_duplicate_failed_only")
        except WorkflowAlreadyStarted:
            return first

    assert await client.run(once()) == "A"


async def test_a_child_outlives_a_restart(engine: Engine) -> None:
    @workflow(name="children.restarted")
    async def restarted() -> str:
        return await waiting.options(id="kid")("restart")

    gate = Gate.named("restart")
    async with engine.open() as client:
        await client.start(restarted(), id="p")
        await gate.reached.wait()
    gate.open()
    async with engine.open() as client:
        assert await client.get("p", restarted).result() == "restart"


async def test_unhandled_errors_of_a_child_are_failures_of_the_parent(client: Client) -> None:
    @workflow(name="children.refusing")
    async def refusing() -> None:
        raise ApplicationError("refused", type="Refused")

    @workflow(name="children.passing_on")
    async def passing_on() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refusing())

    with pytest.raises((ApplicationError, ExceptionGroup, WorkflowFailed), match=r"refused|unhandled"):
        await client.run(passing_on())
    with pytest.raises(NotFound):
        await client.get("no-such-child").result()


async def test_a_taken_id_is_told_as_the_client_is_told(client: Client) -> None:
    @workflow(name="children.taken")
    async def taken() -> None:
        await workflow.receive("go", object)

    @workflow(name="children.takes")
    async def takes() -> str:
        try:
            await workflow.run(taken(), id="taken")
        except WorkflowAlreadyStarted as error:
            return str(error)
        return "started"

    await client.start(taken(), id="taken")
    said = await client.run(takes())
    assert "'taken' is taken by a running children.taken" in said
    assert said.endswith("use another id")


async def test_a_client_inside_a_workflow_is_refused(client: Client) -> None:
    @workflow(name="children.inner")
    async def inner() -> None: ...

    @workflow(name="children.uses_a_client")
    async def uses_a_client() -> None:
        await client.start(inner(), id="inner")

    @workflow(name="children.opens_an_engine")
    async def opens_an_engine() -> None:
        async with embedded(":memory:"):
            pass

    failure, location, _ = await failing_task(await client.start(uses_a_client(), id="uses-a-client"))
    assert "workflow.start(" in failure
    assert location.startswith(__file__)
    failure, _, _ = await failing_task(await client.start(opens_an_engine(), id="opens-an-engine"))
    assert "embedded() can't be used inside a workflow" in failure
    assert {row.id async for row in client.list()} == {"uses-a-client", "opens-an-engine"}


async def test_each_run_of_a_chain_begins_children_of_its_own(client: Client) -> None:
    """A child may outlive the run that began it: the next run's first child is another one."""

    @workflow(name="children.rolling")
    async def rolling(left: int) -> list[str]:
        waiting.options(parent_close_policy="abandon").start(f"rolling-{left}")
        if left:
            workflow.continue_as_new(rolling(left - 1))
        return ["begun"]

    gates = [Gate.named(f"rolling-{left}") for left in (1, 0)]
    assert await client.run(rolling(1)) == ["begun"]
    for gate in gates:
        await gate.reached.wait()
        gate.open()
