"""Whatever is stored or sent reads back as it was written, byte for byte: the digest of a history rests on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect as m

from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import journal
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.schedules import ScheduleRequest
from perdure.model.state import State

UNIONS: list[Any] = [
    e.HistoryEvent,
    r.PrivateRecord,
    r.Outgoing,
    c.Command,
    t.FromWorker,
    t.ToWorker,
    q.AnyRequest,
    ScheduleRequest,
]
SIMPLE: dict[type[Any], Any] = {
    m.IntType: 7,
    m.StrType: "text",
    m.BytesType: b"bytes",
    m.FloatType: 1.5,
    m.BoolType: True,
    m.NoneType: None,
}


def example(info: m.Type, choice: int, depth: int = 0) -> Any:
    """A value of a type, full of others. `choice` picks among alternatives; what is nested deep is left out."""
    match info:
        case m.StructType():
            return info.cls(*(example(field.type, choice, depth + 1) for field in info.fields))
        case m.UnionType():
            others = [item for item in info.types if not isinstance(item, m.NoneType)]
            if len(others) < len(info.types) and (depth > 3 or choice % 4 == 3):
                return None
            return example(others[choice % len(others)], choice, depth)
        case m.LiteralType():
            return info.values[choice % len(info.values)]
        case m.VarTupleType():
            return () if depth > 3 else (example(info.item_type, choice, depth + 1),) * 2
        case m.TupleType():
            return tuple(example(item, choice, depth) for item in info.item_types)
        case m.ListType():
            return [] if depth > 3 else [example(info.item_type, choice, depth + 1)] * 2
        case m.DictType():
            key = example(info.key_type, choice, depth)
            return {} if depth > 3 else {key: example(info.value_type, choice, depth + 1)}
        case _:
            return SIMPLE[type(info)]


def examples(union: object) -> Iterator[Any]:
    """Several values of each member."""
    for kind in get_args(union):
        info = m.type_info(kind)
        for choice in range(8):
            yield example(info, choice)


@pytest.mark.parametrize("union", UNIONS)
def test_every_struct_reads_back_as_it_was(union: object) -> None:
    for decoder, encode in (
        (msgspec.msgpack.Decoder[Any](union), msgspec.msgpack.encode),
        (msgspec.json.Decoder[Any](union), msgspec.json.encode),
    ):
        for value in examples(union):
            encoded = encode(value)
            again = decoder.decode(encoded)
            assert again == value and type(again) is type(value)
            assert encode(again) == encoded


@pytest.mark.parametrize("union", UNIONS)
def test_tags_are_unique_within_a_union(union: object) -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(union)]
    assert len(tags) == len(set(tags)) and None not in tags


def test_events_and_records_share_no_tag() -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(r.AnyRecord)]
    assert len(tags) == len(set(tags))


def test_a_snapshot_reads_back_as_it_was() -> None:
    info = m.type_info(State)
    for choice in range(8):
        state = example(info, choice)
        encoded = journal.encode_state(state)
        assert journal.decode_state(encoded) == state
        assert journal.encode_state(journal.decode_state(encoded)) == encoded


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 70_000])
def test_joined_events_are_one_array(count: int) -> None:
    event = e.WorkflowTaskScheduled(1, 2, "queue")
    joined = journal.join_events([journal.encode_event(event)] * count)
    assert list(journal.events_of([joined])) == [event] * count
    assert bool(joined) == bool(count)


def test_a_row_keeps_the_order_of_events_and_records() -> None:
    events = [e.WorkflowTaskScheduled(id, 0, "queue") for id in (1, 2, 3)]
    records = [(0, r.CloseRefused()), (2, r.BufferFlushed()), (2, r.WorkflowTaskDue()), (3, r.CloseRefused())]
    row = journal.join_events([journal.encode_event(event) for event in events]), journal.encode_private(records)
    assert list(journal.merged(*row)) == [
        r.CloseRefused(), events[0], events[1], r.BufferFlushed(), r.WorkflowTaskDue(), events[2], r.CloseRefused(),
    ]  # fmt: skip
    assert list(journal.merged(b"", journal.encode_private(records[:1]))) == [r.CloseRefused()]
    assert list(journal.merged(row[0], b"")) == events


def test_a_digest_depends_on_every_event_and_their_order() -> None:
    one, other = (journal.encode_event(e.WorkflowTaskScheduled(id, 0, "queue")) for id in (1, 2))
    digests = {
        journal.digest_after(second, journal.digest_after(first, 0))
        for first in (one, other)
        for second in (one, other)
    }
    assert len(digests) == 4
