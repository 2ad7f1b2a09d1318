"""Plain `def` workflows over every kind of engine."""

from __future__ import annotations

import time

from perdure import RetryPolicy, activity, workflow
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine
from tests.integration.work import echo


@activity(name="plain.shout")
def shout(text: str) -> str:
    return text.upper()


@workflow(name="plain.flow")
def flow(texts: list[str]) -> list[str]:
    first = shout(texts[0])
    time.sleep(0.01)
    one, two = shout.start("one"), echo.start("two")
    rest = shout.map(texts, concurrency=2).result()
    return [first, one.result(), two.result(), *rest, child.start("c").result()]


@workflow(name="plain.child")
def child(text: str) -> str:
    return shout(text)


@workflow(name="plain.Office")
class Office:
    def __init__(self) -> None:
        self.log: list[str] = []

    def run(self) -> list[str]:
        workflow.block(workflow.wait_until(lambda: len(self.log) == 2))
        return self.log

    @workflow.signal
    def note(self, text: str) -> None:
        self.log.append(shout(text))

    @workflow.update
    def ask(self, text: str) -> str:
        time.sleep(0.01)
        answer = shout(text)
        self.log.append(text)
        return answer


async def test_a_plain_workflow(client: Client) -> None:
    assert await client.run(flow(["a", "b", "c"])) == ["A", "ONE", "two", "A", "B", "C", "C"]


async def test_plain_handlers_across_a_restart(engine: Engine) -> None:
    async with engine.open() as client:
        await client.start(Office(), id="office")
        await client.get("office", Office).signal(Office.note, "a")
    async with engine.open() as client:
        office = client.get("office", Office)
        assert await office.update(Office.ask, "b") == "B"
        assert sorted(await office.result()) == ["A", "b"]


@activity(name="plain.odd", retry_policy=RetryPolicy(maximum_attempts=1))
def odd(n: int) -> int:
    if n % 2 == 0:
        raise ValueError(f"{n} is even")
    return n


@workflow(name="plain.counts")
def counts() -> list[int]:
    results, found = iter(odd.map([1, 2, 3, 5])), list[int]()
    for _ in range(5):
        try:
            found.append(next(results))
        except ValueError:
            found.append(0)
        except StopIteration:
            found.append(-1)
    return found


async def test_a_map_ends_with_the_first_that_fails(client: Client) -> None:
    assert await client.run(counts()) == [1, 0, -1, -1, -1]
