"""Blobs: kept by content, while a run names them and a while after they were put. The same for every store."""

from __future__ import annotations

import os
from hashlib import sha256

from perdure.engine.storage.api import Store
from tests.storage.make import LATER, NOW, ending, follow, put, start
from tests.storage.places import Place

LARGE = os.urandom(300_000)
DAY = 86_400_000_000


def digest(data: bytes) -> bytes:
    return sha256(data).digest()


async def stored(store: Store, *blobs: bytes, until: int = NOW) -> list[bytes]:
    """Blobs that are put; their digests."""
    for data in blobs:
        await store.put_blob(digest(data), data, until)
    return [digest(data) for data in blobs]


async def test_a_blob_is_read_by_its_digest(store: Store) -> None:
    [large, empty] = await stored(store, LARGE, b"")
    assert await store.get_blob(large) == LARGE
    assert await store.get_blob(empty) == b""
    assert await store.get_blob(digest(b"other")) is None


async def test_a_blob_survives_a_crash(place: Place) -> None:
    store = place.store()
    await store.open(NOW)
    [large] = await stored(store, LARGE)
    after = place.after_crash()
    await after.open(NOW)
    assert await after.get_blob(large) == LARGE
    await after.close()
    if after is not store:
        await store.close()


async def test_what_nobody_names_goes_when_its_time_is_over(store: Store) -> None:
    [early, late] = await stored(store, b"early") + await stored(store, b"late", until=LATER)
    assert await store.forget_blobs(NOW - 1, LATER, 10) == 0
    assert await store.forget_blobs(NOW, LATER, 10) == 1
    assert (await store.get_blob(early), await store.get_blob(late)) == (None, b"late")


async def test_to_put_it_again_keeps_it_for_longer_and_never_for_less(store: Store) -> None:
    [blob] = await stored(store, LARGE, until=LATER)
    await stored(store, LARGE, until=NOW)
    assert await store.forget_blobs(LATER - 1, LATER + DAY, 10) == 0
    await stored(store, LARGE, until=LATER + 5)
    assert await store.forget_blobs(LATER, LATER + DAY, 10) == 0
    assert await store.forget_blobs(LATER + 5, LATER + DAY, 10) == 1
    assert await store.get_blob(blob) is None
    await stored(store, LARGE)
    assert await store.get_blob(blob) == LARGE


async def test_what_a_run_names_stays_until_the_run_is_deleted(store: Store) -> None:
    first, second, third = await stored(store, b"one", b"two", b"three")
    a = start("a")._replace(blobs=[first])
    b = start("b")._replace(blobs=[first, second])
    assert await put(store, a, b) == ["taken", "taken"]
    more = follow(a)._replace(blobs=[first, third])
    assert await put(store, more) == ["taken"]
    assert await store.forget_blobs(LATER, LATER + 1, 10) == 3
    assert [await store.get_blob(one) for one in (first, second, third)] == [b"one", b"two", b"three"]
    assert await store.forget_blobs(LATER, LATER + 1, 10) == 0  # they are looked at again later
    closed = ending(b)
    assert await put(store, closed, follow(closed)._replace(delete=True)) == ["taken", "taken"]
    assert await store.forget_blobs(LATER + 1, LATER + 2, 10) == 3
    assert [await store.get_blob(one) for one in (first, second, third)] == [b"one", None, b"three"]
    closed = ending(more)
    assert await put(store, closed) == ["taken"]
    assert await put(store, follow(closed)._replace(status="Completed", delete=True)) == ["taken"]
    assert await store.forget_blobs(LATER + 2, LATER + 3, 10) == 2
    assert [await store.get_blob(one) for one in (first, second, third)] == [None, None, None]


async def test_what_is_refused_names_nothing(store: Store) -> None:
    [blob] = await stored(store, LARGE)
    a = start("a")
    await put(store, a)
    stale = follow(a)._replace(expected=7, version=8, blobs=[blob])
    assert await put(store, stale, start("a")._replace(blobs=[blob])) == ["stale", "stale"]
    assert await store.forget_blobs(NOW, LATER, 10) == 1
    assert await store.get_blob(blob) is None


async def test_few_are_looked_at_at_once_the_longest_due_first(store: Store) -> None:
    for number in range(5):
        await store.put_blob(digest(b"%d" % number), b"%d" % number, NOW + number)
    assert await store.forget_blobs(LATER, LATER, 2) == 2
    left = [await store.get_blob(digest(b"%d" % number)) for number in range(5)]
    assert left.count(None) == 2
    assert await store.forget_blobs(LATER - 1, LATER, 10) == 3
