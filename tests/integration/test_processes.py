"""Several processes over one store, whose code differs: each is given only what it has the code for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from perdure import activity, workflow
from perdure.clock import SystemClock
from perdure.embedded import Embedded
from perdure.engine.storage.api import Shared
from perdure.engine.storage.memory import MemoryStore
from perdure.model.events import ActivityTaskStarted, HistoryEvent, WorkflowTaskCompleted
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.worker.worker import Worker
from tests.integration.engines import described, member


@activity(name="processes.here")
async def here(n: int) -> int:
    return n + 1


@activity(name="processes.there")
async def there(n: int) -> int:
    return n * 10


@activity(name="processes.later")
async def later(n: int) -> int:
    return -n


@workflow(name="processes.both")
async def both(n: int) -> int:
    return await there(await here(n))


@workflow(name="processes.fan")
async def fan(n: int) -> int:
    return sum(await there.map(range(n)))


@workflow(name="processes.waits")
async def waits() -> int:
    return await later(1)


class Processes:
    """Processes of one test, each a node and a worker."""

    def __init__(self, stack: AsyncExitStack, another: Callable[[], Shared]) -> None:
        self._stack, self._another = stack, another

    async def join(
        self,
        workflows: Iterable[object],
        activities: Iterable[object],
        *,
        build_id: str = "",
        task_queue: str = "default",
        slots: int = 100,
    ) -> tuple[Client, Worker]:
        """One more."""
        node = member(self._another(), SystemClock())
        client = Client(node, task_queue=task_queue)
        worker = Worker(
            client,
            workflows=workflows,
            activities=activities,
            build_id=build_id,
            task_queue=task_queue,
            max_concurrent_activities=slots,
        )
        await self._stack.enter_async_context(Embedded(node, worker, client))
        return client, worker


@asynccontextmanager
async def processes(another: Callable[[], Shared] | None = None) -> AsyncGenerator[Processes]:
    """None yet. another: makes a store over what they share; by default a memory."""
    async with AsyncExitStack() as stack:
        yield Processes(stack, another or MemoryStore().another)


async def history(handle: WorkflowHandle[object]) -> list[HistoryEvent]:
    return [event async for event in handle.history()]


async def test_an_activity_goes_to_a_process_that_has_it() -> None:
    async with processes() as started:
        first, one = await started.join([both], [here])
        _, other = await started.join([], [there])
        handle = await first.start(both(4))
        assert await handle.result() == 50
        begun = [event.identity for event in await history(handle) if isinstance(event, ActivityTaskStarted)]
        assert begun == [one.instance, other.instance]


async def test_a_workflow_goes_to_a_process_that_has_it() -> None:
    async with processes() as started:
        client, _ = await started.join([], [])
        handle = await client.start(both(1))
        await started.join([both], [here, there])
        assert await handle.result() == 20
        assert await client.get(handle.id, both).result() == 20


async def test_more_than_one_process_can_run_at_once_is_shared() -> None:
    async with processes() as started:
        client, one = await started.join([fan], [there], slots=2)
        _, other = await started.join([], [there], slots=2)
        handle = await client.start(fan(40))
        assert await handle.result() == 10 * sum(range(40))
        begun = {event.identity for event in await history(handle) if isinstance(event, ActivityTaskStarted)}
        assert begun == {one.instance, other.instance}


async def test_what_nobody_has_waits_for_a_deploy_and_costs_no_attempt() -> None:
    async with processes() as started:
        client, _ = await started.join([waits], [here])
        handle = await client.start(waits())
        found = await described(handle, lambda d: bool(d.unserved))
        assert (found.activities[0].status, found.activities[0].attempt) == ("scheduled", 1)
        assert "processes.later" in found.unserved[0]
        await started.join([], [later])
        assert await handle.result() == -1


async def test_histories_tell_which_build_ran_what() -> None:
    async with processes() as started:
        client, _ = await started.join([both], [here], build_id="2026-11")
        await started.join([], [there], build_id="2026-12")
        handle = await client.start(both(1))
        await handle.result()
        builds = [event.build_id for event in await history(handle) if isinstance(event, WorkflowTaskCompleted)]
        assert builds == ["2026-11"] * len(builds) and builds


async def test_task_queues_keep_processes_apart() -> None:
    async with processes() as started:
        client, _ = await started.join([both], [here, there])
        elsewhere, worker = await started.join([both], [here, there], task_queue="eu")
        handle = await elsewhere.start(both(2))
        assert await client.get(handle.id, both).result() == 30
        events = await history(handle)
        assert {event.identity for event in events if isinstance(event, ActivityTaskStarted)} == {worker.instance}
