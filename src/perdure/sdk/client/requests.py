"""Sending a request until it is answered.

A request that the engine can't take now is sent again, the same one, with the same request id; so it takes
effect once, however often it had to be sent.
"""

from __future__ import annotations

import asyncio
from typing import Final

from perdure.clock import SECOND
from perdure.errors import Unavailable
from perdure.ids import IdSource
from perdure.limits import CLIENT_RETRY_INITIAL, CLIENT_RETRY_LIFETIME, CLIENT_RETRY_MAXIMUM
from perdure.model.requests import GetResult, Reply, Request, Service, UpdateWorkflow
from perdure.sdk.workflow.context import current

_WAITING: Final = (GetResult, UpdateWorkflow)


async def send(service: Service, request: Request[Reply], ids: IdSource) -> Reply:
    """The reply. Raises `Unavailable` where there was none for `limits.CLIENT_RETRY_LIFETIME`, RuntimeError inside a
    workflow: what a client does there would be done again by every replay."""
    if current() is not None:
        raise RuntimeError(
            "a client can't be used inside a workflow: start children with `workflow.start(…)`, and put anything else "
            "that a client does into an activity"
        )
    try:
        return await service.call(request)
    except Unavailable:
        return await _send_again(service, request, ids)


async def _send_again(service: Service, request: Request[Reply], ids: IdSource) -> Reply:
    now = asyncio.get_running_loop().time
    deadline = now() + CLIENT_RETRY_LIFETIME / SECOND
    backoff, longest = CLIENT_RETRY_INITIAL / SECOND, CLIENT_RETRY_MAXIMUM / SECOND
    while True:
        # Up to half of it is left to chance, so that clients that failed together don't return together.
        await asyncio.sleep(backoff * (1 - int(ids.new_id()[:4], 16) / 0x20000))
        backoff = min(backoff * 2, longest)
        sent = now()
        try:
            return await service.call(request)
        except Unavailable:
            if type(request) in _WAITING and now() - sent > longest:
                # It was taken, and waited for something that may take a year: the outage began just now.
                deadline, backoff = now() + CLIENT_RETRY_LIFETIME / SECOND, CLIENT_RETRY_INITIAL / SECOND
            if now() + backoff > deadline:
                raise
