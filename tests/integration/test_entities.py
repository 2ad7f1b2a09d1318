"""Entities over every kind of engine: a stream of messages through many runs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure import RetryPolicy, embedded, workflow
from perdure.engine.core.decisions import messages
from perdure.engine.node import committer
from perdure.model.events import WorkflowExecutionContinuedAsNew
from perdure.sdk.client.client import Client
from perdure.sdk.workflow import facts
from tests.integration.engines import Engine, described, event_names
from tests.integration.work import echo

EARLY = 60
SIGNALS, SENDERS = 2_000, 20


@pytest.fixture(autouse=True)
def suggested_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entity rolls over after a few events, not after ten thousand."""
    monkeypatch.setattr(facts, "SUGGEST_CONTINUE_AS_NEW_EVENTS", EARLY)


@workflow(name="entities.Pet")
async def pet(name: str) -> str:
    return await workflow.receive("call", str)


@workflow(name="entities.Wanderer")
async def wanderer(at: int) -> None:
    await workflow.receive("on", str)
    workflow.continue_as_new(wanderer(at + 1))


@workflow(name="entities.Account", entity=True)
class Account:
    heard: list[int]
    runs: int
    rung: int
    gone: bool

    def __init__(self) -> None:
        self.heard = []
        self.runs = 0
        self.rung = 0
        self.gone = False

    async def run(self) -> tuple[list[int], int, int]:
        self.runs += 1
        while not self.gone:
            await workflow.idle()
        return self.heard, self.runs, self.rung

    @workflow.signal
    def hear(self, n: int) -> None:
        self.heard.append(n)

    @workflow.signal
    async def build(self, n: int) -> None:
        self.heard.append(int(await echo(f"{n}")))

    @workflow.signal
    def adopt(self) -> None:
        workflow.start(pet("rex"), id="rex")

    @workflow.signal
    def send_out(self) -> None:
        workflow.start(wanderer(0), id="wanderer")

    @workflow.signal
    def remind(self, seconds: float) -> None:
        workflow.alarm("bell", after=seconds)

    @workflow.on_alarm("bell")
    async def ring(self) -> None:
        await echo("ding")
        self.rung += 1

    @workflow.update
    def ask(self, n: int) -> int:
        self.heard.append(n)
        return n + 1

    @workflow.update
    async def hear_bell(self) -> int:
        await workflow.wait_until(lambda: self.rung > 0)
        return self.rung

    @workflow.signal
    def end(self) -> None:
        self.gone = True

    @workflow.query
    def counts(self) -> tuple[int, int, int]:
        return len(self.heard), self.runs, self.rung


async def test_no_message_is_lost_or_doubled_through_the_runs(client: Client) -> None:
    await client.start(Account(), id="account")
    account = client.get("account", Account)
    sent = [account.signal(Account.hear, n) for n in range(300)]
    built = [account.signal(Account.build, n) for n in range(300, 330)]
    asked = [account.update(Account.ask, n) for n in range(1_000, 1_050)]
    answers = await asyncio.gather(*sent, *built, *asked)
    assert answers[330:] == [n + 1 for n in range(1_000, 1_050)]
    for n in range(330, 500):
        await account.signal(Account.hear, n)
    await account.signal(Account.end)
    heard, runs, _ = await account.result()
    assert sorted(heard) == [*range(500), *range(1_000, 1_050)]
    assert runs > 2
    assert len(await event_names(client.get("account"))) < 3 * EARLY + 500


async def test_a_restart_between_the_runs(engine: Engine) -> None:
    async with engine.open() as client:
        await client.start(Account(), id="account")
        for n in range(100):
            await client.get("account", Account).signal(Account.hear, n)
    async with engine.open() as client:
        account = client.get("account", Account)
        length, runs, _ = await account.query(Account.counts)
        assert length == 100
        assert runs > 1
        await account.signal(Account.end)
        assert (await account.result())[0] == list(range(100))


async def test_alarms_and_children_go_on_through_the_runs(client: Client) -> None:
    await client.start(Account(), id="account")
    account = client.get("account", Account)
    await account.signal(Account.adopt)
    await account.signal(Account.remind, 0.3)
    for n in range(100):
        await account.signal(Account.hear, n)
    _, runs, _ = await account.query(Account.counts)
    assert runs > 1
    child = client.get("rex")
    await child.signal("call", "here")
    assert await child.result() == "here"
    assert await account.update(Account.hear_bell) == 1
    await account.signal(Account.end)
    assert (await account.result())[2] == 1


async def test_a_child_of_an_earlier_run_ends_with_the_entity(client: Client) -> None:
    await client.start(Account(), id="account")
    account = client.get("account", Account)
    await account.signal(Account.adopt)
    for n in range(100):
        await account.signal(Account.hear, n)
    assert (await client.get("rex").describe()).status == "Running"
    await account.signal(Account.end)
    await account.result()
    with pytest.raises(Exception, match="terminated"):
        await client.get("rex").result()


async def test_a_child_that_is_in_a_later_run_itself_ends_with_the_entity(client: Client) -> None:
    await client.start(Account(), id="account")
    account, child = client.get("account", Account), client.get("wanderer")
    await account.signal(Account.send_out)
    for n in range(100):
        await account.signal(Account.hear, n)
    first = (await child.describe()).run_id
    await child.signal("on", "further")
    await described(child, lambda now: now.run_id != first)
    await account.signal(Account.end)
    await account.result()
    await described(child, lambda now: now.status == "Terminated")


async def test_a_child_of_an_earlier_run_stays_with_an_entity_that_is_reset(client: Client) -> None:
    await client.start(Account(), id="account")
    account = client.get("account", Account)
    await account.signal(Account.adopt)
    for n in range(100):
        await account.signal(Account.hear, n)
    _, runs, _ = await account.query(Account.counts)
    again = await account.reset(to="first")
    assert (await client.get("rex").describe()).status == "Running"
    heard, _, _ = await again.query(Account.counts)
    assert (runs > 1, heard) == (True, 100)
    await again.signal(Account.end)
    await again.result()
    with pytest.raises(Exception, match="terminated"):
        await client.get("rex").result()


@workflow(name="entities.Counter", entity=True)
class Counter:
    count: int = 0
    gone: bool = False

    async def run(self) -> int:
        while not self.gone:
            await workflow.idle()
        return self.count

    @workflow.signal
    def add(self) -> None:
        self.count += 1

    @workflow.signal
    def end(self) -> None:
        self.gone = True


async def test_many_signals_leave_each_run_short_and_what_goes_over_small(client: Client) -> None:
    """However many there are: a replay reads no more than one run, and no run has more than one roll-over's worth."""
    handle = await client.start(Counter(), id="counter")
    counter = client.get("counter", Counter)
    left = iter(range(SIGNALS))

    async def send() -> None:
        for _ in left:
            await counter.signal(Counter.add)

    await asyncio.gather(*(send() for _ in range(SENDERS)))
    await counter.signal(Counter.end)
    assert await counter.result() == SIGNALS
    lengths, headers, run_id = list[int](), list[int](), handle.run_id
    while run_id:
        events = [event async for event in client.get("counter", run_id=run_id).history()]
        lengths.append(len(events))
        end = events[-1]
        run_id = end.new_run_id if isinstance(end, WorkflowExecutionContinuedAsNew) else ""
        if isinstance(end, WorkflowExecutionContinuedAsNew):
            headers.append(sum(len(value.data) for value in (end.header or {}).values()))
    longest = EARLY + 4 * SENDERS
    assert max(lengths) <= longest
    assert SIGNALS / longest <= len(lengths) <= 2 * SIGNALS / (EARLY - 10)
    assert max(headers) <= min(headers) + len(str(SIGNALS))


async def test_the_journal_of_a_run_is_no_longer_than_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the store grows with the messages beyond them: a loaded run is one snapshot and a few rows."""
    monkeypatch.setattr(committer, "SNAPSHOT_MINIMUM", 1_000)  # of so short a history there would be none
    path = tmp_path / "counter.db"
    async with embedded(path) as client:
        await client.start(Counter(), id="counter")
        counter = client.get("counter", Counter)
        for _ in range(SIGNALS // SENDERS):
            await asyncio.gather(*(counter.signal(Counter.add) for _ in range(SENDERS)))
    with closing(sqlite3.connect(path)) as file:
        (rows,) = file.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM journal GROUP BY run)").fetchone()
        (state,) = file.execute("SELECT max(length(state)) FROM snapshot").fetchone()
        (remembered,) = file.execute("SELECT count(*) FROM dedup").fetchone()
    assert rows <= EARLY + 4 * SENDERS
    assert state < 4_096
    assert remembered <= SIGNALS + 2  # a request id each, for a week


async def test_without_a_quiet_moment_it_is_held_at_the_hard_limit(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_HISTORY_EVENTS", 2 * EARLY)

    @workflow(name="entities.Restless", entity=True)
    class Restless:
        heard: int = 0

        async def run(self) -> None:
            await workflow.receive("never", int)

        @workflow.signal
        def hear(self) -> None:
            self.heard += 1

    handle = await client.start(Restless(), id="restless")
    while not (reason := (await handle.describe()).hold_reason):
        await handle.signal(Restless.hear)
    assert "the history has" in reason
    assert (await handle.describe()).status == "Running"


async def test_an_entity_takes_no_retry_policy(client: Client) -> None:
    policy, told = RetryPolicy(maximum_attempts=2), "entities.Account is an entity, which takes no retry_policy"

    @workflow(name="entities.founder")
    async def founder() -> str:
        try:
            workflow.start(Account(), retry_policy=policy)
        except ValueError as error:
            return str(error)
        return ""

    with pytest.raises(ValueError, match=told):
        await client.start(Account(), retry_policy=policy)
    assert told in await client.run(founder())
