"""Calls that the type checkers must refuse: an error on every line that says so, and on no other."""

from __future__ import annotations

from accepted import (
    Account,
    Onboarding,
    PlainClass,
    Request,
    count_pages,
    create_vpc,
    delete_vpc,
    provision,
    render,
)

import perdure
from perdure import ApplicationError, Client, RetryPolicy, Schedule, activity, embedded, workflow


def use(*values: object) -> None: ...


typo = perdure.embeded  # expect error


# --- Activities -----------------------------------------------------------------------------------------
async def activities() -> None:
    await create_vpc(1)  # expect error
    await create_vpc("a", sise=3)  # expect error
    await create_vpc()  # expect error
    await create_vpc("a", 1, "label")  # expect error
    await render("x")  # expect error
    render.start(3)  # expect error
    render.start()  # expect error
    page: int = await render.start("x")  # expect error
    create_vpc.options(task_queue=3)  # expect error
    create_vpc.options(nope="x")  # expect error
    create_vpc.options(start_to_close_timeout=[1])  # expect error
    create_vpc("eu", task_queue="q")  # expect error
    await create_vpc.options(task_queue="q")(3)  # expect error
    delete_vpc.map([1, 2])  # expect error
    delete_vpc.map(["a"], concurrency="x")  # expect error
    pages: list[str] = await count_pages.map(["a"])  # expect error
    async for vpc in delete_vpc.map(["a"]):
        vpc.upper()  # expect error
    details: str = activity.heartbeat_details(int)  # expect error
    use(page, pages, details)
    raise activity.Hold(3)  # expect error


@activity(start_to_close_timeot="1h")  # expect error
async def misspelt() -> None: ...


@activity(retry_policy="often")  # expect error
async def no_policy() -> None: ...


RetryPolicy(non_retryable=(Account,))  # expect error
RetryPolicy(maximum_attempts="3")  # expect error
RetryPolicy(on_exhausted="panic")  # expect error
ApplicationError("m", kind="x")  # expect error


# --- Workflows ------------------------------------------------------------------------------------------
@workflow
async def children() -> None:
    await provision("a", [3])  # expect error
    await provision("a")  # expect error
    provision.start("a")  # expect error
    provision.options(idd="x")  # expect error
    provision.options(id=3)  # expect error
    provision("a", [], id="x")  # expect error
    await Onboarding(Request("x"))  # expect error
    await workflow.run(Onboarding("x"))  # expect error
    await workflow.run(Onboarding)  # expect error
    await workflow.run(create_vpc("eu"))  # expect error
    workflow.start(provision)  # expect error
    account: str = await workflow.run(Onboarding(Request("x")))  # expect error
    workflow.patched(3)  # expect error
    kept: bool = workflow.deprecate_patch("x")  # expect error
    use(kept)
    vpcs: list[str] = await provision("a", [])  # expect error
    workflow.continue_as_new(provision)  # expect error
    use(account, vpcs)


class Alarmed:
    @workflow.on_alarm  # expect error
    def unnamed(self) -> None: ...

    @workflow.on_alarm("x")  # expect error
    def takes(self, n: int) -> None: ...

    @workflow.on_alarm("x")  # expect error
    async def answers(self) -> int: ...


workflow(entity="yes")  # expect error


@workflow
async def entities() -> None:
    await workflow.idle(3)  # expect error
    workflow.alarm("x", 3)  # expect error
    workflow.alarm("x", at="tomorrow")  # expect error
    workflow.alarm(after=3)  # expect error
    name: str = workflow.cancel_alarm("x")  # expect error
    use(name)


@workflow
def plainly() -> None:
    page: int = render("x")  # expect error
    render(3)  # expect error
    number: int = render.start("x").result()  # expect error
    vpc: str = create_vpc("eu")  # expect error
    pages: list[int] = render.map(["x"]).result()  # expect error
    workflow.block(3)  # expect error
    text: str = workflow.block(workflow.receive("x", int))  # expect error
    use(page, number, vpc, pages, text)


@workflow
async def undoes() -> None:
    async with workflow.saga() as saga:
        await saga.do(create_vpc("eu"))  # expect error
        await saga.do(create_vpc, undo=delete_vpc)  # expect error
        await saga.do(create_vpc("eu"), undo=delete_vpc("x"))  # expect error
        await saga.do(create_vpc("eu"), undo=lambda vpc: None)  # expect error
        number: int = await saga.do(create_vpc("eu"), undo=delete_vpc)  # expect error
        await saga.do(provision("a", []), undo=delete_vpc)  # expect error
        use(number)
    workflow.saga(undo_on=(Account,))  # expect error


@workflow
async def reaches_others() -> None:
    workflow.external("x", Request)  # expect error
    workflow.external(3)  # expect error
    await workflow.external("x", Onboarding).signal(Onboarding.approve, 3)  # expect error
    await workflow.external("x", Onboarding).signal(Onboarding.status)  # expect error
    await workflow.external("x").query("status")  # expect error


@workflow
async def cancels() -> None:
    create_vpc.options(cancellation_type="never")  # expect error
    provision.options(parent_close_policy="kill")  # expect error
    provision.options(cancellation_type=True)  # expect error
    number: int = await workflow.shielded(create_vpc("eu"))  # expect error
    await workflow.shielded(create_vpc)  # expect error
    await activity.run_process(["ls", "-l"])  # expect error
    await activity.run_process("sleep", 3)  # expect error
    await activity.run_process_sync("ls")  # expect error
    use(number)


@workflow
async def asks() -> None:
    number: int = await workflow.receive("x", str)  # expect error
    await workflow.wait_until(lambda: 3)  # expect error
    await workflow.wait_until(lambda: True, 5)  # expect error
    workflow.nwo()  # expect error
    use(number)


@workflow(entity=True)  # expect error
async def later() -> None: ...


@workflow(failure_exceptions=(Account,))  # expect error
async def fails() -> None: ...


@workflow  # expect error
class NoRun:
    def __init__(self, x: int) -> None: ...


@workflow  # expect error
class ArgumentsToRun:
    async def run(self, x: int) -> int:
        return x


class Handlers:
    @workflow.signal  # expect error
    def answers(self) -> int:
        return 3

    @workflow.update
    async def up(self, n: int) -> int:
        return n

    @up.validator  # expect error
    def _(self, n: str) -> None: ...

    @up.validator  # expect error
    def _(self, n: int) -> int:
        return n


# --- The client -----------------------------------------------------------------------------------------
async def starts(client: Client) -> None:
    await client.start(provision, id="x")  # expect error
    await client.start(provision("a"), id="x")  # expect error
    await client.start(provision("a", [1]), id="x")  # expect error
    await client.start(create_vpc("eu"), id="x")  # expect error
    await client.start(Onboarding, id="x")  # expect error
    await client.start(Onboarding("ann"), id="x")  # expect error
    await client.start(Request("ann"), id="x")  # expect error
    await client.start(Onboarding(Request("ann")), id=3)  # expect error
    await client.start(NoRun(3))  # expect error
    result: dict[str, int] = await client.run(provision("p", []))  # expect error
    number: str = await client.run(PlainClass())  # expect error
    await client.start(PlainClass(), id_reuse_policy="never")  # expect error
    await client.start(PlainClass(), idd="x")  # expect error
    await client.start(PlainClass(), retry_policy=3)  # expect error
    await client.start(PlainClass(), start_delay=[1])  # expect error
    start = client.with_start(Onboarding(Request("ann")), id="x")
    client.with_start(Onboarding, id="x")  # expect error
    await start.signal(Onboarding.approve, 3)  # expect error
    await start.signal(Onboarding.approve)  # expect error
    await start.signal(Onboarding.resize, 3)  # expect error
    await start.update(Onboarding.resize, "20")  # expect error
    await start.update(Onboarding.approve, "bob")  # expect error
    seats: str = await start.update(Onboarding.resize, 20)  # expect error
    use(seats)
    client.get("x", Request)  # expect error
    client.get("x", create_vpc)  # expect error
    account: str = await client.get("x", Onboarding).result()  # expect error
    use(result, number, account)


async def looks_up() -> None:
    create_vpc.local(3)  # expect error
    await create_vpc.local("eu", sise=3)  # expect error


def wrong_interceptors() -> None:
    embedded(":memory:", interceptors=[5])  # expect error


@activity(executor="fiber")  # expect error
def in_a_fiber() -> None: ...


async def completes_elsewhere(client: Client) -> None:
    client.activity(5)  # expect error
    await client.activity("token").fail(5)  # expect error
    await client.activity("token").fail(KeyboardInterrupt())  # expect error


async def schedules(client: Client) -> None:
    nightly = Schedule(cron="0 3 * * *")
    await client.create_schedule("x", provision, nightly)  # expect error
    await client.create_schedule("x", provision("a"), nightly)  # expect error
    await client.create_schedule("x", create_vpc("eu"), nightly)  # expect error
    await client.create_schedule("x", PlainClass(), "0 3 * * *")  # expect error
    await client.create_schedule("x", PlainClass(), nightly, start_delay="1m")  # expect error
    await client.create_schedule("x", PlainClass(), nightly, run_timeout=[1])  # expect error
    Schedule(cron=3)  # expect error
    Schedule(overlap="never")  # expect error
    Schedule(evry="1h")  # expect error
    handle = client.schedule("x")
    await handle.trigger(overlap="never")  # expect error
    await handle.backfill("2025-01-01", "2025-02-01")  # expect error
    await handle.update(lambda schedule: 3)  # expect error


async def messages(client: Client) -> None:
    handle = await client.start(Onboarding(Request("ann")), id="x")
    await handle.signal(Onboarding.approve, 3)  # expect error
    await handle.signal(Onboarding.approve)  # expect error
    await handle.signal(Onboarding.approve, "x", "y")  # expect error
    await handle.signal(Onboarding.approve, bye="x")  # expect error
    await handle.signal(Onboarding.status)  # expect error
    await handle.signal(Onboarding.run)  # expect error
    await handle.query(Onboarding.approve, "x")  # expect error
    await handle.query(Onboarding.status, 3)  # expect error
    status: int = await handle.query(Onboarding.status)  # expect error
    await handle.update(Onboarding.resize, "20")  # expect error
    await handle.update(Onboarding.status)  # expect error
    seats: str = await handle.update(Onboarding.resize, 20)  # expect error
    account: str = await handle.result()  # expect error
    use(status, seats, account)
