"""Which writes are taken, and what a commit leaves behind: the same for every store."""

from __future__ import annotations

from perdure.engine.storage.api import RunKey, Store, StoredRun
from tests.storage.make import LATER, NOW, ending, follow, item, key, put, queue, seen, start
from tests.storage.places import Place


async def test_a_run_is_stored_as_it_was_written(store: Store) -> None:
    write = start("a")._replace(wake_at=LATER, running=3)
    assert await put(store, write) == ["taken"]
    [stored] = await store.load([write.key.chain])
    assert stored is not None
    journal = [(write.history, write.private)]
    assert stored == StoredRun(write.key, write.run_id, 1, "Running", LATER, 3, None, 0, journal)
    assert isinstance(stored.key, RunKey)


async def test_a_write_needs_the_version_that_it_was_built_on(store: Store) -> None:
    first = start("a")
    await put(store, first)
    second = follow(first)
    assert await put(store, second) == ["taken"]
    assert await put(store, second) == ["stale"]
    assert await put(store, follow(first)) == ["stale"]
    assert await put(store, follow(start("b"))) == ["stale"]
    assert await store.versions([key("a"), key("b")]) == [2, 0]
    assert [version for version, _ in (await store.journal(key("a"), 0, 10_000)).rows] == [1, 2]


async def test_versions_may_leap(store: Store) -> None:
    first = start("a")._replace(version=3)
    await put(store, first)
    assert await put(store, follow(first)._replace(version=7)) == ["taken"]
    assert [version for version, _ in (await store.journal(key("a"), 0, 10_000)).rows] == [3, 7]


async def test_a_refused_write_does_not_refuse_its_group(store: Store) -> None:
    first, other = start("a"), start("b")
    await put(store, first, other)
    assert await put(store, follow(first), follow(follow(other)), start("c")) == ["taken", "stale", "taken"]
    assert await store.versions([key("a"), key("b"), key("c")]) == [2, 1, 1]


async def test_an_empty_group_and_a_group_of_refused_writes(store: Store) -> None:
    assert await put(store) == []
    assert await put(store, follow(start("a"))) == ["stale"]
    assert await put(store, start("a")) == ["taken"]


async def test_a_large_group(store: Store) -> None:
    writes = [start(f"w-{number}") for number in range(1_000)]
    assert set(await put(store, *writes)) == {"taken"}
    following = [follow(write)._replace(wake_at=LATER if number % 3 else None) for number, write in enumerate(writes)]
    stale = [write._replace(expected=9) if number % 7 == 0 else write for number, write in enumerate(following)]
    verdicts = await put(store, *stale)
    assert [number for number, verdict in enumerate(verdicts) if verdict == "stale"] == list(range(0, 1_000, 7))
    loaded = await store.load([write.key.chain for write in writes])
    assert [stored.version if stored else 0 for stored in loaded] == [
        1 if verdict == "stale" else 2 for verdict in verdicts
    ]


# --- Chains of runs -------------------------------------------------------------------------------------
async def test_runs_are_numbered_without_gaps(store: Store) -> None:
    assert await put(store, start("a", 2)) == ["stale"]
    first = start("a")
    await put(store, first)
    assert await put(store, start("a")) == ["stale"]
    assert await put(store, start("a", 2)) == ["stale"], "the run before it is open"
    assert await put(store, ending(first)) == ["taken"]
    assert await put(store, start("a", 3)) == ["stale"]
    second = start("a", 2)
    assert await put(store, second) == ["taken"]
    [latest] = await store.load([first.key.chain])
    assert latest is not None
    assert latest.key == second.key


async def test_a_run_and_its_successor_are_one_step(store: Store) -> None:
    first = start("a")
    await put(store, first)
    assert await put(store, ending(first), start("a", 2)) == ["taken", "taken"]
    assert await put(store, ending(first), start("a", 3)) == ["stale", "stale"]
    second = follow(start("a", 2))
    for other in (start("a", 4), start("a", 2), start("a", 1)):
        assert await put(store, second._replace(status="Failed"), other) == ["stale", "stale"]
        assert await put(store, other, second._replace(status="Failed")) == ["stale", "stale"]
    assert await store.versions([second.key, key("a", 4)]) == [1, 0]


async def test_a_refused_successor_leaves_its_predecessor_open(store: Store) -> None:
    first = start("a")._replace(dedup=[("request", LATER)])
    await put(store, first)
    successor = start("a", 2)._replace(dedup=[("request", LATER)])
    assert await put(store, ending(first), successor, start("b")) == ["stale", "duplicate", "taken"]
    [latest] = await store.load([first.key.chain])
    assert latest is not None
    assert (latest.version, latest.status) == (1, "Running")


async def test_several_steps_of_one_run_in_a_group(store: Store) -> None:
    first = start("a")
    second = follow(first)._replace(wake_at=LATER, running=1)
    third = ending(second)
    assert await put(store, first, second, third, start("a", 2)) == ["taken"] * 4
    stored = await store.load_run(first.key.chain, first.run_id)
    assert stored is not None
    assert (stored.version, stored.status, stored.wake_at, stored.running) == (3, "Completed", LATER, 1)
    assert stored.journal == [(write.history, write.private) for write in (first, second, third)]


async def test_namespaces_are_apart(store: Store) -> None:
    one, two = start("a", namespace="one"), start("a", namespace="two")
    assert await put(store, one, two) == ["taken", "taken"]
    [stored] = await store.load([two.key.chain])
    assert stored is not None
    assert stored.run_id == two.run_id


# --- Request ids ----------------------------------------------------------------------------------------
async def test_a_request_id_is_taken_once_by_a_chain(store: Store) -> None:
    first = start("a")._replace(dedup=[("request", LATER)])
    await put(store, first)
    again = follow(first)._replace(dedup=[("other", LATER), ("request", LATER)])
    assert await put(store, again) == ["duplicate"]
    assert await store.taken(first.key.chain, ["request", "other"], NOW) == {"request"}
    assert await put(store, start("b")._replace(dedup=[("request", LATER)])) == ["taken"]


async def test_duplicate_is_said_before_stale(store: Store) -> None:
    first = start("a")._replace(dedup=[("request", LATER)])
    await put(store, first)
    assert await put(store, start("a")._replace(dedup=[("request", LATER)])) == ["duplicate"]


async def test_request_ids_outlive_their_run(store: Store) -> None:
    first = start("a")._replace(dedup=[("request", LATER)])
    await put(store, first)
    closed = ending(first)
    await put(store, closed)
    await put(store, follow(closed)._replace(delete=True))
    assert await put(store, start("a")._replace(dedup=[("request", LATER)])) == ["duplicate"]


async def test_a_request_id_that_occurs_twice_in_a_group(store: Store) -> None:
    one, two = start("a"), start("b")
    await put(store, one, two)
    same = [("request", LATER)]
    assert await put(store, follow(one)._replace(dedup=same), follow(two)._replace(dedup=same)) == ["taken", "taken"]
    three = start("c")
    await put(store, three)
    step = follow(three)._replace(dedup=same)
    assert await put(store, step, follow(step)._replace(dedup=same)) == ["stale", "duplicate"]
    assert await put(store, step._replace(dedup=same * 2)) == ["taken"]


async def test_request_ids_are_forgotten_when_they_expire(store: Store) -> None:
    first = start("a")._replace(dedup=[("soon", NOW + 10), ("late", LATER)])
    await put(store, first)
    assert await store.taken(first.key.chain, ["soon", "late"], NOW + 9) == {"soon", "late"}
    assert await store.taken(first.key.chain, ["soon", "late"], NOW + 10) == {"late"}
    second = follow(first)._replace(dedup=[("soon", LATER)])
    assert await put(store, second, now=NOW + 9) == ["duplicate"]
    assert await put(store, second, now=NOW + 10) == ["taken"]
    assert await store.taken(first.key.chain, ["soon"], NOW + 10) == {"soon"}


async def test_forget_deletes_what_has_expired(store: Store) -> None:
    expiries = [NOW + number for number in range(10)]
    write = start("a")._replace(dedup=[(f"request-{expiry}", expiry) for expiry in expiries])
    await put(store, write)
    assert await store.forget(NOW + 5, 4) == 4
    assert await store.forget(NOW + 5, 4) == 2
    assert await store.forget(NOW + 5, 4) == 0
    assert len(await store.taken(write.key.chain, [request_id for request_id, _ in write.dedup], NOW)) == 4


async def test_taken_of_nothing(store: Store) -> None:
    assert await store.taken(key("a").chain, [], NOW) == set()


# --- Snapshots and deletion -----------------------------------------------------------------------------
async def test_a_snapshot_stands_for_the_journal_before_it(store: Store) -> None:
    first = start("a")
    second = follow(first)
    third = follow(second)._replace(snapshot=b"state at 3")
    fourth = follow(third)
    for write in (first, second, third, fourth):
        await put(store, write)
    [stored] = await store.load([first.key.chain])
    assert stored is not None
    assert (stored.snapshot, stored.snapshot_version, stored.version) == (b"state at 3", 3, 4)
    assert stored.journal == [(fourth.history, fourth.private)]
    await put(store, follow(fourth)._replace(snapshot=b"state at 5"))
    [stored] = await store.load([first.key.chain])
    assert stored is not None
    assert (stored.snapshot, stored.snapshot_version, stored.journal) == (b"state at 5", 5, [])
    histories = [history for _, history in (await store.journal(first.key, 0, 10_000)).rows]
    assert histories[:4] == [write.history for write in (first, second, third, fourth)]


async def test_a_run_may_begin_with_a_snapshot(store: Store) -> None:
    first = start("a")._replace(snapshot=b"state")
    await put(store, first)
    [stored] = await store.load([first.key.chain])
    assert stored is not None
    assert (stored.snapshot, stored.snapshot_version, stored.journal) == (b"state", 1, [])


async def test_deletion_leaves_nothing_of_a_run(store: Store) -> None:
    first = seen(start("a")._replace(wake_at=NOW, running=1, snapshot=b"state"), env="test")
    other = seen(start("b")._replace(wake_at=NOW, running=1), env="test")
    await put(store, first, other)
    gone = follow(first)._replace(delete=True)
    assert await put(store, gone._replace(expected=7)) == ["stale"]
    assert await put(store, gone) == ["taken"]
    assert await store.load([first.key.chain]) == [None]
    assert await store.load_run(first.key.chain, first.run_id) is None
    assert await store.versions([first.key]) == [0]
    assert (await store.journal(first.key, 0, 1_000)).rows == []
    assert [due.key for due in await store.due(NOW, 10)] == [other.key]
    assert await store.running(None, 10) == [other.key]
    for query in ("", "env = 'test'"):
        rows, _ = await store.list("default", query, "", 10)
        assert [row.workflow_id for row in rows] == ["b"]


async def test_deletion_in_a_group_with_the_rest_of_its_chain(store: Store) -> None:
    first = start("a")
    closed = ending(first)
    await put(store, first, closed, start("a", 2))
    gone = follow(closed)._replace(delete=True)
    running = follow(start("a", 2))
    assert await put(store, gone, running) == ["taken", "taken"]
    closed = ending(running)
    await put(store, closed)
    gone = follow(closed)._replace(delete=True)
    assert await put(store, gone, start("a", 2)) == ["stale", "stale"], "its number is not free in the same step"
    assert await put(store, gone, start("a", 3)) == ["taken", "taken"]
    assert await put(store, gone) == ["stale"]
    [stored] = await store.load([first.key.chain])
    assert stored is not None
    assert stored.key == key("a", 3)


async def test_the_numbering_starts_anew_when_all_runs_are_deleted(store: Store) -> None:
    first = start("a")
    closed = ending(first)
    await put(store, first, closed, follow(closed)._replace(delete=True))
    assert await put(store, start("a", 2)) == ["stale"]
    assert await put(store, start("a")) == ["taken"]


# --- Settling what `commit` did not tell ----------------------------------------------------------------
async def test_what_was_committed_can_be_asked(store: Store) -> None:
    first, other, refused = start("a"), start("b"), start("b")
    await put(store, first, other)
    assert await store.committed([first, refused, other._replace(key=key("c"))]) == [True, False, False]
    second = follow(first)
    assert await store.committed([second]) == [False]
    closed, successor = ending(first), start("a", 2)
    await put(store, closed, successor)
    assert await store.committed([closed, successor]) == [True, True]
    assert await store.committed([second]) == [False], "another commit led to that version"
    assert await store.committed([]) == []


async def test_several_steps_of_one_run_were_committed_or_not(store: Store) -> None:
    first = start("a")
    second = follow(first)
    await put(store, first)
    assert await store.committed([first, second]) == [False, False]
    await put(store, second)
    assert await store.committed([first, second]) == [True, True]


async def test_a_deletion_was_committed_when_the_run_is_gone(store: Store) -> None:
    first = start("a")
    closed = ending(first)
    await put(store, first, closed)
    gone = follow(closed)._replace(delete=True)
    assert await store.committed([gone]) == [False]
    await put(store, gone)
    assert await store.committed([gone]) == [True]


# --- Opening, closing, crashing -------------------------------------------------------------------------
async def test_openings_are_numbered(place: Place) -> None:
    numbers: list[int] = []
    for _ in range(3):
        store = place.store()
        await store.open(NOW)
        numbers.append(store.opening)
        await store.close()
    assert len({*numbers}) == 3


async def test_an_unclean_end_is_told(place: Place) -> None:
    store = place.store()
    assert await store.open(NOW) is False, "a new store"
    await store.close()
    store = place.store()
    assert await store.open(NOW) is False, "closed by its last user"
    write = start("a")._replace(backlog_added=[item(start("a"), 1)])
    await put(store, write)
    left = place.after_crash()
    assert await left.open(NOW) is True
    assert await left.versions([write.key]) == [1]
    assert await left.backlogged_queues() == [queue()]
    await left.close()
    assert await left.open(NOW) is False
    await left.close()
    await store.close()


async def test_what_was_closed_is_there_when_it_is_opened(place: Place) -> None:
    store = place.store()
    await store.open(NOW)
    writes = [seen(start(f"w-{number}")._replace(wake_at=LATER)) for number in range(200)]
    await put(store, *writes)
    before = await store.load([write.key.chain for write in writes])
    await store.close()
    store = place.store()
    await store.open(NOW)
    assert await store.load([write.key.chain for write in writes]) == before
    assert {due.wake_at for due in await store.due(LATER, 200)} == {LATER}
    assert await put(store, follow(writes[7]), start("new")) == ["taken", "taken"]
    await store.close()
