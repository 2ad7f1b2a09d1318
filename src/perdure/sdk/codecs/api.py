"""What a codec is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

import msgspec

from perdure.errors import CodecError
from perdure.model.payloads import ENCODING, Payload

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Payload).decode


class PayloadCodec(ABC):
    """Changes payloads on their way to the engine, and changes them back on their way from it.

    A codec runs where the user's code runs, in clients and workers, and outside of workflow code: so it may use
    randomness and clocks. Small payloads are encoded and decoded on the event loop, large ones
    (`limits.CODEC_ON_LOOP`) in a thread; so both methods must be safe to call in several threads at once.

    ::

        class Reversed(PayloadCodec):
            encoding = "acme/reversed"

            def encode(self, payload: Payload) -> Payload:
                return Payload(self.pack(payload)[::-1], {"encoding": self.encoding})

            def decode(self, payload: Payload) -> Payload:
                return self.unpack(payload.data[::-1])
    """

    encoding: ClassVar[str]
    """Names it in the metadata of what it makes, as "encoding". Never changed, since stored payloads name it."""

    blocking: ClassVar[bool] = False
    """Whether it waits for something, such as a network: then it is called in a thread for small payloads, too."""

    shrinks: ClassVar[bool] = False
    """Whether it makes values smaller: then a value may be larger than `limits.MAX_PAYLOAD` before it, up to
    `limits.MAX_BLOB`."""

    encrypts: ClassVar[bool] = False
    """Whether what it makes looks random, so that nothing can make it smaller: what shrinks has to come before."""

    @abstractmethod
    def encode(self, payload: Payload) -> Payload:
        """Another payload in this one's place, which says that it is this codec's; or this one as it is.

        Raises `CodecError`, which says what is missing.
        """

    @abstractmethod
    def decode(self, payload: Payload) -> Payload:
        """The payload that `encode` was given. Called for payloads that name this codec.

        Raises `CodecError`, which says what is missing.
        """

    @staticmethod
    def pack(payload: Payload) -> bytes:
        """A payload, with its metadata, as bytes that another one can hold."""
        return _encode(payload)

    @staticmethod
    def unpack(data: bytes) -> Payload:
        """The payload that was packed. Raises CodecError where the bytes are no payload."""
        try:
            return _decode(data)
        except msgspec.DecodeError as error:
            raise CodecError(f"what was decoded is no payload: {error}") from None


def encoding_of(payload: Payload) -> str:
    """How a payload is encoded; "" for plain JSON."""
    return "" if payload.metadata is None else payload.metadata.get(ENCODING, "")
