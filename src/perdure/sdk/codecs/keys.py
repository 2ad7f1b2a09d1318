"""Keys by reference: what is configured, logged and stored names a key; the key itself is only in memory."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Final, cast

from perdure.errors import CodecError

KEY_BYTES: Final = 32
_HEX: Final = re.compile(rb"[0-9a-fA-F]{64}")
_HOW: Final = "32 bytes in Base64 or as 64 hexadecimal digits, as `openssl rand -base64 32` prints them"


def checked_reference(reference: object, what: str) -> str:
    """A reference. Raises TypeError or ValueError without repeating it, since it may be the key itself."""
    if not isinstance(reference, str):
        raise TypeError(
            f'{what} must be a reference such as "env:NAME" or "file:/path", not {type(reference).__name__}'
        )
    scheme, _, name = reference.partition(":")
    if reference in ("env:", "file:"):
        raise ValueError(f'{what} must be a reference with a name, "env:NAME" or "file:/path", not {reference!r}')
    if scheme not in ("env", "file") or not name:
        raise ValueError(
            f'{what} must be a reference, "env:NAME" or "file:/path", and never the key itself: that would stand in '
            "code and logs"
        )
    return reference


def read_key(reference: str, what: str) -> bytes:
    """The key that a reference names.

    Args:
        reference: "env:NAME" or "file:/path".
        what: whose key it is, such as "AES-GCM key '2026'".

    Raises:
        CodecError: it isn't there, or is no key; the message names the reference and what to set.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(name)
        if not value:
            raise CodecError(f"{what} is missing: set the environment variable {name} to it ({_HOW})")
        return _key(value.encode(errors="replace"), f"{what}: what the environment variable {name} holds")
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise CodecError(f"{what} is missing: put it into the file {name} ({_HOW}): {error.strerror}") from None
    return data if len(data) == KEY_BYTES else _key(data, f"{what}: what the file {name} holds")


def _key(text: bytes, what: str) -> bytes:
    text = text.strip()
    try:
        key = bytes.fromhex(text.decode()) if _HEX.fullmatch(text) else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CodecError(f"{what} is no key: it must be {_HOW}") from None
    if len(key) != KEY_BYTES:
        raise CodecError(f"{what} is a key of {len(key)} bytes: it must be {_HOW}")
    return key


def references(key: str | None, keys: object, use: str | None) -> tuple[dict[str, str], str]:
    """The references by their keys' ids, and the id of the key that encrypts. Raises TypeError or ValueError."""
    if (key is None) == (keys is None):
        raise TypeError('give either key="env:NAME", or keys={"2026": "env:NAME", …} and use="2026"')
    if key is not None:
        if use is not None:
            raise TypeError("use= goes with keys=, of which it names one")
        return {"default": checked_reference(key, "key")}, "default"
    if not isinstance(keys, dict) or not keys:
        raise TypeError("keys must be a dict of references by their ids")
    found: dict[str, str] = {}
    for id, reference in cast("dict[object, object]", keys).items():
        if not isinstance(id, str) or not id:
            raise TypeError(f"keys: an id must be text, not {id!r}")
        found[id] = checked_reference(reference, f"keys[{id!r}]")
    if use not in found:
        raise ValueError(f"use must name one of the keys, {', '.join(map(repr, found))}, not {use!r}")
    return found, use
