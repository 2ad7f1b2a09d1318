"""The node tidies up blobs, and notes which ones the runs name."""

from __future__ import annotations

from hashlib import sha256

import pytest

from perdure.clock import SystemClock
from perdure.engine.node import housekeeping
from perdure.engine.node.node import Node
from perdure.engine.storage.memory import MemoryStore
from perdure.ids import RandomIds
from perdure.model.journal import blobs_in, encode_private, join_events
from perdure.model.payloads import BLOB_MARK, Payload
from perdure.model.requests import StartWorkflow

OLD = 1_000_000


def digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def reference(text: str) -> Payload:
    return Payload(b"", {"encoding": "blob", "reference": BLOB_MARK + digest(text).hex(), "size": "5"})


def test_references_are_found_wherever_they_stand() -> None:
    history = join_events([bytes(5) + (BLOB_MARK + digest(text).hex()).encode() for text in ("a", "b", "a")])
    assert blobs_in(history, (BLOB_MARK + digest("c").hex()).encode()) == sorted(map(digest, "abc"))
    assert blobs_in(b"blob:sha256:no", b"blob:sha256:" + b"A" * 64) == []
    assert blobs_in(b"", encode_private([])) == ()


async def test_all_that_nobody_names_goes_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "FORGET_BLOBS_AT_ONCE", 2)
    store = MemoryStore()
    for text in "abcde":
        await store.put_blob(digest(text), text.encode(), OLD)
    looked: list[int] = []
    forget = store.forget_blobs

    async def told(now: int, kept_until: int, limit: int) -> int:
        looked.append(await forget(now, kept_until, limit))
        return looked[-1]

    monkeypatch.setattr(store, "forget_blobs", told)
    node = Node(store, SystemClock(), RandomIds())
    await node.start()
    input = (reference("c"),)
    await node.call(StartWorkflow("default", "w", "t", "q", input, "r", memo={"kept": reference("d")}))
    await node.serve()
    while not looked or looked[-1] == 2:
        await node.call(StartWorkflow("default", "w", "t", "q", (), "r"))  # as long as it takes
    await node.stop()
    assert looked == [2, 2, 1]
    assert [await store.get_blob(digest(text)) for text in "abcde"] == [None, None, b"c", b"d", None]
