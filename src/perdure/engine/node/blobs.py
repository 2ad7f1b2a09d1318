"""Large payloads that are kept beside the journals, by the digests of their contents.

A blob is put before the request or the message that names it is sent. The commit that carries the name notes it as the
run's, and the run's deletion takes the note away. So a blob is needed while there is a note, and for a while after it
was put, when what names it may still be on its way; housekeeping deletes the others.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

from perdure.errors import InvalidRequest
from perdure.limits import BLOB_GRACE
from perdure.model.requests import Blob, Done, GetBlob, PutBlob

if TYPE_CHECKING:
    from perdure.engine.node.node import Node


async def call(node: Node, request: PutBlob | GetBlob) -> Done | Blob:
    """Carry out a request about a blob."""
    digest = bytes.fromhex(request.digest)
    if isinstance(request, GetBlob):
        return Blob(await node.store.get_blob(digest))
    if await asyncio.to_thread(lambda: sha256(request.data).digest()) != digest:
        raise InvalidRequest("digest is not that of the data")
    await node.store.put_blob(digest, request.data, node.clock.now() + BLOB_GRACE)
    return Done()
