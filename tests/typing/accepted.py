"""Calls that the type checkers must accept, with exactly these types."""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, assert_type

import perdure
from perdure import (
    ApplicationError,
    AsyncActivityHandle,
    AttemptState,
    Calendar,
    Client,
    ClientCall,
    ExternalHandle,
    Hold,
    Interceptor,
    Interval,
    OutboundCall,
    ProcessResult,
    RetryPolicy,
    Saga,
    Schedule,
    ScheduleHandle,
    WorkflowHandle,
    activity,
    embedded,
    workflow,
)
from perdure.sdk.calls import ActivityHandle
from perdure.sdk.workflow.api import ChildHandle, WorkflowCall

T = TypeVar("T")


class QuotaExceeded(Exception): ...


class BadCredentials(Exception): ...


@dataclass
class Request:
    name: str


@dataclass
class Account:
    id: str


# --- Activities -----------------------------------------------------------------------------------------
@activity(
    name="cloud.create_vpc",
    task_queue="cloud",
    start_to_close_timeout="1h",
    schedule_to_close_timeout=7 * 24 * 3600,
    schedule_to_start_timeout=2.5,
    heartbeat_timeout="30s",
    retry_policy=RetryPolicy(
        initial_interval="1s",
        backoff_coefficient=2.0,
        maximum_interval="5m",
        maximum_attempts=0,
        non_retryable=(BadCredentials, "app.Forbidden"),
        hold_on=[QuotaExceeded],
        on_exhausted="hold",
    ),
    priority=1,
    cancellation_type="wait",
)
async def create_vpc(region: str, size: int = 16, *, label: str | None = None) -> str:
    if label:
        raise activity.Hold("the quota is used up")
    activity.heartbeat({"done": 3}, "more")
    assert_type(activity.heartbeat_details(int), int | None)
    assert_type(activity.heartbeat_details(dict[str, int]), dict[str, int] | None)
    assert_type(activity.is_cancelled(), bool)
    assert_type(activity.info().attempt, int)
    result = await activity.run_process(
        "terraform", Path("plan"), cwd=Path("."), env={"A": "b"}, input=b"", grace="10s"
    )
    assert_type(result, ProcessResult)
    assert_type(result.returncode, int)
    activity.logger.info("done")
    return f"{region}-{size}"


@activity
async def delete_vpc(vpc: str) -> None: ...


@activity
def render(name: str) -> str:
    assert_type(activity.run_process_sync("echo", name, check=False).stdout, str)
    return name


@activity(start_to_close_timeout=30)
def count_pages(book: str) -> int:
    return len(book)


@activity
async def same(value: T) -> T:
    return value


@activity
async def many(first: int, *rest: str, flag: bool = False, **named: float) -> str:
    return f"{first}{rest}{flag}{named}"


# --- Workflows ------------------------------------------------------------------------------------------
@workflow
async def provision(team: str, regions: list[str]) -> dict[str, str]:
    vpcs = await asyncio.gather(*(create_vpc(r) for r in regions))
    assert_type(vpcs, list[str])
    await asyncio.sleep(7 * 24 * 3600)
    assert_type(render.start(team), ActivityHandle[str])
    page = await render.start(team)
    assert_type(page, str)
    return dict(zip(regions, vpcs, strict=True))


@workflow(name="parent", task_queue="slow", failure_exceptions=(QuotaExceeded,))
async def parent(n: int) -> int:
    assert_type(await provision("a", []), dict[str, str])
    assert_type(await provision.options(id="child", run_timeout="1h").start("a", regions=[]), dict[str, str])
    assert_type(provision.start("a", []), ChildHandle[dict[str, str]])
    assert_type(provision.start("a", []).id, str)
    async with asyncio.TaskGroup() as group:
        vpc = group.create_task(create_vpc("eu", size=3))
        child = group.create_task(provision("a", []))
    assert_type(vpc.result(), str)
    assert_type(child.result(), dict[str, str])
    assert_type(await asyncio.wait_for(create_vpc("eu"), 3), str)
    assert_type(await asyncio.shield(render.start("x")), str)
    done, waiting = await asyncio.wait({render.start("x"), render.start("y")}, timeout=3)
    for finished in done | waiting:
        assert_type(finished.result(), str)
    text, pages, vpcs = await asyncio.gather(create_vpc("e"), count_pages.start("p"), provision("a", []))
    assert_type(text, str)
    assert_type(pages, int)
    assert_type(vpcs, dict[str, str])
    assert_type(await same(3), int)
    assert_type(await many(3, "a", "b", flag=True, z=3.0), str)
    changed = create_vpc.options(task_queue="eu", start_to_close_timeout="2h", retry_policy=RetryPolicy(), priority=2)
    assert_type(await changed("eu", size=3, label="x"), str)
    assert_type(await delete_vpc.options(heartbeat_timeout=0).start("v"), None)
    assert_type(await workflow.shielded(delete_vpc.options(cancellation_type="abandon")("v")), None)
    assert_type(await workflow.shielded(render.start("x")), str)
    assert_type(await workflow.shielded(provision("a", [])), dict[str, str])
    orphan = provision.options(parent_close_policy="abandon", cancellation_type="try")
    assert_type(await orphan("a", []), dict[str, str])
    return n + len(done)


@workflow
async def fan_out(books: list[str]) -> int:
    assert_type(await delete_vpc.map(books, concurrency=50), list[None])
    assert_type(await create_vpc.map(books), list[str])
    assert_type(await render.map(b for b in books), list[str])
    total = 0
    async for pages in count_pages.map(books, concurrency=2):
        assert_type(pages, int)
        total += pages
    return total


@workflow
async def with_children() -> str:
    assert_type(await workflow.run(Onboarding(Request("bob")), id="c"), Account)
    handle = workflow.start(Onboarding(Request("bob")))
    assert_type(handle, ChildHandle[Account])
    assert_type(await handle, Account)
    assert_type(await workflow.run(provision("a", [])), dict[str, str])
    assert_type(workflow.start(PlainClass()), ChildHandle[int])
    return (await handle).id


@activity
async def delete_with(vpc: str, force: bool = False) -> int:
    return len(vpc) + force


@workflow
async def tear_down(team: dict[str, str]) -> None: ...


@workflow
async def undoes() -> str:
    async with workflow.saga(undo_on=(QuotaExceeded,)) as saga:
        assert_type(saga, Saga)
        vpc = await saga.do(create_vpc("eu"), undo=delete_vpc)
        assert_type(vpc, str)
        assert_type(await saga.do(create_vpc("eu"), undo=lambda made: delete_with(made, force=True)), str)
        assert_type(await saga.do(create_vpc.start("eu"), undo=delete_with.options(priority=1)), str)
        assert_type(await saga.do(render.start("x"), undo=render), str)
        assert_type(await saga.do(count_pages.start("x"), undo=lambda n: render.start(str(n))), int)
        assert_type(await saga.do(provision("a", []), undo=tear_down), dict[str, str])
        both = await asyncio.gather(
            saga.do(create_vpc("a"), undo=delete_vpc),
            saga.do(workflow.run(PlainClass()), undo=lambda number: create_vpc("x", number)),
        )
        assert_type(both, tuple[str, int])
    return vpc


@workflow
async def reaches_others() -> None:
    other = workflow.external("onboard-ann", Onboarding)
    assert_type(other, ExternalHandle)
    assert_type(await other.signal(Onboarding.approve, "bob"), None)
    await other.signal(Onboarding.deny, "bob", why="no")
    await other.signal("approved", True)
    assert_type(await other.cancel(), None)
    await asyncio.gather(workflow.external("x", provision, run_id="y").cancel(), workflow.external("z").cancel())
    await workflow.external("x", PlainClass).signal(PlainClass.go)


@workflow
async def asks(n: int) -> int:
    assert_type(await workflow.receive("approved", bool, timeout="1d"), bool)
    assert_type(await workflow.receive("requests", list[Request]), list[Request])
    assert_type(await workflow.receive("maybe", str | None), str | None)
    await workflow.wait_until(lambda: n > 3, timeout=5)
    assert_type(workflow.info().workflow_id, str)
    assert_type(workflow.random().random(), float)
    workflow.logger.info("at %s with %s", workflow.now(), workflow.uuid4())
    assert_type(workflow.patched("x"), bool)
    workflow.deprecate_patch("y")
    if n > 3:
        workflow.continue_as_new(asks(n - 1))
    raise ApplicationError("no", {"n": n}, type="No", non_retryable=True, next_retry_delay="5s")


@workflow
def plain(team: str) -> int:
    return len(team)


@workflow
def plain_steps(books: list[str]) -> int:
    assert_type(render("x"), str)
    assert_type(render.options(task_queue="q")("x"), str)
    assert_type(render.start("x").result(), str)
    assert_type(create_vpc.start("eu").result(), str)
    assert_type(render.map(books).result(), list[str])
    for page in render.map(books, concurrency=3):
        assert_type(page, str)
    assert_type(provision.start("a", []).result(), dict[str, str])
    assert_type(workflow.start(Onboarding(Request("x"))).result(), Account)
    assert_type(workflow.block(workflow.receive("x", int)), int)
    assert_type(workflow.block(render.start("x")), str)
    workflow.block(workflow.wait_until(lambda: True))
    time.sleep(60)
    return len(books)


@workflow
class Onboarding:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.approver: str | None = None

    async def run(self) -> Account:
        await workflow.wait_until(lambda: self.approver is not None, timeout="7d")
        self.approve("me")
        assert_type(self.status(), str)
        assert_type(await self.resize(3), int)
        assert_type(self.rename("x"), bool)
        await self.deny("x")
        return Account("a")

    @workflow.signal
    def approve(self, by: str) -> None:
        self.approver = by

    @workflow.signal(name="refuse")
    async def deny(self, by: str, why: str = "") -> None: ...

    @workflow.query
    def status(self) -> str:
        return "x"

    @workflow.query(name="how-many")
    def count(self, kind: str) -> int:
        return len(kind)

    @workflow.update
    async def resize(self, seats: int) -> int:
        return seats

    @resize.validator
    def _(self, seats: int) -> None: ...

    @workflow.update(name="call-it")
    def rename(self, name: str, *, force: bool = False) -> bool:
        return force

    @rename.validator
    def _(self, name: str, *, force: bool = False) -> None: ...


@workflow(entity=True)
class Environment:
    names: list[str]

    def __init__(self, name: str) -> None:
        self.names = [name]
        workflow.alarm("renew", after="60d")

    async def run(self) -> list[str]:
        await workflow.idle()
        await workflow.idle(lambda: len(self.names) > 3)
        workflow.alarm("check", at=workflow.now())
        assert_type(workflow.cancel_alarm("check"), bool)
        assert_type(workflow.alarms(), dict[str, datetime])
        self.renew()
        await self.check()
        return self.names

    @workflow.on_alarm("renew")
    def renew(self) -> None: ...

    @workflow.on_alarm("check")
    async def check(self) -> None: ...


@workflow
class Special(Onboarding):
    @workflow.signal
    def approve(self, by: str) -> None:
        super().approve(by)

    @workflow.update
    async def resize(self, seats: int) -> int:
        return await super().resize(seats)


@workflow
class PlainClass:
    def run(self) -> int:
        return 3

    @workflow.signal
    def go(self) -> None: ...


@workflow(name="abstract")
class Abstract(abc.ABC):
    async def run(self) -> int:
        return 3

    @abc.abstractmethod
    def step(self) -> int: ...


# --- The client -----------------------------------------------------------------------------------------
async def functions(client: Client) -> None:
    await client.run(provision("payments", ["eu-west-1"]), id="env-payments")
    assert_type(await client.run(provision("p", [])), dict[str, str])
    handle = await client.start(provision("payments", regions=["eu"]), id="x")
    assert_type(handle, WorkflowHandle[dict[str, str]])
    assert_type(await client.run(plain("x")), int)
    assert_type(client.get("x", provision), WorkflowHandle[dict[str, str]])
    assert_type(client.get("x", plain), WorkflowHandle[int])
    assert_type(client.get("x"), WorkflowHandle[object])
    results = await asyncio.gather(*[client.run(provision("a", [])) for _ in range(3)])
    assert_type(results, list[dict[str, str]])
    for call in (Onboarding(Request("a")), provision("a", [])):
        await client.start(call)


async def classes(client: Client) -> None:
    handle = await client.start(Onboarding(Request("ann")), id="onboard-ann")
    assert_type(handle, WorkflowHandle[Account])
    assert_type(await handle.signal(Onboarding.approve, "bob"), None)
    await handle.signal(Onboarding.deny, "bob", why="no")
    await handle.signal("approved", True)
    assert_type(await handle.query(Onboarding.status), str)
    assert_type(await handle.query(Onboarding.count, "x"), int)
    assert_type(await handle.update(Onboarding.resize, 20), int)
    assert_type(await handle.update(Onboarding.rename, "x", force=True), bool)
    assert_type(await handle.result(), Account)
    await handle.cancel()
    await handle.terminate("why")
    await handle.release(note="the quota is 20 now")
    assert_type(client.get("onboard-ann", Onboarding), WorkflowHandle[Account])
    special = await client.start(Special(Request("a")))
    await special.signal(Special.approve, "x")
    await special.signal(Special.deny, "x")
    assert_type(await special.update(Onboarding.resize, 3), int)
    assert_type(await client.run(PlainClass()), int)
    assert_type(await client.start(PlainClass()), WorkflowHandle[int])
    assert_type(client.get("x", PlainClass), WorkflowHandle[int])
    anything(handle)
    await starts(client)


async def starts(client: Client) -> None:
    policy = RetryPolicy(maximum_attempts=3, non_retryable=(BadCredentials,))
    assert_type(
        await client.start(
            provision("p", []), id="x", start_delay="1h", task_timeout=30, run_timeout="1d", retry_policy=policy
        ),
        WorkflowHandle[dict[str, str]],
    )
    assert_type(await client.run(PlainClass(), id_reuse_policy="reject_duplicate"), int)
    start = client.with_start(Onboarding(Request("ann")), id="x", id_conflict_policy="terminate_existing")
    assert_type(await start.signal(Onboarding.approve, "bob"), WorkflowHandle[Account])
    assert_type(await start.signal("approve", "bob"), WorkflowHandle[Account])
    assert_type(await start.update(Onboarding.resize, 20), int)
    assert_type(await start.update(Onboarding.rename, "x", force=True), bool)
    assert_type(start.handle, WorkflowHandle[Account])
    assert_type(await client.with_start(PlainClass()).signal("go"), WorkflowHandle[int])


def anything(handle: WorkflowHandle[object]) -> None: ...


async def completes_elsewhere(client: Client, token: str) -> None:
    attempt = client.activity(token)
    assert_type(attempt, AsyncActivityHandle)
    assert_type(client.get("onboard-ann").activity("5"), AsyncActivityHandle)
    assert_type(await attempt.complete({"vpc": "a"}), None)
    assert_type(await attempt.fail("it is gone"), None)
    assert_type(await attempt.fail(QuotaExceeded()), None)
    assert_type(await attempt.heartbeat(3, "more"), AttemptState)
    assert_type((await attempt.heartbeat()).cancel_requested, bool)
    assert_type(await attempt.cancelled(), None)


@activity(executor="process", heartbeat_timeout="30s")
def crunch(n: int) -> float:
    return n / 2


@workflow
async def crunches(n: int) -> float:
    assert_type(crunch(3), float)
    assert_type(await crunch.start(n), float)
    return 0.0


@workflow
async def looks_up(n: int) -> str:
    assert_type(await create_vpc.local("eu", size=3), str)
    assert_type(render.local("x"), ActivityHandle[str])
    return await render.options(start_to_close_timeout="1s").local("x")


@activity
async def ask_somebody(change: str) -> int:
    assert_type(activity.info().task_token, str)
    raise activity.CompleteLater()


class Traces(Interceptor):
    async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
        call.headers["trace"] = call.operation
        return await next(call)

    def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
        assert_type(call.headers, dict[str, str])
        return next(call)


async def with_interceptors() -> None:
    async with embedded(":memory:", interceptors=[Traces()], max_activity_processes=2) as client:
        assert_type(client, Client)


async def main() -> None:
    async with embedded("platform.db") as client:
        assert_type(client, Client)
        await classes(client)


async def outside() -> None:
    assert_type(await create_vpc("eu"), str)
    assert_type(render("x"), str)
    assert_type(provision("a", []), WorkflowCall[dict[str, str]])
    assert isinstance(Onboarding(Request("a")), Onboarding)
    takes_async(create_vpc)
    takes_plain(render)
    try:
        render("x")
    except activity.Hold as hold:
        assert_type(hold, Hold)
    except perdure.ActivityTimedOut as error:
        assert_type(error.timeout, str)


def takes_async(function: Callable[[str], Awaitable[str]]) -> None: ...


def takes_plain(function: Callable[[str], str]) -> None: ...


async def schedules(client: Client) -> None:
    monthly = Schedule(calendars=Calendar(day_of_month="L", hour=3), skip=[Calendar(month="dec")], jitter="5m")
    handle = await client.create_schedule("x", provision("payments", regions=["eu"]), monthly, run_timeout="1h")
    await client.create_schedule("y", Onboarding(Request("ann")), Schedule(every=timedelta(hours=1), overlap="skip"))
    assert_type(await client.create_schedule("z", PlainClass(), Schedule(intervals=Interval(every=60))), ScheduleHandle)
    assert_type((await handle.describe()).next_times, tuple[datetime, ...])
    await handle.update(lambda schedule: Schedule(cron=schedule.cron, every="1h"), PlainClass(), task_queue="q")
    async for row in client.list_schedules():
        assert_type(row.id, str)


@workflow
async def incremental() -> list[int]:
    assert_type(workflow.info().scheduled_time, datetime | None)
    return assert_type(workflow.last_result(list[int]), list[int] | None) or []
