"""Sagas over every kind of engine: what was done is undone, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import ClassVar

import pytest

from perdure import ApplicationError, RetryPolicy, WorkflowCancelled, activity, workflow
from perdure.model.events import ActivityTaskScheduled
from perdure.sdk.client.client import Client
from perdure.sdk.worker import workflows
from tests.integration.engines import Engine, activity_with
from tests.integration.work import Gate, wait_at


class NoCapacity(Exception):
    pass


class Cloud:
    """What there is, and what can't be deleted at present."""

    made: ClassVar[list[str]] = []
    undone: ClassVar[list[str]] = []
    stuck: ClassVar[dict[str, Exception]] = {}


@pytest.fixture(autouse=True)
def empty_cloud() -> None:
    Cloud.made.clear()
    Cloud.undone.clear()
    Cloud.stuck.clear()


@activity(name="sagas.create")
async def create(name: str) -> str:
    Cloud.made.append(name)
    return name


@activity(name="sagas.delete", retry_policy=RetryPolicy(maximum_attempts=1, non_retryable=(LookupError,)))
async def delete(name: str, force: bool = False) -> None:
    if name in Cloud.stuck and not force:
        raise Cloud.stuck[name]
    Cloud.made.remove(name)


@activity(name="sagas.refuse", retry_policy=RetryPolicy(maximum_attempts=1))
async def refuse() -> None:
    raise NoCapacity("no capacity")


@workflow(name="sagas.provision")
async def provision(gate: str = "") -> list[str]:
    async with workflow.saga() as saga:
        vpc = await saga.do(create("vpc"), undo=delete)
        cluster = await saga.do(create("cluster"), undo=lambda name: delete(name, force=True))
        if gate:
            await wait_at(gate)
        await refuse()
    return [vpc, cluster]


async def test_a_failure_is_undone(client: Client) -> None:
    with pytest.raises(NoCapacity):
        await client.run(provision())
    assert Cloud.made == []


async def test_a_cancellation_is_undone(client: Client) -> None:
    gate = Gate.named("saga")
    handle = await client.start(provision("saga"))
    await gate.reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    assert Cloud.made == []


@activity(name="sagas.create_despite")
async def create_despite(gate: str) -> str:
    with suppress(asyncio.CancelledError):
        await wait_at(gate)
    Cloud.made.append("vpc")
    return "vpc"


@workflow(name="sagas.provision_despite")
async def provision_despite(gate: str) -> str:
    async with workflow.saga() as saga:
        return await saga.do(create_despite(gate), undo=delete)


async def test_a_last_step_that_is_done_although_it_was_cancelled_is_undone(client: Client) -> None:
    gate = Gate.named("anyway")
    handle = await client.start(provision_despite("anyway"))
    await gate.reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    assert Cloud.made == []


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("all attempts are used up"),
        KeyError("the policy does not retry this"),
        ApplicationError("it says so itself", non_retryable=True),
    ],
)
async def test_an_undo_holds_until_it_is_released(client: Client, error: Exception) -> None:
    Cloud.stuck["vpc"] = error
    handle = await client.start(provision())
    held = await activity_with(handle, "held")
    assert held.activity_type == "sagas.delete"
    assert Cloud.made == ["vpc"]
    Cloud.stuck.clear()
    await handle.release(note="unlocked")
    with pytest.raises(NoCapacity):
        await handle.result()
    assert Cloud.made == []


async def test_a_person_can_do_what_an_undo_can_not(client: Client) -> None:
    Cloud.stuck["vpc"] = ConnectionError("for ever")
    handle = await client.start(provision())
    held = await activity_with(handle, "held")
    await handle.complete_activity(held.activity_id, None, note="deleted by hand")
    with pytest.raises(NoCapacity):
        await handle.result()


async def test_a_person_can_give_an_undo_up(client: Client) -> None:
    Cloud.stuck["vpc"] = ConnectionError("for ever")
    handle = await client.start(provision())
    held = await activity_with(handle, "held")
    await handle.fail_activity(held.activity_id, "it may stay")
    with pytest.raises(NoCapacity) as caught:
        await handle.result()
    assert any("The undo delete failed: ApplicationError: it may stay" in note for note in caught.value.__notes__)


async def test_undos_go_on_after_a_restart(engine: Engine) -> None:
    Cloud.stuck["vpc"] = ConnectionError("not now")
    async with engine.open() as client:
        handle = await client.start(provision(), id="saga")
        await activity_with(handle, "held")
    Cloud.stuck.clear()
    async with engine.open() as client:
        handle = client.get("saga", provision)
        await handle.release()
        with pytest.raises(NoCapacity):
            await handle.result()
    assert Cloud.made == []


async def test_a_local_step_that_is_cut_off_is_undone_if_it_was_done(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "LOCAL_ACTIVITY_REPORT", 0.002)  # of ten seconds
    begun = asyncio.Event()

    @activity(name="sagas.create_anyway")
    async def create_anyway(name: str) -> str:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await create(name)

    @workflow(name="sagas.local_step")
    async def local_step() -> None:
        async with workflow.saga() as saga:
            await saga.do(create_anyway.local("vpc"), undo=delete)
            await asyncio.sleep(3600)

    handle = await client.start(local_step())
    await begun.wait()
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    if engine.kind in ("nodes", "postgres"):
        return  # another node takes the request, so what the local activity has come to is not recorded
    assert Cloud.made == []
    assert "sagas.delete" in [x.activity_type async for x in handle.history() if isinstance(x, ActivityTaskScheduled)]


async def test_a_plain_workflow_undoes(engine: Engine) -> None:
    @workflow(name="sagas.plain")
    def plain() -> None:
        with workflow.saga() as saga:
            workflow.block(saga.do(create.start("vpc"), undo=delete))
            workflow.block(saga.do(create.start("cluster"), undo=lambda name: delete.start(name, force=True)))
            refuse.start().result()

    Cloud.stuck["vpc"] = ConnectionError("not now")
    async with engine.open() as client:
        handle = await client.start(plain(), id="plain")
        await activity_with(handle, "held")
    Cloud.stuck.clear()
    async with engine.open() as client:
        handle = client.get("plain", plain)
        await handle.release()
        with pytest.raises(NoCapacity):
            await handle.result()
    assert Cloud.made == []


async def provision_and_wait(ready: asyncio.Event) -> None:
    async with workflow.saga() as saga:
        await saga.do(create("vpc"), undo=delete)
        ready.set()
        await workflow.receive("go on", str)


@workflow(name="sagas.leaves")
async def leaves(how: str) -> str:
    ready = asyncio.Event()
    other = asyncio.create_task(provision_and_wait(ready))
    await ready.wait()
    if how == "fails":
        await asyncio.gather(other, refuse())
    if how == "goes on":
        workflow.continue_as_new(leaves("returns"))
    return "returned"


@pytest.mark.parametrize("how", ["fails", "returns"])
async def test_a_task_that_the_workflow_leaves_undoes_its_saga(
    client: Client, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await client.start(leaves(how))
    if how == "fails":
        with pytest.raises(NoCapacity):
            await handle.result()
    else:
        assert await handle.result() == "returned"
    assert Cloud.made == []
    assert "other tasks have sagas open" in caplog.text and "test_sagas.py:" in caplog.text


async def test_a_run_that_continues_as_new_leaves_open_sagas_and_says_so(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert await client.run(leaves("goes on")) == "returned"
    assert Cloud.made == ["vpc"]  # of the first run; the second has undone its own
    assert "continues as new while other tasks have sagas open" in caplog.text


async def test_an_undo_of_a_task_that_is_left_holds_the_end_until_it_is_released(client: Client) -> None:
    Cloud.stuck["vpc"] = KeyError("not now")
    handle = await client.start(leaves("returns"))
    await activity_with(handle, "held")
    Cloud.stuck.clear()
    await handle.release(note="unlocked")
    assert await handle.result() == "returned"
    assert Cloud.made == []


@workflow(name="sagas.Environment")
class Environment:
    def __init__(self, of_its_own: bool) -> None:
        self.of_its_own, self.ready = of_its_own, asyncio.Event()

    async def run(self) -> None:
        if self.of_its_own:
            await provision_and_wait(self.ready)
        await workflow.receive("end", str)

    @workflow.signal
    async def provision(self) -> None:
        await provision_and_wait(self.ready)

    @workflow.signal
    async def fail(self) -> None:
        await self.ready.wait()
        raise ApplicationError("a handler fails the run")

    @workflow.update
    async def provisioned(self) -> bool:
        return await self.ready.wait()


async def test_a_handlers_saga_is_undone_when_run_returns(client: Client) -> None:
    handle = await client.start(Environment(False))
    await handle.signal(Environment.provision)
    assert await handle.update(Environment.provisioned)
    await handle.signal("end", "")
    await handle.result()
    assert Cloud.made == []


async def test_a_saga_is_undone_when_a_handler_fails_the_run(client: Client) -> None:
    handle = await client.start(Environment(True))
    await handle.signal(Environment.fail)
    with pytest.raises(ApplicationError, match="a handler fails the run"):
        await handle.result()
    assert Cloud.made == []


@activity(name="sagas.delete_in_vain", schedule_to_close_timeout="1s", retry_policy=RetryPolicy(maximum_attempts=1))
async def delete_in_vain(name: str) -> None:
    await asyncio.get_running_loop().create_future()


@workflow(name="sagas.undoes_in_vain")
async def undoes_in_vain() -> None:
    async with workflow.saga() as saga:
        await saga.do(create("vpc"), undo=delete_in_vain)
        await refuse()


async def test_an_undo_that_hangs_holds_after_the_time_that_its_activity_has(client: Client) -> None:
    handle = await client.start(undoes_in_vain())
    held = await activity_with(handle, "held")
    assert held.last_failure is not None and "start_to_close timeout" in held.last_failure
    await handle.complete_activity(held.activity_id, None)
    with pytest.raises(NoCapacity):
        await handle.result()


@activity(name="sagas.note")
async def note(name: str) -> None:
    Cloud.undone.append(name)
    Cloud.made.remove(name)


@workflow(name="sagas.nested")
async def nested() -> None:
    ready = asyncio.Event()

    async def subnet() -> None:
        async with workflow.saga() as saga:
            await saga.do(create("subnet"), undo=note)
            ready.set()
            await workflow.receive("go on", str)
            await saga.do(create("never"), undo=note)

    async with workflow.saga() as saga:
        await saga.do(create("vpc"), undo=note)
        inner = asyncio.create_task(subnet())
        await ready.wait()
        await asyncio.gather(inner, refuse())


async def test_sagas_in_the_block_of_another_are_undone_before_it(client: Client) -> None:
    with pytest.raises(NoCapacity):
        await client.run(nested())
    assert Cloud.undone == ["subnet", "vpc"]
    assert Cloud.made == []


@workflow(name="sagas.generates")
async def generates() -> None:
    async def steps() -> AsyncGenerator[str]:
        async with workflow.saga() as saga:
            yield await saga.do(create("vpc"), undo=delete)

    async for _ in steps():
        raise ApplicationError("in the midst of it")


async def test_a_block_that_nobody_leaves_does_not_keep_the_run_open(client: Client) -> None:
    with pytest.raises(ApplicationError, match="in the midst of it"):
        await client.run(generates())


@workflow(name="sagas.undoes_with_a_saga")
async def undoes_with_a_saga() -> None:
    ready = asyncio.Event()

    async def undo(name: str) -> None:
        async with workflow.saga() as saga:
            await saga.do(create("ticket"), undo=note)
            ready.set()
            await wait_at("undo")
            await note("ticket")
        await note(name)

    async def other() -> None:
        async with workflow.saga() as saga:
            await saga.do(create("vpc"), undo=note)
            await saga.do(create("subnet"), undo=undo)
            await refuse()

    tasks = [asyncio.create_task(other())]
    await ready.wait()
    assert tasks


async def test_a_saga_in_an_undo_is_not_told_to_end(client: Client) -> None:
    gate = Gate.named("undo")
    handle = await client.start(undoes_with_a_saga())
    await gate.reached.wait()
    gate.open()
    await handle.result()
    assert Cloud.undone == ["ticket", "subnet", "vpc"]
