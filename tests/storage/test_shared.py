"""What several nodes need of a store that they share: the same for every store that can be shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure.clock import DAY, SECOND
from perdure.engine.storage import memory_nodes, postgres
from perdure.engine.storage.api import (
    BacklogGrew,
    BacklogItem,
    MembersChanged,
    Membership,
    Notice,
    NoticesLost,
    Question,
    QuestionsMoved,
    RunMoved,
    Scope,
    Shared,
)
from perdure.ids import shard_of
from perdure.limits import SHARDS
from tests.storage.make import LATER, NOW, ending, follow, item, key, put, queue, start
from tests.storage.places import SHARED_PLACES

Nodes = Callable[[], Awaitable[tuple[Shared, int]]]
EVERYWHERE = frozenset(range(SHARDS))
LONG = 3600 * SECOND


@pytest.fixture(params=SHARED_PLACES)
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    """Makes further nodes over one place: each a store that has joined, and its number."""
    place = SHARED_PLACES[request.param](tmp_path)
    async with AsyncExitStack() as stack:

        async def node() -> tuple[Shared, int]:
            store = place.shared()
            await store.open(NOW)
            stack.push_async_callback(store.close)
            return store, await store.join()

        yield node


class Ear:
    """Keeps what a node hears."""

    def __init__(self) -> None:
        self.heard: list[Notice] = []
        self._news = asyncio.Event()

    def __call__(self, notice: Notice) -> None:
        self.heard.append(notice)
        self._news.set()

    async def until(self, *notices: Notice) -> list[Notice]:
        """Wait for one of the notices; what was heard up to it, and is forgotten now."""
        async with asyncio.timeout(10):
            while not set(notices) & set(self.heard):
                self._news.clear()
                await self._news.wait()
        heard, self.heard = self.heard, []
        return heard


async def listening(store: Shared, node: int) -> Ear:
    ear = Ear()
    await store.listen(node, ear)
    return ear


# --- Membership -----------------------------------------------------------------------------------------
async def test_every_node_has_a_number_of_its_own(nodes: Nodes) -> None:
    numbers = [number for _, number in [await nodes(), await nodes(), await nodes()]]
    assert len(set(numbers)) == 3
    assert min(numbers) > 0


async def test_who_was_renewed_is_alive(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    seen = await one.renew(first, ["a", "b"], LONG)
    assert (seen.nodes, seen.workers) == ({first}, {"a": first, "b": first}), "the other has not said that it lives"
    seen = await two.renew(second, ["c"], LONG)
    assert (seen.nodes, seen.workers) == ({first, second}, {"a": first, "b": first, "c": second})
    seen = await one.renew(first, ["b"], LONG)
    assert seen.workers == {"b": first, "c": second}, "it names a no longer"
    seen = await two.renew(second, ["b"], LONG)
    assert seen.workers == {"b": second}, "it has moved"
    assert (await one.renew(first, [], LONG)).now >= seen.now


async def test_who_is_not_renewed_is_not_alive(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    await two.renew(second, ["c"], 0)
    seen = Membership(0, frozenset({second}), {}, second)
    async with asyncio.timeout(10):
        while second in seen.nodes:
            seen = await one.renew(first, [], LONG)
    assert (seen.workers, seen.newest) == ({}, second), "that it was there is known"
    assert second in (await two.renew(second, ["c"], LONG)).nodes, "it lives again"


async def test_who_is_gone_for_long_is_forgotten(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    await two.renew(second, [], 0)
    for _ in range(3):
        assert (await one.renew(first, [], LONG)).newest == second, "limits.MEMBER_REMEMBERED is not over"
    for module in (postgres, memory_nodes):
        monkeypatch.setattr(module, "MEMBER_REMEMBERED", 0)
    async with asyncio.timeout(10):
        while (await one.renew(first, [], LONG)).newest == second:
            pass


async def test_who_leaves_is_gone_at_once(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    await two.renew(second, ["c"], LONG)
    ear = await listening(one, first)
    await two.close()
    await ear.until(MembersChanged())
    assert (await one.renew(first, [], LONG)).nodes == {first}
    await two.open(NOW)
    assert await two.join() not in (first, second)
    await ear.until(MembersChanged())


# --- Notices --------------------------------------------------------------------------------------------
async def test_who_watches_hears_of_commits(nodes: Nodes) -> None:
    (one, first), (two, _) = await nodes(), await nodes()
    ear = await listening(one, first)
    run, other = start("a"), start("b")
    await one.watch(first, run.key.chain)
    await one.watch(first, run.key.chain)
    await put(two, run, other)
    assert await ear.until(RunMoved(run.key.chain)) == [RunMoved(run.key.chain)]
    await put(two, follow(follow(run)))  # is refused
    await put(two, follow(run), follow(other))
    await one.watch(first, other.key.chain)
    await one.unwatch(first, [run.key.chain, key("never").chain])
    await ear.until(RunMoved(run.key.chain))
    await put(two, follow(follow(run)), follow(follow(other)))
    assert await ear.until(RunMoved(other.key.chain)) == [RunMoved(other.key.chain)]


async def test_a_write_may_name_who_hears_of_it(nodes: Nodes) -> None:
    (one, first), (two, _) = await nodes(), await nodes()
    ear = await listening(one, first)
    run = start("a")
    await put(two, run._replace(expected=7, notify=[first]), start("b")._replace(notify=[first, 9_999]))
    assert await ear.until(RunMoved(key("b").chain)) == [RunMoved(key("b").chain)], "the refused write tells nobody"


async def test_all_hear_of_a_backlog(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    ear, other = await listening(one, first), await listening(two, second)
    run = start("a")
    await put(two, run._replace(backlog_added=[item(run, 1), item(run, 2), item(run, 3, name="eu")]))
    await ear.until(BacklogGrew(queue()))
    if BacklogGrew(queue("eu")) not in ear.heard:
        await put(two, follow(run)._replace(backlog_added=[item(run, 4, name="eu")]))
    await ear.until(BacklogGrew(queue("eu")))
    assert other.heard == [], "who did it knows"


async def test_ids_of_any_length_are_told_or_said_to_be_lost(nodes: Nodes) -> None:
    (one, first), (two, _) = await nodes(), await nodes()
    ear = await listening(one, first)
    for character in ("a", "\0", "☃", "\U0001f600"):
        run = start(character * 1_000, namespace=character * 1_000)
        await one.watch(first, run.key.chain)
        await put(two, run)
        await ear.until(RunMoved(run.key.chain), NoticesLost())


# --- Scopes ---------------------------------------------------------------------------------------------
async def test_what_is_due_in_a_scope(nodes: Nodes) -> None:
    store, _ = await nodes()
    homes = {"mine": 1, "other": 2, "gone": 3, "nobody": 0}
    writes = [start(name)._replace(home=home, wake_at=NOW - home, running=1) for name, home in homes.items()]
    late = [start(f"{name}-late")._replace(home=home, wake_at=LATER) for name, home in homes.items()]
    await put(store, *writes, *late)

    async def due(scope: Scope, now: int = NOW) -> list[str]:
        return [one.key.workflow_id for one in await store.due_in(scope, now, 100)]

    async def running(scope: Scope) -> set[str]:
        return {run.workflow_id for run in await store.running_in(scope, None, 100)}

    alive = frozenset({1, 2})
    assert await due(Scope(1, alive, EVERYWHERE)) == ["gone", "mine", "nobody"]
    assert await running(Scope(1, alive, EVERYWHERE)) == {"gone", "mine", "nobody"}
    assert await due(Scope(1, alive, frozenset())) == ["mine"]
    assert await running(Scope(1, alive, frozenset())) == {"mine"}
    shard, other = (frozenset({shard_of(*key(name).chain)}) for name in ("gone", "other"))
    assert await due(Scope(1, alive, shard)) == ["gone", "mine"]
    assert await due(Scope(1, alive, EVERYWHERE - shard)) == ["mine", "nobody"]
    assert await due(Scope(1, alive, EVERYWHERE, overdue=NOW - 3)) == ["gone", "mine", "nobody"]
    for scope, expected in {
        Scope(1, alive, frozenset(), overdue=NOW - 2): ["mine"],
        Scope(1, alive, shard, overdue=NOW - 2): ["gone", "mine"],
        Scope(1, alive, other, overdue=NOW - 2): ["other", "mine"],
        Scope(1, alive, EVERYWHERE, overdue=NOW - 2): ["gone", "other", "mine", "nobody"],
        Scope(1, alive, other, overdue=NOW - 2, abandoned=NOW - 3): ["gone", "other", "mine"],
        Scope(1, alive, frozenset(), overdue=NOW - 2, abandoned=NOW - 2): ["gone", "other", "mine"],
    }.items():
        assert await due(scope) == expected
        assert await running(scope) == set(expected)
    assert await due(Scope(9, alive | {9}, frozenset())) == []
    assert len(await due(Scope(1, frozenset({1}), EVERYWHERE), LATER)) == 8
    assert [one.key.workflow_id for one in await store.due_in(Scope(1, alive, EVERYWHERE), NOW, 2)] == ["gone", "mine"]


async def test_running_runs_in_a_scope_are_paged(nodes: Nodes) -> None:
    store, _ = await nodes()
    writes = [start(f"w-{number}")._replace(running=1, home=1 + number % 2) for number in range(30)]
    await put(store, *writes)
    scope = Scope(1, frozenset({1, 2}), frozenset())
    mine = [write.key for write in writes if write.home == 1]
    expected = sorted(mine, key=lambda run: (shard_of(*run.chain), run))
    found = list[object]()
    after = None
    while page := await store.running_in(scope, after, 4):
        found += page
        after = page[-1]
    assert found == expected


async def test_a_home_is_kept_and_changed(nodes: Nodes) -> None:
    store, _ = await nodes()
    first = start("a")._replace(home=3)
    await put(store, first)
    assert [run.home for run in await store.load([first.key.chain]) if run] == [3]
    await put(store, follow(first)._replace(home=4))
    assert [run.home for run in await store.load([first.key.chain]) if run] == [4]


# --- Claims ---------------------------------------------------------------------------------------------
async def fill(store: Shared, count: int, *names: str) -> list[BacklogItem]:
    """Tasks in queues, in turn."""
    run = start("tasks")
    items = [item(run, number, name=names[number % len(names)]) for number in range(count)]
    await put(store, run._replace(backlog_added=items))
    return items


async def test_claims_come_in_the_order_of_all_queues(nodes: Nodes) -> None:
    store, node = await nodes()
    items = await fill(store, 9, "a", "b", "c")
    alive = frozenset({node})
    wanted = [queue("c"), queue("a"), queue("none")]
    assert await store.claim(node, wanted, 3, alive, LONG) == [items[0], items[2], items[3]]
    assert await store.claim(node, wanted, 9, alive, LONG) == [items[5], items[6], items[8]]
    assert await store.claim(node, wanted, 9, alive, LONG) == [], "they are claimed"
    assert await store.claim(node, [], 9, alive, LONG) == []
    assert await store.claim(node, [queue("b")], 1, alive, LONG) == [items[1]]


async def test_a_claim_ends(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    items = await fill(one, 4, "a")
    both, alone = frozenset({first, second}), frozenset({second})
    assert await one.claim(first, [queue("a")], 2, both, LONG) == items[:2]
    assert await two.claim(second, [queue("a")], 1, both, LONG) == items[2:3]
    await two.unclaim(second, [items[0]])  # is not its own
    await one.unclaim(first, [items[1]])
    assert await two.claim(second, [queue("a")], 4, both, LONG) == [items[1], items[3]]
    assert await two.claim(second, [queue("a")], 4, alone, 0) == [items[0]], "its node is gone"
    async with asyncio.timeout(10):
        while not (found := await one.claim(first, [queue("a")], 4, both, LONG)):
            pass
    assert found == [items[0]], "its lease was over"
    run = follow(start("tasks"))
    await put(one, run._replace(backlog_removed=items[:3]))
    assert await one.backlog(queue("a"), None, 10) == items[3:]


async def test_what_is_put_in_a_place_anew_is_not_claimed(nodes: Nodes) -> None:
    store, node = await nodes()
    items = await fill(store, 1, "a")
    assert await store.claim(node, [queue("a")], 1, frozenset({node}), DAY) == items
    run = follow(start("tasks"))
    again = items[0]._replace(attempt=2)
    await put(store, run._replace(backlog_added=[again]))
    assert await store.claim(node, [queue("a")], 1, frozenset({node}), DAY) == [again]


async def test_no_task_is_claimed_twice(nodes: Nodes) -> None:
    members = [await nodes() for _ in range(4)]
    items = await fill(members[0][0], 400, "a", "b")
    alive = frozenset(number for _, number in members)

    async def work(store: Shared, node: int) -> Sequence[BacklogItem]:
        mine: list[BacklogItem] = []
        while claimed := await store.claim(node, [queue("a"), queue("b")], 7, alive, LONG):
            mine += claimed
        return mine

    claimed = await asyncio.gather(*(work(store, node) for store, node in members))
    left = await members[0][0].claim(members[0][1], [queue("a"), queue("b")], 400, alive, LONG)
    everything = sorted([one for mine in claimed for one in mine] + list(left))
    assert everything == sorted(items)


# --- Commits --------------------------------------------------------------------------------------------
async def test_one_of_two_nodes_is_faster(nodes: Nodes) -> None:
    (one, _), (two, _) = await nodes(), await nodes()
    for number in range(20):
        runs = [start(f"w-{number}-{part}") for part in range(5)]
        for mine, others in ((runs, runs), ([ending(run) for run in runs], [follow(run) for run in runs])):
            here, there = await asyncio.gather(put(one, *mine), put(two, *reversed(others)))
            for pair in zip(here, reversed(there), strict=True):
                assert sorted(pair) == ["stale", "taken"]


async def test_what_one_node_committed_another_can_settle(nodes: Nodes) -> None:
    (one, _), (two, _) = await nodes(), await nodes()
    first = start("a")
    second = follow(first)
    await put(one, first)
    await put(two, second)
    await put(two, follow(second))
    assert await one.committed([first]) == [True]
    assert await one.committed([second]) == [True]
    assert await one.committed([follow(first)]) == [False]


# --- Questions ------------------------------------------------------------------------------------------
async def test_a_question_is_answered_by_another_node(nodes: Nodes) -> None:
    (one, first), (two, second) = await nodes(), await nodes()
    ears = [await listening(one, first), await listening(two, second)]
    question = Question("q\N{SNOWMAN}", first, queue("eu", "workflow"), b"\0 what?")
    await one.ask(question, LONG)
    await ears[1].until(QuestionsMoved())
    assert await two.asked([queue("us", "workflow")], [], LONG) == [], "they have not the code"
    assert await two.asked([queue("us", "workflow"), queue("eu", "workflow")], [], LONG) == [question]
    assert await one.asked([queue("eu", "workflow")], [], LONG) == [], "it is given to one at a time"
    assert await one.answers(first) == []
    await two.answer(question, b"so")
    await ears[0].until(QuestionsMoved())
    await two.answer(question, b"otherwise")
    assert await two.answers(second) == [], "it is not its question"
    assert await one.answers(first) == [(question.id, b"so")]
    assert await one.answers(first) == [], "it is told once"


async def test_a_question_is_given_to_the_next_when_nobody_answers(nodes: Nodes) -> None:
    (one, first), (two, _) = await nodes(), await nodes()
    question = Question("q", first, queue("eu", "workflow"), b"")
    await one.ask(question, LONG)
    assert await two.asked([question.queue], [], 0) == [question]
    await one.ask(question, LONG)
    assert await two.asked([question.queue], [], LONG) == [question], "it was put twice, and is one"
    await one.ask(question._replace(id="r"), LONG)
    assert await one.asked([question.queue], ["r"], LONG) == [], "it knows of it already"
    assert await two.asked([question.queue], [], LONG) == [question._replace(id="r")]


async def test_a_question_is_forgotten(nodes: Nodes) -> None:
    (one, first), (two, _) = await nodes(), await nodes()
    question = Question("q", first, queue("eu", "workflow"), b"")
    await one.ask(question, 0)
    assert await two.asked([question.queue], [], LONG) == []
    await two.answer(question, b"late")
    assert await one.answers(first) == []
