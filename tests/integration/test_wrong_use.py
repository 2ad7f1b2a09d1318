"""An engine and its client that are used in another way than they are meant to be are told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from perdure import Zstd, embedded, workflow
from perdure.sdk.client.client import Client
from tests.integration.engines import failing_task
from tests.integration.work import echo


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_concurrent_activities": "x"}, "max_concurrent_activities must be a whole number, not str"),
        ({"max_concurrent_activities": 1.5}, "max_concurrent_activities must be a whole number, not float"),
        ({"max_concurrent_activities": 0}, "max_concurrent_activities must be between 1 and"),
        ({"task_queue": 5}, "task_queue must be text, not int"),
        ({"namespace": ""}, "namespace must have between 1 and"),
        ({"location": "a\0b"}, "can't be the path of a file"),
        ({"location": ""}, "can't be the path of a file"),
        ({"location": "folder/"}, "is the path of a folder"),
        ({"location": "sqlite:///file.db"}, "is no path and no address of PostgreSQL"),
        ({"location": 5}, "location must be text or a path, not int"),
        ({"location": b"file.db"}, "location must be text or a path, not bytes"),
        ({"build_id": 5}, "build_id must be text, not int"),
        ({"build_id": 0}, "build_id must be text, not int"),
        ({"build_id": "x" * 1_001}, "build_id must have between 1 and 1000 characters"),
        ({"retention": -1}, "retention must not be negative"),
        ({"grace": "soon"}, "grace is 'soon', which is not a duration"),
    ],
)
def test_an_option_that_is_none(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        cast(Any, embedded)(**{"location": "file.db", **options})


def test_one_codec_that_is_in_no_list() -> None:
    with pytest.raises(TypeError, match=r"codecs must be a list: \[Zstd\(…\)\]"):
        embedded(":memory:", codecs=cast(Any, Zstd()))


def test_an_engine_without_async() -> None:
    with pytest.raises(TypeError, match="entered with `async with`"), cast(Any, embedded(":memory:")):
        pass


async def test_an_engine_that_is_entered_twice(tmp_path: Path) -> None:
    engine = embedded(tmp_path / "file.db")
    async with engine:
        pass
    with pytest.raises(RuntimeError, match="call embedded\\(\\) again"):
        async with engine:
            pass


async def test_a_client_on_another_loop(client: Client) -> None:
    def elsewhere(use: Callable[[], Any]) -> None:
        asyncio.run(use())

    handle = client.get("any")
    with pytest.raises(RuntimeError, match="runs on another event loop"):
        await asyncio.to_thread(elsewhere, handle.describe)


async def test_a_query_that_is_no_text(client: Client) -> None:
    with pytest.raises(TypeError, match="the query must be text, not int"):
        [row async for row in client.list(cast(str, 5))]


async def test_a_map_over_what_is_asynchronous(client: Client) -> None:
    async def texts() -> AsyncIterator[str]:
        yield "a"

    @workflow(name="wrong_use.maps")
    async def maps() -> list[str]:
        return await echo.map(cast(Any, texts()))

    failure, _, _ = await failing_task(await client.start(maps()))
    assert "map() takes a plain iterable" in failure


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: workflow.wait_until(cast(Any, False)), "must be a function, such as `lambda: self.paid`, not bool"),
        (lambda: workflow.wait_until(cast(Any, echo)), "what an `async def` gives counts as true at once"),
        (lambda: workflow.receive("", int), "the signal's name must have between 1 and 1000 characters"),
        (lambda: workflow.receive(cast(Any, 5), int), "the signal's name must be text, not int"),
    ],
)
async def test_what_can_not_be_waited_for(client: Client, wrong: Callable[[], Any], says: str) -> None:
    @workflow(name="wrong_use.waits")
    async def waits() -> None:
        await wrong()

    failure, _, _ = await failing_task(await client.start(waits()))
    assert says in failure
