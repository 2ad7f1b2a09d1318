"""What stores tell of what they keep: the same for every store."""

from __future__ import annotations

from perdure.engine.storage.api import RunKey, Store
from perdure.ids import shard_of
from tests.storage.make import LATER, NOW, ending, follow, item, key, put, queue, start


async def test_load_keeps_the_order_that_was_asked(store: Store) -> None:
    writes = [start(name) for name in "abc"]
    await put(store, *writes)
    chains = [key(name).chain for name in ("c", "missing", "a", "c")]
    loaded = await store.load(chains)
    assert [stored and stored.key.workflow_id for stored in loaded] == ["c", None, "a", "c"]
    assert await store.load([]) == []


async def test_load_run_finds_older_runs(store: Store) -> None:
    first = start("a")
    closed = ending(first)
    await put(store, first, closed, start("a", 2))
    stored = await store.load_run(first.key.chain, first.run_id)
    assert stored is not None
    assert (stored.key, stored.version, stored.status) == (first.key, 2, "Completed")
    assert stored.journal == [(first.history, first.private), (closed.history, closed.private)]
    assert await store.load_run(first.key.chain, "another") is None
    assert await store.load_run(key("b").chain, first.run_id) is None


async def test_ids_may_hold_any_character(store: Store) -> None:
    names = ["", " ", "ünï-☃", "with\0nul", "quote'\"`;--", "%_*?", "a" * 1_000, "a\nb", "\U0010ffff"]
    writes = [start(name, namespace=name)._replace(dedup=[(name, LATER)]) for name in names]
    assert set(await put(store, *writes)) == {"taken"}
    loaded = await store.load([write.key.chain for write in writes])
    assert [stored and stored.key for stored in loaded] == [write.key for write in writes]
    for write in writes:
        assert await store.taken(write.key.chain, [write.key.workflow_id, "x"], NOW) == {write.key.workflow_id}


async def test_similar_ids_share_no_request_ids(store: Store) -> None:
    await put(store, start("b", namespace="a")._replace(dedup=[("c", LATER)]))
    for namespace, workflow_id, request_id in (("ab", "", "c"), ("", "ab", "c"), ("a", "bc", ""), ("a", "", "bc")):
        assert await store.taken(key(workflow_id, 1, namespace).chain, [request_id], NOW) == set()


# --- The journal ----------------------------------------------------------------------------------------
async def test_a_history_is_paged_by_bytes(store: Store) -> None:
    write = start("a")._replace(history=b"x" * 100)
    await put(store, write)
    for _ in range(9):
        write = follow(write)._replace(history=b"x" * 100)
        await put(store, write)
    after, sizes = 0, list[int]()
    while True:
        page = await store.journal(write.key, after, 250)
        sizes.append(len(page.rows))
        if not page.next:
            break
        assert page.next == page.rows[-1][0]
        after = page.next
    assert sizes == [3, 3, 3, 1]
    assert len((await store.journal(write.key, 0, 0)).rows) == 1
    assert (await store.journal(write.key, 10, 100)) == ([], 0)
    assert (await store.journal(key("missing"), 0, 100)) == ([], 0)


async def test_rows_without_events_are_rows(store: Store) -> None:
    first = start("a")
    second = follow(first)._replace(history=b"")
    await put(store, first, second)
    assert (await store.journal(first.key, 0, 1_000)).rows == [(1, first.history), (2, b"")]
    [stored] = await store.load([first.key.chain])
    assert stored is not None
    assert stored.journal == [(first.history, first.private), (b"", second.private)]


# --- Wake-ups -------------------------------------------------------------------------------------------
async def test_due_runs_come_the_longest_due_first(store: Store) -> None:
    times = {"c": NOW - 5, "a": NOW - 9, "e": NOW, "b": NOW - 7, "d": NOW + 1, "never": 0}
    await put(store, *(start(name)._replace(wake_at=at) for name, at in times.items()))
    assert [(due.key, due.run_id, due.wake_at) for due in await store.due(NOW, 10)] == [
        (key(name), f"default/{name}/1", times[name]) for name in ("a", "b", "c", "e")
    ]
    assert [due.key.workflow_id for due in await store.due(NOW, 2)] == ["a", "b"]
    assert await store.due(NOW - 10, 10) == []


async def test_a_wake_up_changes_only_when_it_is_told_to(store: Store) -> None:
    first = start("a")._replace(wake_at=NOW)
    second = follow(first)
    third = follow(second)._replace(wake_at=NOW + 5)
    fourth = follow(third)._replace(wake_at=0)
    fifth = follow(fourth)._replace(wake_at=NOW)
    found = list[list[int]]()
    for write in (first, second, third, fourth, fifth):
        await put(store, write)
        found.append([due.wake_at for due in await store.due(LATER, 10)])
    assert found == [[NOW], [NOW], [NOW + 5], [], [NOW]]


async def test_a_run_is_due_once(store: Store) -> None:
    first = start("a")._replace(wake_at=NOW)
    second = follow(first)._replace(wake_at=NOW - 5)
    third = follow(second)._replace(wake_at=NOW)
    await put(store, first, second, third, follow(third)._replace(wake_at=NOW))
    assert [due.wake_at for due in await store.due(NOW, 10)] == [NOW]


async def test_closed_runs_keep_their_wake_up(store: Store) -> None:
    first = start("a")
    await put(store, first, ending(first)._replace(wake_at=NOW))
    assert [due.key for due in await store.due(NOW, 10)] == [first.key]


async def test_a_new_run_without_a_wake_up_has_none(store: Store) -> None:
    await put(store, start("a")._replace(wake_at=None))
    assert await store.due(LATER, 10) == []


# --- Running --------------------------------------------------------------------------------------------
async def test_running_runs_are_paged_in_the_order_of_their_shards(store: Store) -> None:
    writes = [start(f"w-{number}")._replace(running=number % 3) for number in range(30)]
    await put(store, *writes)
    expected = sorted((write.key for write in writes if write.running), key=lambda run: (shard_of(*run.chain), run))
    found = list[RunKey]()
    after: RunKey | None = None
    while page := await store.running(after, 7):
        assert len(page) <= 7
        found += page
        after = page[-1]
    assert found == expected
    await put(store, *(follow(write)._replace(running=0) for write in writes if write.running == 1))
    assert {run.workflow_id for run in await store.running(None, 100)} == {
        write.key.workflow_id for write in writes if write.running == 2
    }


# --- Backlogs -------------------------------------------------------------------------------------------
async def test_a_backlog_is_ordered_and_paged(store: Store) -> None:
    run = start("a")
    ordered = [item(run, *order) for order in ((9, 0, 0), (1, 0, 5), (2, 0, 5), (1, 1, 0), (3, 1, 0), (2, 1, 4))]
    assert ordered == sorted(ordered)
    await put(store, run._replace(backlog_added=[ordered[place] for place in (3, 0, 5, 1, 4, 2)]))
    assert await store.backlog(queue(), None, 10) == ordered
    assert await store.backlog(queue(), None, 2) == ordered[:2]
    assert await store.backlog(queue(), ordered[1], 3) == ordered[2:5]
    assert await store.backlog(queue(), ordered[-1], 3) == []
    gone = item(run, 2, 0, 4)
    assert await store.backlog(queue(), gone, 10) == ordered[1:], "the item to go on after need not exist"


async def test_backlogged_tasks_go_when_they_are_removed(store: Store) -> None:
    run = start("a")
    items = [item(run, number) for number in range(5)]
    await put(store, run._replace(backlog_added=items))
    second = follow(run)._replace(backlog_removed=[items[0], items[3], item(run, 99)])
    assert await put(store, second) == ["taken"]
    assert await store.backlog(queue(), None, 10) == [items[1], items[2], items[4]]
    stale = follow(run)._replace(backlog_removed=items)
    assert await put(store, stale) == ["stale"]
    third = follow(second)._replace(backlog_added=[items[0]], backlog_removed=[items[1]])
    await put(store, third)
    assert await store.backlog(queue(), None, 10) == [items[0], items[2], items[4]]


async def test_a_task_that_is_added_and_removed_in_one_group(store: Store) -> None:
    first = start("a")
    second, task = follow(first), item(first, 1)
    await put(store, first._replace(backlog_added=[task]), second._replace(backlog_removed=[task]))
    assert await store.backlog(queue(), None, 10) == []
    third = follow(second)
    await put(store, third._replace(backlog_removed=[task]), follow(third)._replace(backlog_added=[task]))
    assert await store.backlog(queue(), None, 10) == [task]


async def test_queues_are_apart(store: Store) -> None:
    queues = [
        queue("default", "activity", "one"),
        queue("eu", "activity", "one"),
        queue("default", "workflow", "one"),
        queue("default", "activity", "two"),
        queue("default", "activity", "one", "another"),
    ]
    for number, one in enumerate(queues):
        run = start(f"w-{number}", namespace=one.namespace)
        await put(store, run._replace(backlog_added=[item(run, number)._replace(queue=one)]))
    assert await store.backlogged_queues() == sorted(queues)
    for number, one in enumerate(queues):
        [found] = await store.backlog(one, None, 10)
        assert (found.queue, found.sequence, found.run.workflow_id) == (one, number, f"w-{number}")
    assert await store.backlog(queue("unknown"), None, 10) == []


async def test_tasks_whose_run_is_gone_can_be_dropped(store: Store) -> None:
    run, other = start("w"), start("other")
    items = [item(run, 1), item(run, 2)._replace(queue=queue("elsewhere"))]
    left = [item(other, 3), item(other, 4)]
    await put(store, run._replace(backlog_added=items), other._replace(backlog_added=left))
    await put(store, ending(run))
    await put(store, follow(ending(run))._replace(status="Completed", delete=True))
    await store.drop_backlog([])
    await store.drop_backlog([*items, item(run, 99)])
    assert await store.backlog(queue(), None, 10) == left
    assert await store.backlogged_queues() == [queue()]
    await store.drop_backlog(left)
    assert await store.backlogged_queues() == []


async def test_there_is_no_backlogged_queue_at_first(store: Store) -> None:
    assert await store.backlogged_queues() == []
