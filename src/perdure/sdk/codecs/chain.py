"""Several codecs, one after another, over all payloads of a message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar, cast

from msgspec import json
from msgspec.structs import replace

from perdure.errors import CodecError, PayloadTooLarge, PerdureError
from perdure.limits import CODEC_ON_LOOP, MAX_BLOB, MAX_CODED, MAX_PAYLOAD
from perdure.model.failures import HIDDEN, Failure
from perdure.model.payloads import BLOB, UNREADABLE, Payload
from perdure.sdk.codecs.api import PayloadCodec, encoding_of
from perdure.sdk.codecs.offload import Offloading, names_blob
from perdure.sdk.codecs.walk import Walk
from perdure.sdk.converter import ENCODINGS

Message = TypeVar("Message")

_PAYLOADS: Final = Walk(Payload)
_FAILURES: Final = Walk(Failure)
_CODEC_ERROR: Final = f"{CodecError.__module__}.{CodecError.__qualname__}"


class Chain:
    """Encodes and decodes messages.

    Args:
        codecs: applied in this order to what is sent, and undone as each payload's metadata says.
        offloading: takes what is large, after the codecs.
        encode_failures: whether messages and tracebacks of failures are encoded, too.

    Raises:
        TypeError, ValueError: something in the list is no codec, two have the same encoding, or one encrypts what
            another one is to compress.
    """

    def __init__(
        self, codecs: Iterable[object], offloading: Offloading | None = None, *, encode_failures: bool = False
    ) -> None:
        self._codecs = _checked(codecs)
        self._offloading = offloading
        self._by_encoding = {codec.encoding: codec for codec in self._codecs}
        self._blocking = any(codec.blocking for codec in self._codecs)
        self._encode_failures = encode_failures
        self.room = MAX_BLOB if offloading or any(codec.shrinks for codec in self._codecs) else MAX_PAYLOAD
        """How large a value may be before it is encoded."""

    def touches(self, message: object) -> bool:
        """Whether there is anything in a message to encode or decode."""
        return bool(_PAYLOADS.find(message)) or (self._encode_failures and bool(_FAILURES.find(message)))

    async def encoded(self, message: Message) -> Message:
        """A message with its payloads encoded.

        Raises:
            CodecError: a codec can't; it says what is missing.
            PayloadTooLarge: a payload is over its limit, even so.
        """
        if self._encode_failures:
            message = _FAILURES.put(message, map(_hidden, _FAILURES.find(message)))
        message = await self._changed(message, self._encode)
        if self._offloading is not None:
            message = await self._moved(message, self._offloading.takes, self._offloading.put)
        return message

    async def decoded(self, message: Message, *, lenient: bool = False) -> Message:
        """A message with its payloads decoded.

        lenient: one that can't be stays as it is, with the reason, which is raised where its value is asked for.

        Raises CodecError, which says what is missing.
        """
        if self._offloading is not None:
            get = self._offloading.get
            message = await self._moved(message, names_blob, partial(_marked_unless, get) if lenient else get)
        message = await self._changed(message, self._marked if lenient else self._decode)
        return _FAILURES.put(message, map(_shown, _FAILURES.find(message)))

    async def _changed(self, message: Message, change: Callable[[Payload], Payload]) -> Message:
        payloads = _PAYLOADS.find(message)
        if not payloads:
            return message
        if self._blocking or sum(len(payload.data) for payload in payloads) > CODEC_ON_LOOP:
            changed = await asyncio.to_thread(lambda: [change(payload) for payload in payloads])
        else:
            changed = [change(payload) for payload in payloads]
        return _PAYLOADS.put(message, iter(changed))

    async def _moved(
        self, message: Message, which: Callable[[Payload], bool], move: Callable[[Payload], Awaitable[Payload]]
    ) -> Message:
        """A message with some of its payloads put elsewhere, or got from there; all at once."""
        payloads = _PAYLOADS.find(message)
        if not any(map(which, payloads)):
            return message
        moved = iter(await asyncio.gather(*(move(payload) for payload in payloads if which(payload))))
        return _PAYLOADS.put(message, iter([next(moved) if which(payload) else payload for payload in payloads]))

    def _encode(self, payload: Payload) -> Payload:
        before = len(payload.data)
        for codec in self._codecs:
            made = _by(codec, codec.encode, payload)
            if made is not payload:
                _check_made(codec, made, payload)
                payload = made
        if len(payload.data) > MAX_PAYLOAD and not (self._offloading and self._offloading.takes(payload)):
            names = ", ".join(codec.encoding for codec in self._codecs)
            raise PayloadTooLarge(
                f"a value of {before:,} bytes has {len(payload.data):,} after its codecs ({names}); the limit is "
                f"{MAX_PAYLOAD:,}. Add Offload(…) to them, or put it into a file, and pass its name"
            )
        return payload

    def _decode(self, payload: Payload) -> Payload:
        for _ in range(MAX_CODED):
            codec = self._by_encoding.get(encoding_of(payload))
            if codec is None:
                return payload
            payload = _by(codec, codec.decode, payload)
        raise CodecError(f"it was encoded more than {MAX_CODED} times (limits.MAX_CODED)")

    def _marked(self, payload: Payload) -> Payload:
        try:
            return self._decode(payload)
        except CodecError as error:
            return _because(payload, error)


async def _marked_unless(get: Callable[[Payload], Awaitable[Payload]], payload: Payload) -> Payload:
    try:
        return await get(payload)
    except CodecError as error:
        return _because(payload, error)


def _because(payload: Payload, error: CodecError) -> Payload:
    return Payload(payload.data, {**(payload.metadata or {}), UNREADABLE: str(error)})


def _by(codec: PayloadCodec, change: Callable[[Payload], Payload], payload: Payload) -> Payload:
    try:
        changed = change(payload)
    except PerdureError:
        raise
    except Exception as error:
        raise CodecError(f"the codec {codec.encoding!r} failed: {error!r}") from error
    if type(changed) is not Payload or type(changed.data) is not bytes:
        raise CodecError(f"the codec {codec.encoding!r} returned {changed!r:.100}, which is no Payload of bytes")
    return changed


def _check_made(codec: PayloadCodec, made: Payload, payload: Payload) -> None:
    """Raises CodecError for a payload that nobody would decode, since it doesn't say whose it is."""
    if encoding_of(made) != codec.encoding and made != payload:
        raise CodecError(
            f"the codec {codec.encoding!r} returned a payload whose metadata doesn't name it, so it could not be read "
            'again: return Payload(data, {"encoding": self.encoding}), or the payload as it is'
        )


def _checked(codecs: Iterable[object]) -> Sequence[PayloadCodec]:
    found: list[PayloadCodec] = []
    for codec in codecs:
        if not isinstance(codec, PayloadCodec):
            made = f"{codec.__name__}: make one of it" if isinstance(codec, type) else type(codec).__name__
            raise TypeError(f"codecs must be PayloadCodecs, such as Zstd() or AesGcm(…), not {made}")
        name = cast(object, getattr(codec, "encoding", None))
        if not isinstance(name, str) or not name or name in {*ENCODINGS, BLOB}:
            raise ValueError(f"{type(codec).__name__}.encoding must be a name of its own, not {name!r}")
        if name in [other.encoding for other in found]:
            raise ValueError(f"two codecs have the encoding {name!r}")
        before = next((other for other in found if codec.shrinks and other.encrypts), None)
        if before is not None:
            first, then = type(codec).__name__, type(before).__name__
            raise ValueError(
                f"{first} comes after {then}, and what is encrypted can't be compressed: put it first, "
                f"codecs=[{first}(…), {then}(…)]. What is stored already is read in either order"
            )
        found.append(codec)
    return found


# --- Failures -------------------------------------------------------------------------------------------
def _hidden(failure: Failure) -> Failure:
    """A failure whose message and traceback are in a payload, as are those of its causes. What a codec says of itself
    stays: which key or file is missing must stand in the engine's log, and it tells nothing of values."""
    cause = None if failure.cause is None else _hidden(failure.cause)
    if failure.type == _CODEC_ERROR:
        return replace(failure, cause=cause)
    return replace(
        failure,
        message=HIDDEN,
        traceback="",
        cause=cause,
        encoded=Payload(json.encode((failure.message, failure.traceback))),
    )


def _shown(failure: Failure) -> Failure:
    """A failure as it was before. One whose message can't be decoded says so."""
    cause = None if failure.cause is None else _shown(failure.cause)
    encoded = failure.encoded
    if encoded is None:
        return failure if cause is failure.cause else replace(failure, cause=cause)
    if encoded.metadata is not None:
        why = encoded.metadata.get(UNREADABLE, "give the codecs that made it")
        return replace(failure, message=f"{HIDDEN}: {why}", cause=cause)
    message, traceback = json.decode(encoded.data, type=tuple[str, str])
    return replace(failure, message=message, traceback=traceback, cause=cause, encoded=None)
