"""How ids, texts and numbers are written into PostgreSQL, and read back."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b

from perdure.engine.storage.api import QueueKey
from perdure.engine.storage.listing import TEXT, Value, kind_of
from perdure.ids import shard_of
from perdure.limits import CACHED_KEYS


def text(value: str) -> str:
    """A text without NUL, which PostgreSQL can't hold. Keeps the order of texts."""
    if "\0" in value or "\1" in value:
        return value.replace("\1", "\1\2").replace("\0", "\1\1")
    return value


def plain(stored: str) -> str:
    """What `text` was made from."""
    return stored.replace("\1\1", "\0").replace("\1\2", "\1") if "\1" in stored else stored


@lru_cache(CACHED_KEYS)
def chain_key(namespace: str, workflow_id: str) -> tuple[int, bytes]:
    """The shard and the digest that stand for a workflow id."""
    return shard_of(namespace, workflow_id), _digest(namespace, workflow_id)


def request_key(namespace: str, workflow_id: str, request_id: str) -> bytes:
    """Stands for a request id of a workflow id."""
    return _digest(namespace, workflow_id, request_id)


@lru_cache(CACHED_KEYS)
def queue_key(queue: QueueKey) -> bytes:
    """Stands for a queue."""
    return _digest(*queue)


@lru_cache(CACHED_KEYS)
def space_of(namespace: str) -> int:
    """A short number for a namespace in indexes. Rarely two may have the same, so the name is compared as well."""
    return int.from_bytes(_digest(namespace)[:8], "big", signed=True)


def attribute_columns(value: Value) -> tuple[int, Decimal | None, str | None]:
    """The kind, and the value as a number or as a text."""
    kind = kind_of(value)
    return (kind, None, text(str(value))) if kind == TEXT else (kind, Decimal(value), None)


def _digest(*parts: str) -> bytes:
    lengths = ":".join(str(len(part)) for part in parts)
    return blake2b(f"{lengths}:{''.join(parts)}".encode(), digest_size=16).digest()
