"""A client for the cloud in `examples.cloud`, and the errors that it raises.

The errors are what an activity's retry policy speaks of: each says by its class what should be done about it.
"""

from __future__ import annotations

import asyncio
import json
import os
from http.client import HTTPException
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec

from perdure import ApplicationError

T = TypeVar("T")

ADDRESS = "CLOUD_URL"
"""The environment variable that says where the cloud is."""

TIMEOUT = 10.0
"""Seconds after which a call that isn't answered is given up."""


class Throttled(ApplicationError):
    """Too many calls. The cloud said when to come back, and that is when the next attempt is made."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message, type="Throttled", next_retry_delay=seconds)


class CloudUnavailable(Exception):
    """The cloud failed or could not be reached; whether it did what was asked isn't known. Try again."""


class QuotaExceeded(Exception):
    """The account has all that it may have. Trying again is of no use until a person has that changed."""


class BadRequest(Exception):
    """The cloud will never accept this request."""


class Resource(msgspec.Struct, frozen=True):
    """Something that exists in the cloud. status: "creating" or "ready"."""

    id: str
    kind: str
    name: str
    status: str


class Stats(msgspec.Struct, frozen=True):
    """How many resources exist, and how many calls to create one are being served."""

    resources: int
    open_calls: int


class CallLog(msgspec.Struct, frozen=True):
    """One call to create something, as the cloud logged it; see `examples.cloud.store.Call`."""

    number: int
    key: str
    client: str
    kind: str
    began: float
    ended: float | None
    outcome: str
    heard: bool


class Existing(msgspec.Struct, frozen=True):
    """A resource with the idempotency key that it was created under."""

    id: str
    kind: str
    name: str
    key: str


class Report(msgspec.Struct, frozen=True):
    """All that the cloud knows."""

    resources: list[Existing]
    calls: list[CallLog]
    quotas: dict[str, int]


class Cloud:
    """A client. Its calls raise the errors of this module.

    Args:
        url: where the cloud is; by default what the environment variable CLOUD_URL says.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url if url is not None else os.environ[ADDRESS]

    async def create(self, kind: str, fields: dict[str, object], *, key: str) -> Resource:
        """Create a resource, or get the one that was created with the same idempotency key before."""
        headers = {"Idempotency-Key": key, "X-Client": str(os.getpid())}
        return await self._call(Resource, "POST", f"/v1/{kind}", fields, headers)

    async def get(self, kind: str, id: str) -> Resource:
        """A resource as it is now."""
        return await self._call(Resource, "GET", f"/v1/{kind}/{id}")

    async def stats(self) -> Stats:
        """How far the cloud is."""
        return await self._call(Stats, "GET", "/admin/stats")

    async def report(self) -> Report:
        """All resources, quotas and calls."""
        return await self._call(Report, "GET", "/admin/report")

    async def raise_quota(self, kind: str, maximum: int) -> None:
        """Let the account have more of a kind."""
        await self._call(dict, "POST", "/admin/quotas", {"kind": kind, "maximum": maximum})

    async def _call(
        self,
        reply: type[T],
        method: str,
        path: str,
        fields: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
    ) -> T:
        body = None if fields is None else json.dumps(fields).encode()
        request = Request(self.url + path, body, headers or {}, method=method)
        return msgspec.json.decode(await asyncio.to_thread(_send, request), type=reply)


def _send(request: Request) -> bytes:
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            content: bytes = response.read()
            return content
    except HTTPError as error:
        with error:
            raise _meaning(error) from None
    except (OSError, HTTPException) as error:
        raise CloudUnavailable(f"no answer: {error}") from None


def _meaning(error: HTTPError) -> Exception:
    """An answer that isn't a success, as an exception."""
    try:
        problem: dict[str, str] = msgspec.json.decode(error.read(), type=dict[str, str])
    except (msgspec.MsgspecError, OSError):
        problem = {}
    message = problem.get("message", f"status {error.code}")
    if error.code == 429:
        return Throttled(message, float(error.headers.get("Retry-After", "1")))
    if problem.get("code") == "quota_exceeded":
        return QuotaExceeded(message)
    if error.code >= 500:
        return CloudUnavailable(message)
    return BadRequest(message)
