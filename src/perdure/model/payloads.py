"""A value as it travels and is stored: opaque bytes, and metadata that says how to read them."""

from __future__ import annotations

from msgspec import Struct

KEYWORD = "keyword"
"""Metadata key: the argument is passed by this name, not by position."""

ENCODING = "encoding"
"""Metadata key: how `data` is encoded; absent for plain JSON."""

BLOB = "blob"
"""Value of `encoding`: the payload itself is a blob, elsewhere."""

BLOB_REFERENCE = "reference"
"""Metadata key: `BLOB_MARK` and the SHA-256 digest of the blob, in hexadecimal."""

BLOB_MARK = "blob:sha256:"
"""How every reference begins: the engine finds them by it in what it stores."""

UNREADABLE = "unreadable"
"""Metadata key: why the payload could not be decoded on its way. It is as it was stored."""


class Payload(Struct, frozen=True, array_like=True, gc=False):
    """One encoded value. Without metadata it is plain JSON."""

    data: bytes
    metadata: dict[str, str] | None = None


Payloads = tuple[Payload, ...]
NULL = Payload(b"null")
