"""Encryption by AES-256-GCM, with keys by reference."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from perdure.errors import CodecError
from perdure.model.payloads import ENCODING, Payload
from perdure.sdk.codecs.api import PayloadCodec
from perdure.sdk.codecs.keys import read_key, references

if TYPE_CHECKING:
    AESGCM: Any

    class InvalidTag(Exception):
        """It is not what was encrypted, or not with this key."""

else:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        AESGCM = None

_KEY_ID: Final = "key"
_NONCE: Final = 12
_TAG: Final = 16


class AesGcm(PayloadCodec):
    """Encrypts payloads, whole and with their metadata. What is stored names the id of the key, which is authenticated.

    Args:
        key: the reference of the only key: "env:NAME" or "file:/path". Its id is "default".
        keys: references by their ids, where there are several. Old keys stay, for what they have encrypted.
        use: the id of the key that encrypts from now on.

    A key is 32 random bytes, in Base64 or as hexadecimal digits. It is read when it is needed for the first time, and
    is neither logged nor stored. What is behind an id never changes: another key gets another id.

    Raises:
        TypeError, ValueError: an option is not what it should be.
        CodecError: the library is missing: ``pip install 'perdure[codecs]'``.

    Example::

        AesGcm(key="env:PERDURE_KEY")
        AesGcm(keys={"2026": "env:KEY_2026", "2025": "file:/run/secrets/key-2025"}, use="2026")
    """

    encoding: ClassVar[str] = "aes-256-gcm"
    encrypts: ClassVar[bool] = True

    def __init__(
        self, *, key: str | None = None, keys: Mapping[str, str] | None = None, use: str | None = None
    ) -> None:
        if AESGCM is None:
            raise CodecError("AesGcm needs the package cryptography: pip install 'perdure[codecs]'")
        self._references, self._use = references(key, None if keys is None else dict(keys), use)
        self._ciphers: dict[str, Any] = {}

    def encode(self, payload: Payload) -> Payload:
        """The payload encrypted. Raises CodecError where the key is missing."""
        nonce = os.urandom(_NONCE)
        encrypted: bytes = self._cipher(self._use).encrypt(nonce, self.pack(payload), self._authenticated(self._use))
        return Payload(nonce + encrypted, {ENCODING: self.encoding, _KEY_ID: self._use})

    def decode(self, payload: Payload) -> Payload:
        """What was encrypted. Raises CodecError where the key is missing or another one, or the payload is damaged."""
        id = (payload.metadata or {}).get(_KEY_ID, "")
        if id not in self._references:
            raise CodecError(
                f"it was encrypted with the AES-GCM key {id!r}, and AesGcm has only {', '.join(self._references)} "
                f'here: add keys={{{id!r}: "env:…"}}'
            )
        cipher = self._cipher(id)
        if len(payload.data) < _NONCE + _TAG:
            raise CodecError(f"it is damaged: {len(payload.data)} bytes can't be an encrypted payload")
        try:
            data: bytes = cipher.decrypt(payload.data[:_NONCE], payload.data[_NONCE:], self._authenticated(id))
        except InvalidTag:
            raise CodecError(
                f"the AES-GCM key {id!r} ({self._references[id]}) doesn't decrypt it: it was encrypted with another "
                "key of that id, or is damaged"
            ) from None
        return self.unpack(data)

    def _cipher(self, id: str) -> Any:
        cipher = self._ciphers.get(id)
        if cipher is None:
            cipher = self._ciphers[id] = AESGCM(read_key(self._references[id], f"the AES-GCM key {id!r}"))
        return cipher

    def _authenticated(self, id: str) -> bytes:
        return f"{self.encoding}:{id}".encode()

    def __repr__(self) -> str:
        return f"AesGcm(keys={self._references}, use={self._use!r})"
