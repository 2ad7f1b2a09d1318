"""Stored bytes that can't be decoded, over each kind of store: whoever asks hears where, and of which workflow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.clock import SystemClock
from perdure.engine.node.node import Node
from perdure.engine.storage.api import RunKey
from perdure.errors import StoreCorrupt
from perdure.ids import RandomIds
from perdure.model.requests import DescribeWorkflow, GetHistory, StartWorkflow
from tests.storage.make import NAMESPACE, NOW, key, put, start
from tests.storage.places import Place

NO_MESSAGE = b"\xc1"
"""No MessagePack begins so."""


@pytest.fixture
async def node(place: Place) -> AsyncIterator[Node]:
    node = Node(place.store(), SystemClock(), RandomIds())
    await node.start()
    yield node
    await node.stop()


def _place_of(node: Node) -> str:
    return str(node.store.damaged("")).split(" is damaged")[0]


@pytest.mark.parametrize(
    "damage",
    [
        {"history": NO_MESSAGE},
        {"history": b""},
        {"history": b"\x91\xa2\xff\xff"},  # no text
        {"private": NO_MESSAGE},
        {"snapshot": NO_MESSAGE},
        {"snapshot": b"\x91" * 10_000},  # too deep
    ],
)
async def test_a_run_that_can_not_be_loaded(node: Node, damage: dict[str, Any]) -> None:
    await put(node.store, start("w")._replace(**{"history": b"", "private": b"", **damage}))
    with pytest.raises(StoreCorrupt, match=r"is damaged.*workflow 'w' can't be read") as caught:
        await node.call(DescribeWorkflow(NAMESPACE, "w", ""))
    assert str(caught.value).startswith(_place_of(node))
    assert (await node.call(StartWorkflow(NAMESPACE, "v", "sample", "default", (), "start v"))).run_id, "others go on"


async def test_a_history_that_can_not_be_read(node: Node) -> None:
    begun = await node.call(StartWorkflow(NAMESPACE, "w", "sample", "default", (), "start w"))
    [version] = await node.store.versions([key("w")])
    damaged = start("w")._replace(
        key=RunKey(NAMESPACE, "w", 1), run_id=begun.run_id, expected=version, version=version + 1, history=NO_MESSAGE
    )
    assert await put(node.store, damaged, now=NOW) == ["taken"]
    with pytest.raises(StoreCorrupt, match=r"is damaged.*the history of workflow 'w' can't be read") as caught:
        await node.call(GetHistory(NAMESPACE, "w", ""))
    assert str(caught.value).startswith(_place_of(node))
