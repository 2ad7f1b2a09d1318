"""How events, records and states become bytes, and back.

A journal row's `history` is a MessagePack array of events; its `private` is a MessagePack array of
`[n, record]`, where n is how many of the row's events precede the record. Both are read in one order again
by :func:`merged`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar
from zlib import crc32

import msgspec

from perdure.model.events import HistoryEvent
from perdure.model.payloads import BLOB_MARK
from perdure.model.records import AnyRecord, PrivateRecord
from perdure.model.state import State

T = TypeVar("T")


class Undecodable(ValueError):
    """These bytes are not what was stored."""


def _told(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """A decoder whose errors, which are of many types, are one."""

    def decoded(encoded: bytes) -> T:
        try:
            return decode(encoded)
        except (ValueError, TypeError, RecursionError) as error:
            raise Undecodable(str(error)) from error

    return decoded


_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(tuple[HistoryEvent, ...])
_private = msgspec.msgpack.Decoder(tuple[tuple[int, PrivateRecord], ...])
_state = msgspec.msgpack.Decoder(State)

_mark = BLOB_MARK.encode()
_blob = re.compile(re.escape(_mark) + b"([0-9a-f]{64})")

encode_event = _encoder.encode
encode_state = _encoder.encode
decode_events = _told(_events.decode)
decode_state = _told(_state.decode)
_decode_private = _told(_private.decode)


def encode_private(records: Sequence[tuple[int, PrivateRecord]]) -> bytes:
    """A row's private column; empty where there is nothing."""
    return _encoder.encode(records) if records else b""


def join_events(encoded: Sequence[bytes]) -> bytes:
    """A row's history column from events that are encoded already; empty where there are none."""
    count = len(encoded)
    if count == 0:
        return b""
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(encoded)


digest_after: Callable[[bytes, int], int] = crc32
"""The rolling digest of a history, one encoded event further than a digest. It tells apart what our own speculation may
mix up, beside the event's id; it is no protection against anybody."""


def blobs_in(history: bytes, private: bytes) -> Sequence[bytes]:
    """The digests of the blobs that a row names. Text that only looks like a reference counts as one: it keeps a blob
    longer, and does no harm."""
    # Not `in`: Python tries the bytes as a number first, and makes an exception of it.
    if history.find(_mark) < 0 and private.find(_mark) < 0:
        return ()
    found = {*_blob.findall(history), *_blob.findall(private)}
    return sorted(bytes.fromhex(digest.decode()) for digest in found)


def merged(history: bytes, private: bytes) -> Iterator[AnyRecord]:
    """A row's events and records in the order in which they were emitted."""
    events = decode_events(history) if history else ()
    position = 0
    for preceding, record in _decode_private(private) if private else ():
        yield from events[position:preceding]
        position = preceding
        yield record
    yield from events[position:]


def events_of(histories: Iterable[bytes]) -> Iterator[HistoryEvent]:
    """The events of several rows."""
    for history in histories:
        if history:
            yield from decode_events(history)
