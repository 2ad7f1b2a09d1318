"""Compression by Zstandard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from perdure.errors import CodecError
from perdure.limits import MAX_BLOB
from perdure.model.payloads import ENCODING, Payload
from perdure.sdk.codecs.api import PayloadCodec
from perdure.sdk.codecs.sizes import Size, size
from perdure.sdk.options import whole_number

if TYPE_CHECKING:
    zstandard: Any
else:
    try:
        import zstandard
    except ModuleNotFoundError:
        zstandard = None


class Zstd(PayloadCodec):
    """Compresses payloads. Put it before a codec that encrypts: what is encrypted can't be compressed.

    Args:
        level: 1 (fast) to 22 (small).
        minimum: smaller payloads stay as they are, as do those that don't get smaller; bytes, or text such as "1KiB".

    Raises:
        TypeError, ValueError: an option is not what it should be.
        CodecError: the library is missing: ``pip install 'perdure[codecs]'``.
    """

    encoding: ClassVar[str] = "zstd"
    shrinks: ClassVar[bool] = True
    _METADATA: Final = {ENCODING: encoding}

    def __init__(self, level: int = 3, *, minimum: Size = "1KiB") -> None:
        if zstandard is None:
            raise CodecError("Zstd needs the package zstandard: pip install 'perdure[codecs]'")
        self._level = whole_number(level, "level", 1, 22)
        self._minimum = size(minimum, "minimum")

    def encode(self, payload: Payload) -> Payload:
        """The payload compressed, where that makes it smaller."""
        if len(payload.data) < self._minimum:
            return payload
        compressed: bytes = zstandard.ZstdCompressor(level=self._level).compress(self.pack(payload))
        return Payload(compressed, self._METADATA) if len(compressed) < len(payload.data) else payload

    def decode(self, payload: Payload) -> Payload:
        """What was compressed. Raises CodecError where it is damaged, or would be over `limits.MAX_BLOB`."""
        try:
            length: int = zstandard.frame_content_size(payload.data)
            if not 0 <= length <= MAX_BLOB + 1024:  # with its metadata
                raise CodecError(f"zstd: it would have {length:,} bytes; limits.MAX_BLOB is {MAX_BLOB:,}")
            return self.unpack(zstandard.ZstdDecompressor().decompress(payload.data))
        except zstandard.ZstdError as error:
            raise CodecError(f"zstd: the payload is damaged: {error}") from None

    def __repr__(self) -> str:
        return f"Zstd(level={self._level}, minimum={self._minimum})"
