"""Values of a wrong type are refused where they are given. They change nothing, and never stop the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, cast

import pytest

from perdure import Hold, InvalidRequest, QueryFailed, Schedule, WorkflowHandle, activity, workflow
from perdure.engine.core import decide as decide_module
from perdure.model import tasks as t
from perdure.model.requests import DescribeWorkflow, SignalWorkflow, StartWorkflow
from perdure.sdk.client.client import Client
from tests.integration.engines import activity_with, failing_task
from tests.integration.work import echo

Call = Callable[[Client, "WorkflowHandle[Any]"], Awaitable[object]]


class Queue(StrEnum):
    MAIN = "default"


class Name(StrEnum):
    SIGNAL = "a signal"
    QUERY = "a query"
    ACTIVITY = "1"
    NOTE = "a note"


@activity(name="wrong.held")
async def held() -> str:
    raise Hold("for the test")


@workflow(name="wrong.waits")
async def waits() -> str:
    return await held()


@workflow(name="wrong.fine")
async def fine() -> str:
    return await echo("fine")


def start(client: Client, **options: Any) -> Awaitable[object]:
    return client.start(fine(), **options)


def get(client: Client, id: object, **options: Any) -> WorkflowHandle[object]:
    return client.get(cast(str, id), **options)


def scheduled(client: Client, **options: Any) -> Awaitable[object]:
    return client.create_schedule("s", fine(), Schedule(every="1h"), **options)


WRONG: list[tuple[Call, str]] = [
    (lambda c, _: start(c, id=5), "id must be text, not int"),
    (lambda c, _: start(c, id=b"x"), "id must be text, not bytes"),
    (lambda c, _: start(c, id=["a"]), "id must be text, not list"),
    (lambda c, _: start(c, id=""), "id must not be empty"),
    (lambda c, _: start(c, id="\ud800"), "id is no valid text"),
    (lambda c, _: get(c, 5).describe(), "id must be text, not int"),
    (lambda c, _: get(c, "w", run_id=5).describe(), "run_id must be text, not int"),
    (lambda c, _: start(c, task_queue=5), "task_queue must be text, not int"),
    (lambda c, _: start(c, task_queue=""), "task_queue must have between 1 and 1000 characters"),
    (lambda c, _: start(c, request_id=5), "request_id must be text, not int"),
    (lambda c, _: start(c, request_id=""), "request_id must have between 1 and 1000 characters"),
    (lambda _, h: h.activity("").complete(1), "activity_id must have between 1 and 1000 characters"),
    (lambda c, _: scheduled(c, workflow_id=""), "workflow_id must have between 1 and 1000 characters"),
    (lambda c, _: scheduled(c, request_id=" "), "request_id must neither begin nor end with white space"),
    (lambda c, _: start(c, memo={1: 1}), "a name in the memo must be text, not int"),
    (lambda c, _: start(c, memo="abc"), "memo must be a mapping of names to values, not str"),
    (lambda c, _: start(c, id_reuse_policy="whatever"), 'id_reuse_policy must be "allow_duplicate" or'),
    (lambda c, _: start(c, id_conflict_policy=5), 'id_conflict_policy must be "fail" or'),
    (lambda _, h: h.cancel(cast(str, 5)), "reason must be text, not int"),
    (lambda _, h: h.cancel(cast(str, ValueError("x"))), "reason must be text, not ValueError"),
    (lambda _, h: h.terminate(cast(str, 5)), "reason must be text, not int"),
    (lambda _, h: h.release(note=cast(str, b"x")), "note must be text, not bytes"),
    (lambda _, h: h.release(cast(str, 5)), "activity_id must be text, not int"),
    (lambda _, h: h.complete_activity("1", "r", note=cast(str, 5)), "note must be text, not int"),
    (lambda c, _: c.run(fine(), id="x" * 1001), "id has 1001 characters"),
]


@pytest.mark.parametrize(("call", "says"), WRONG)
async def test_a_value_of_a_wrong_type_changes_nothing(client: Client, call: Call, says: str) -> None:
    handle = await client.start(waits(), id="w")
    await activity_with(handle, "held")
    with pytest.raises((InvalidRequest, TypeError, ValueError), match=says):
        await call(client, handle)
    assert (await handle.describe()).activities[0].status == "held"
    assert [row.id async for row in client.list()] == ["w"]
    assert await client.run(fine(), id="other") == "fine"
    await handle.complete_activity("1", "done")
    assert await handle.result() == "done"


async def test_a_member_of_a_text_enum_is_text(client: Client) -> None:
    handle = await client.start(fine(), id=Queue.MAIN, task_queue=Queue.MAIN)
    assert await handle.result() == "fine"
    assert type((await handle.describe()).task_queue) is str
    handle = await client.start(waits())
    await activity_with(handle, "held")
    await handle.signal(Name.SIGNAL, 1)
    with pytest.raises(QueryFailed, match="has no query 'a query'"):
        await handle.query(Name.QUERY)
    await handle.complete_activity(Name.ACTIVITY, "done", note=Name.NOTE)
    assert await handle.result() == "done"


@pytest.mark.parametrize(
    "request_",
    [
        StartWorkflow("default", cast(str, 5), "t", "q", (), "r"),
        StartWorkflow("default", "w", "t", "q", (cast(Any, "payload"),), "r"),
        StartWorkflow("default", "w", "t", "q", (), "r", memo=cast(Any, {1: t.Payload(b"1")})),
        SignalWorkflow("default", "w", "", "n", (t.Payload(cast(bytes, "1")),), "r"),
        DescribeWorkflow("default", cast(str, ["w"]), ""),
    ],
)
async def test_the_engine_itself_refuses_what_it_could_not_read_again(client: Client, request_: Any) -> None:
    with pytest.raises((InvalidRequest, TypeError)):
        await client.service.call(request_)
    assert await client.run(fine()) == "fine"


async def test_an_option_of_a_call_is_refused_at_its_line(client: Client) -> None:
    @workflow(name="wrong.options")
    async def options(which: str) -> None:
        wrong: dict[str, Any] = {"task_queue": 5, "priority": 10**30, "id": 5}
        if which == "id":
            await workflow.run(fine(), id=wrong["id"])
        else:
            await echo.options(**{which: wrong[which]})("x")

    for which, says in (
        ("task_queue", "task_queue must be text, not int"),
        ("priority", "priority must be between"),
        ("id", "id must be text, not int"),
    ):
        failure, location, _ = await failing_task(await client.start(options(which)))
        assert says in failure
        assert location.startswith(__file__)
    assert await client.run(fine()) == "fine"


async def test_what_cannot_be_decided_is_a_failed_task(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = decide_module.DECISIONS[t.WorkflowTaskCompletion]
    tries = 0

    def broken(tx: Any, message: t.WorkflowTaskCompletion) -> None:
        nonlocal tries
        if message.run.workflow_id == "undecided" and tries < 2:
            tries += 1
            raise ZeroDivisionError("a bug of the engine")
        decide(tx, message)

    monkeypatch.setitem(decide_module.DECISIONS, t.WorkflowTaskCompletion, broken)
    handle = await asyncio.wait_for(client.start(fine(), id="undecided"), 30)
    failure, _, _ = await failing_task(handle)
    assert "could not decide" in failure and "a bug of the engine" in failure
    assert await client.run(fine()) == "fine"
    assert await handle.result() == "fine"


async def test_an_outcome_that_cannot_be_decided_is_a_failed_attempt(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = decide_module.DECISIONS[t.ActivityCompletion]
    tries = 0

    def broken(tx: Any, message: t.ActivityCompletion) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ZeroDivisionError("a bug of the engine")
        decide(tx, message)

    monkeypatch.setitem(decide_module.DECISIONS, t.ActivityCompletion, broken)
    assert await asyncio.wait_for(client.run(fine(), id="attempted"), 30) == "fine"
    assert tries == 2
