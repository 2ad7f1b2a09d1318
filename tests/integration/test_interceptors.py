"""Interceptors: what a client sends along goes through workflows to their activities, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import cast

import pytest

from perdure import (
    ActivityCall,
    ApplicationError,
    Client,
    ClientCall,
    GuardError,
    InboundCall,
    Interceptor,
    OutboundCall,
    Schedule,
    activity,
    embedded,
    workflow,
)
from perdure.embedded import Embedded
from perdure.engine.node.node import Node
from perdure.sdk.worker.worker import Worker
from tests.integration.engines import Engine, failing_task
from tests.sdk import crunching

request_id: ContextVar[str] = ContextVar("request_id", default="")


class Tracing(Interceptor):
    """Passes an id on from the client to all that comes of its call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
        if request_id.get():
            call.headers["request-id"] = request_id.get()
        self.seen.append(f"client {call.operation} {call.name}")
        return await next(call)

    async def execute_activity(self, call: ActivityCall, next: Callable[[ActivityCall], Awaitable[object]]) -> object:
        request_id.set(call.headers.get("request-id", ""))
        return await next(call)

    async def execute_workflow(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        request_id.set(call.headers.get("request-id", ""))
        return await next(call)

    async def handle_message(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        request_id.set(call.headers.get("request-id", ""))
        return await next(call)

    def handle_query(self, call: InboundCall, next: Callable[[InboundCall], object]) -> object:
        request_id.set(call.headers.get("request-id", ""))
        return next(call)

    def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
        if request_id.get():
            call.headers["request-id"] = request_id.get()
        return next(call)


@activity(name="interceptors.who")
async def who(name: str) -> str:
    return f"{name}:{request_id.get()}"


@activity(name="interceptors.who_plain")
def who_plain(name: str) -> str:
    return f"{name}:{request_id.get()}"


@workflow(name="interceptors.child")
async def child() -> str:
    return await who_plain.start("child")


@workflow(name="interceptors.plain")
def plain() -> str:
    return who_plain("plain")


@workflow(name="interceptors.flow")
class Flow:
    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.said = list[str]()

    async def run(self) -> list[str]:
        if self.rounds:
            workflow.continue_as_new(Flow(self.rounds - 1))
        self.said += [await who("run"), await child(), await plain()]
        await workflow.wait_until(lambda: len(self.said) >= 5)
        return self.said

    @workflow.signal
    async def note(self, text: str) -> None:
        self.said.append(await who(text))

    @workflow.signal
    def mark(self, text: str) -> None:
        self.said.append(f"{text}:{request_id.get()}")

    @workflow.query
    def asked(self) -> str:
        return request_id.get()

    @workflow.update
    async def change(self, text: str) -> str:
        return await who(text)


@workflow(name="interceptors.sends")
async def sends(id: str) -> None:
    await workflow.external(id, Flow).signal(Flow.mark, "external")


def intercepted(client: Client, *interceptors: Interceptor) -> Embedded:
    """The same engine's service, with another client and a worker of a queue of their own."""
    other = Client(client.service, interceptors=interceptors, task_queue="intercepted")
    return Embedded(cast(Node, _Nothing()), Worker(other, task_queue="intercepted"), other)


class _Nothing:
    async def start(self) -> None: ...

    async def serve(self) -> None: ...

    def ends_soon(self) -> None: ...

    async def stop(self) -> None: ...


async def test_an_id_goes_from_a_client_through_workflows_to_activities(engine: Engine) -> None:
    tracing = Tracing()
    async with engine.open() as plain_client, intercepted(plain_client, tracing) as client:
        request_id.set("r1")
        handle = await client.start(Flow(2), id="f")
        request_id.set("r2")
        assert await handle.query(Flow.asked) == "r2"
        assert await handle.update(Flow.change, "update") == "update:r2"
        request_id.set("r3")
        await client.run(sends("f"))
        request_id.set("r4")
        await handle.signal(Flow.note, "signal")
        request_id.set("")
        said = await handle.result()
    assert sorted(said) == ["child:r1", "external:r3", "plain:r1", "run:r1", "signal:r4"]
    kinds = dict.fromkeys(tracing.seen)
    assert list(kinds)[:3] == ["client start interceptors.flow", "client query asked", "client update change"]
    assert "client signal note" in kinds and "client result " in kinds


async def test_messages_with_a_start_carry_headers(engine: Engine) -> None:
    async with engine.open() as plain_client, intercepted(plain_client, Tracing()) as client:
        request_id.set("s1")
        handle = await client.with_start(Flow(0), id="w").signal(Flow.mark, "first")
        assert await client.with_start(Flow(0), id="w").update(Flow.change, "update") == "update:s1"
        await handle.signal(Flow.mark, "second")
        assert set(await handle.result()) >= {"first:s1", "second:s1", "run:s1"}


class Loud(Interceptor):
    """Changes what goes in and what comes out, and tells what is raised."""

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard = name, heard

    async def execute_activity(self, call: ActivityCall, next: Callable[[ActivityCall], Awaitable[object]]) -> object:
        assert activity.info().activity_type == call.activity_type
        self.heard.append(f"{self.name} before")
        call.args = [f"{call.args[0]}{self.name}"] if isinstance(call.args[0], str) else [call.args[0]]
        try:
            result = await next(call)
        except Exception as error:
            self.heard.append(f"{self.name} {type(error).__name__}")
            raise
        self.heard.append(f"{self.name} after")
        return result


@activity(name="interceptors.shout")
def shout(text: str) -> str:
    if text.startswith("no"):
        raise ApplicationError(text, non_retryable=True)
    return text.upper()


async def test_the_first_interceptor_is_the_outermost() -> None:
    heard: list[str] = []

    @workflow(name="interceptors.shouts")
    async def shouts(text: str) -> list[object]:
        number = await crunching.square.start(7)
        return [await shout.start(text), number]

    async with embedded(":memory:", interceptors=[Loud("a", heard), Loud("b", heard)]) as client:
        assert await client.run(shouts("x")) == ["XAB", 49]
        assert heard == ["a before", "b before", "b after", "a after"] * 2
        heard.clear()
        with pytest.raises(ApplicationError, match="noab"):
            await client.run(shouts("no"))
        assert heard[4:] == ["a before", "b before", "b ApplicationError", "a ApplicationError"]


async def test_an_attempt_in_a_thread_is_cancelled_through_interceptors() -> None:
    begun = asyncio.Event()

    async with embedded(":memory:", interceptors=[Loud("a", [])]) as client:
        loop = asyncio.get_running_loop()

        @activity(name="interceptors.until_cancelled")
        def until_cancelled(text: str) -> None:
            loop.call_soon_threadsafe(begun.set)
            while not activity.is_cancelled():
                pass
            raise asyncio.CancelledError

        @workflow(name="interceptors.cancelled")
        async def cancelled() -> str:
            try:
                await until_cancelled.options(cancellation_type="wait").start("x")
            except asyncio.CancelledError:
                return "stopped"
            return "went on"

        handle = await client.start(cancelled())
        await begun.wait()
        await handle.cancel()
        assert await handle.result() == "stopped"


class Careless(Interceptor):
    async def execute_workflow(self, call: InboundCall, next: Callable[[InboundCall], Awaitable[object]]) -> object:
        with open("log.txt") as file:  # noqa: ASYNC230
            return file.read()


async def test_a_workflow_s_interceptor_is_guarded() -> None:
    async with embedded(":memory:", interceptors=[Careless()]) as client:
        handle = await client.start(child())
        failure, location, _ = await failing_task(handle)
        assert GuardError.__name__ in failure and "test_interceptors.py" in location


async def test_a_schedule_s_headers_go_to_what_it_starts() -> None:
    tracing, told = Tracing(), asyncio.get_running_loop().create_future()

    @activity(name="interceptors.tell")
    async def tell() -> None:
        told.set_result(request_id.get())

    @workflow(name="interceptors.scheduled")
    async def scheduled() -> None:
        await tell()

    async with embedded(":memory:", interceptors=[tracing]) as client:
        request_id.set("req-7")
        schedule = await client.create_schedule("s", scheduled(), Schedule(every="30d"))
        request_id.set("")
        await schedule.trigger()
        assert await told == "req-7"
        await schedule.describe()
        await schedule.delete()
        assert [row.id async for row in client.list_schedules()] == []
    assert [each for each in tracing.seen if "schedule" in each] == [
        "client create_schedule interceptors.scheduled", "client trigger_schedule ", "client describe_schedule ",
        "client delete_schedule ", "client list_schedules ",
    ]  # fmt: skip


async def test_a_hook_that_nobody_awaits_must_not_be_async() -> None:
    class Slip(Interceptor):
        async def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
            return next(call)

    with pytest.raises(TypeError, match=r"Slip.workflow_call must be a plain `def`"):
        embedded(":memory:", interceptors=[Slip()])


def test_a_hook_that_is_misspelt_is_refused() -> None:
    class Slip(Interceptor):
        async def execute_activities(self, call: ActivityCall, next: Callable[[ActivityCall], object]) -> object:
            return next(call)

    class Foreign(Interceptor):
        async def handle_signal(self, call: InboundCall, next: Callable[[InboundCall], object]) -> object:
            return next(call)

    class Other(Interceptor):
        def around(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
            return next(call)

    class Fine(Tracing):
        def flush(self) -> None: ...
        def _around(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
            return next(call)

    for wrong, says in (
        (Slip(), "Slip.execute_activities is no hook, so nothing would call it: did you mean execute_activity"),
        (Foreign(), "did you mean handle_message"),
        (Other(), "Other.around is no hook, so nothing would call it: The hooks are client_call, execute_activity, "),
    ):
        with pytest.raises(TypeError, match=says):
            embedded(":memory:", interceptors=[wrong])
    embedded(":memory:", interceptors=[Fine()])


async def test_a_hook_that_returns_nothing_is_named() -> None:
    class Silent(Interceptor):
        async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
            await next(call)

    class SilentInside(Interceptor):
        def workflow_call(self, call: OutboundCall, next: Callable[[OutboundCall], object]) -> object:
            next(call)

    @workflow(name="interceptors.asks")
    async def asks() -> str:
        return await who("x")

    async with embedded(":memory:", interceptors=[Silent()]) as client:
        with pytest.raises(TypeError, match="client_call returned None for 'start'"):
            await client.start(asks())
    async with embedded(":memory:", interceptors=[SilentInside()]) as client:
        failure, _, _ = await failing_task(await client.start(asks()))
        assert "workflow_call returned None for 'interceptors.who'" in failure
    with pytest.raises(TypeError, match=r"interceptors must be a list: \[Silent\(…\)\]"):
        embedded(":memory:", interceptors=cast("list[Interceptor]", Silent()))


async def test_wrong_interceptors_and_headers_are_refused() -> None:
    for wrong, text in (([Tracing], "not Tracing: make one of it"), ([5], "not 5")):
        with pytest.raises(TypeError, match=f"interceptors must be objects of perdure.Interceptor, {text}"):
            embedded(":memory:", interceptors=cast("list[Interceptor]", wrong))

    class Wrong(Interceptor):
        def __init__(self, headers: object) -> None:
            self.headers = headers

        async def client_call(self, call: ClientCall, next: Callable[[ClientCall], Awaitable[object]]) -> object:
            call.headers = cast("dict[str, str]", self.headers)
            return await next(call)

    for headers, error, text in (
        ({"a": 5}, TypeError, "header 'a' must be text, not int"),
        ({5: "a"}, TypeError, "the name of a header must be text, not int"),
        ({"perdure.entity": "a"}, ValueError, "names that begin with 'perdure.' are Perdure's own"),
    ):
        async with embedded(":memory:", interceptors=[Wrong(headers)]) as client:
            with pytest.raises(error, match=text):
                await client.start(child())
