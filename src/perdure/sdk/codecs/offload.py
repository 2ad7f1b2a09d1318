"""Large payloads go to a place of their own; what is stored instead names them by the digest of their content.

::

    payload → [codecs] → over the minimum: blob, put before anything names it → payload that names it → engine

The same content is stored once. The place is a folder, or the engine's own store.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from perdure.clock import SystemClock
from perdure.errors import CodecError, PayloadTooLarge, StoreFull
from perdure.ids import IdSource, RandomIds
from perdure.limits import BLOB_CACHE, BLOB_PUT_AGAIN, BLOBS_REMEMBERED, MAX_BLOB, OFFLOAD_MINIMUM
from perdure.model.payloads import BLOB, BLOB_MARK, BLOB_REFERENCE, ENCODING, Payload
from perdure.model.requests import GetBlob, PutBlob, Service
from perdure.sdk.codecs.api import PayloadCodec, encoding_of
from perdure.sdk.codecs.sizes import Size, size

_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


class Offload:
    """Keeps large payloads out of the journal. The last of the codecs: it stores what the others have made.

    Args:
        folder: where they are put, a file each; it is made if need be. All processes that read them need it, so on
            several machines it must be shared. Without it they go to the engine's own store, the SQLite file or the
            PostgreSQL database, where they are deleted when no run names them any more.
        minimum: smaller payloads stay in the journal; bytes, or text such as "128KiB".

    Raises:
        TypeError, ValueError: an option is not what it should be.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, minimum: Size = OFFLOAD_MINIMUM) -> None:
        if folder is not None and not os.fspath(folder):
            raise ValueError("folder is empty: give the path of a folder, or leave it out")
        self._folder = None if folder is None else Path(os.fspath(folder)).absolute()
        self._minimum = size(minimum, "minimum")

    def over(self, service: Service, namespace: str) -> Offloading:
        """What does it, for those who use a Service. Makes the folder, so that what is wrong with it shows at once.

        Raises:
            CodecError: the folder can't be used; the message says why.
        """
        if self._folder is None:
            return Offloading(_Engine(service, namespace), self._minimum)
        folder = _Folder(self._folder)
        folder.check()
        return Offloading(folder, self._minimum)

    def __repr__(self) -> str:
        where = "" if self._folder is None else f"{str(self._folder)!r}, "
        return f"Offload({where}minimum={self._minimum})"


class Place(Protocol):
    """Where blobs are."""

    async def put(self, digest: str, data: bytes) -> None:
        """Store one. It is durable when this returns."""
        ...

    async def get(self, digest: str) -> bytes | None:
        """One of them; None where there is none."""
        ...


class Offloading:
    """Puts large payloads into a place, and gets them back.

    Args:
        place: where they are.
        minimum: bytes from which on they are put there.
    """

    def __init__(self, place: Place, minimum: int) -> None:
        self._place, self._minimum = place, minimum
        self._clock = SystemClock()  # which goes on while the machine sleeps, as the engine's does
        self._put: OrderedDict[str, int] = OrderedDict()  # when each was put last
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0

    def takes(self, payload: Payload) -> bool:
        """Whether a payload is large enough."""
        return len(payload.data) >= self._minimum

    async def put(self, payload: Payload) -> Payload:
        """A payload that names this one, which is durable then. Raises PayloadTooLarge over `limits.MAX_BLOB`."""
        data = PayloadCodec.pack(payload)
        if len(data) > MAX_BLOB:
            raise PayloadTooLarge(f"a value has {len(data):,} bytes; limits.MAX_BLOB is {MAX_BLOB:,}")
        digest = await asyncio.to_thread(lambda: sha256(data).hexdigest())
        now = self._clock.now()
        if self._put.get(digest, 0) <= now - BLOB_PUT_AGAIN:
            await self._place.put(digest, data)
            self._put[digest] = now
            if len(self._put) > BLOBS_REMEMBERED:
                self._put.popitem(last=False)
        self._keep(digest, data)
        return Payload(b"", {ENCODING: BLOB, BLOB_REFERENCE: BLOB_MARK + digest, "size": str(len(payload.data))})

    async def get(self, payload: Payload) -> Payload:
        """The payload that one names. Raises CodecError where it is missing or damaged."""
        reference = (payload.metadata or {}).get(BLOB_REFERENCE, "")
        digest = reference.removeprefix(BLOB_MARK)
        if len(digest) != _DIGITS or not set(digest) <= _HEX:
            raise CodecError(f"{reference!r} names no blob")
        data = self._cache.get(digest)
        if data is None:
            data = await self._place.get(digest)
            if data is None:
                raise CodecError(
                    f"the {reference} is missing in {self._place}: restore it, or give the place that has it"
                )
            if await asyncio.to_thread(lambda: sha256(data).hexdigest()) != digest:
                raise CodecError(f"the {reference} in {self._place} is damaged: restore it from a backup")
        self._keep(digest, data)
        return PayloadCodec.unpack(data)

    def _keep(self, digest: str, data: bytes) -> None:
        """In memory: the latest used, up to `limits.BLOB_CACHE`."""
        if digest not in self._cache:
            self._cache[digest] = data
            self._cached += len(data)
        self._cache.move_to_end(digest)
        while self._cached > BLOB_CACHE:
            self._cached -= len(self._cache.popitem(last=False)[1])


def names_blob(payload: Payload) -> bool:
    """Whether a payload is elsewhere."""
    return encoding_of(payload) == BLOB


class _Engine:
    """The engine's own store."""

    def __init__(self, service: Service, namespace: str) -> None:
        self._service, self._namespace = service, namespace

    async def put(self, digest: str, data: bytes) -> None:
        await self._service.call(PutBlob(self._namespace, "", digest, data))

    async def get(self, digest: str) -> bytes | None:
        return (await self._service.call(GetBlob(self._namespace, "", digest))).data

    def __str__(self) -> str:
        return "the engine's store"


class _Folder:
    """A folder, with a file a blob: `ab/cd…`, by the digest. A file is there whole, or not at all."""

    def __init__(self, folder: Path, ids: IdSource | None = None) -> None:
        self._folder, self._ids = folder, ids or RandomIds()

    def check(self) -> None:
        """Make it if it isn't there. Raises CodecError where files can't be put into it."""
        try:
            self._make(self._folder)
            unfinished = self._folder / f"check.{self._ids.new_id()}"
            unfinished.touch(0o600, exist_ok=False)
            unfinished.unlink()
        except OSError as error:
            raise CodecError(
                f"Offload: files can't be put into {self}: {error.strerror}. Give a folder that may be written to"
            ) from error

    async def put(self, digest: str, data: bytes) -> None:
        try:
            await asyncio.to_thread(self._write, digest, data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"no space is left in {self}: free some; it is tried again") from error
            raise CodecError(f"a blob can't be put into {self}: {error.strerror}") from error

    async def get(self, digest: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self._path(digest).read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CodecError(f"the blob {digest} can't be read in {self}: {error.strerror}") from error

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest[2:]

    def _write(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        if path.exists() and path.stat().st_size == len(data):
            os.utime(path)  # whoever deletes old files is to see that it is in use
            return
        for folder in (self._folder, path.parent):
            self._make(folder)
        unfinished = path.with_name(f"{path.name}.{self._ids.new_id()}")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _flush(path.parent)

    @staticmethod
    def _make(folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _flush(folder.parent)

    def __str__(self) -> str:
        return f"the folder {self._folder}"


def _flush(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def split(codecs: Sequence[object]) -> tuple[Sequence[object], Offload | None]:
    """The codecs, and what comes after them. Raises ValueError where it isn't the last."""
    last = codecs[-1] if codecs else None
    others = codecs[:-1] if isinstance(last, Offload) else codecs
    if any(isinstance(each, Offload) for each in others):
        raise ValueError("Offload(…) must be the last of the codecs, and the only one: it stores what they have made")
    return others, last if isinstance(last, Offload) else None
