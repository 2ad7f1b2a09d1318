"""What each call to the cloud does; nothing of HTTP but its status numbers.

::

    POST /v1/{kind}        create; header Idempotency-Key          → 201, or 202 while it is being made
    GET  /v1/{kind}/{id}   one resource; its status: creating, ready
    GET  /admin/stats      how many resources exist, how many calls are open
    GET  /admin/report     all resources, quotas and calls
    POST /admin/quotas     {"kind": "databases", "maximum": 2}
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from examples.cloud.limits import TokenBucket, weather
from examples.cloud.store import KeyReused, QuotaReached, Store, Stored

FIELDS: dict[str, dict[str, type]] = {
    "networks": {"name": str, "cidr": str},
    "subnets": {"name": str, "network": str, "cidr": str, "zone": str},
    "databases": {"name": str, "engine": str, "storage_gb": int, "subnets": list, "primary": str},
    "records": {"name": str, "network": str, "targets": list},
    "members": {"name": str, "network": str, "role": str},
}
"""The fields of each kind. All are required; a database that is no replica has the primary ""."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the cloud behaves. Times are seconds."""

    rate: float = 5
    burst: int = 4
    latency: float = 0.6
    database_time: float = 2
    fault_rate: float = 0.2
    seed: int = 1
    quotas: Mapping[str, int] = field(default_factory=lambda: {"databases": 1})


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `heard` is called with whether it arrived, once that is known."""

    status: int
    body: dict[str, object]
    headers: dict[str, str] = field(default_factory=dict[str, str])
    heard: Callable[[bool], None] = lambda arrived: None


class Refused(Exception):
    """A call that gets an error for an answer."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.code = code
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = Response(status, {"code": code, "message": message}, headers)


class CloudService:
    """The cloud without its transport. Calls may come from many threads.

    Args:
        store: where everything is kept.
        settings: how it behaves.
        clock: seconds since the epoch.
        sleep: waits for as many seconds.
    """

    def __init__(
        self, store: Store, settings: Settings, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._bucket = TokenBucket(settings.rate, settings.burst, clock())
        self._open = 0
        store.set_default_quotas(dict(settings.quotas))

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer one call. Header names are in lower case."""
        try:
            match method, path.strip("/").split("/"):
                case "POST", ["v1", kind] if kind in FIELDS:
                    return self._create(kind, headers, body)
                case "GET", ["v1", kind, id] if kind in FIELDS:
                    return self._get(kind, id)
                case "GET", ["admin", "stats"]:
                    return Response(200, {"resources": self._store.count(), "open_calls": self._open})
                case "GET", ["admin", "report"]:
                    return Response(200, self._store.report())
                case "POST", ["admin", "quotas"]:
                    return self._set_quota(body)
                case _:
                    raise Refused(404, "not_found", f"there is no {method} {path} in this cloud")
        except Refused as refused:
            return refused.response

    def _create(self, kind: str, headers: Mapping[str, str], body: bytes) -> Response:
        key = headers.get("idempotency-key", "")
        if not key:
            raise Refused(400, "invalid", "the header Idempotency-Key is missing")
        number, before = self._store.begin_call(key, headers.get("x-client", ""), kind, self._clock())
        settings = self._settings
        conditions = weather(settings.seed, key, before, fault_rate=settings.fault_rate, latency=settings.latency)
        outcome = "internal"
        with self._lock:
            self._open += 1
        try:
            self._throttle()
            fields = self._checked(kind, body)
            self._sleep(conditions.seconds)
            if conditions.fault == "before":
                raise Refused(500, "internal", "something went wrong here")
            resource, new = self._make(kind, fields, key)
            outcome = "created" if new else "repeated"
        except Refused as refused:
            outcome = refused.code
            raise
        finally:
            with self._lock:
                self._open -= 1
            self._store.end_call(number, outcome, self._clock())
        if conditions.fault == "after":
            self._store.not_heard(number)
            raise Refused(500, "internal", "something went wrong here")
        shown = self._shown(resource)
        status = 201 if shown["status"] == "ready" else 202
        return Response(status, shown, heard=lambda arrived: None if arrived else self._store.not_heard(number))

    def _throttle(self) -> None:
        with self._lock:
            wait = self._bucket.take(self._clock())
        if wait:
            seconds = str(math.ceil(wait))
            raise Refused(429, "throttled", f"too many calls; come back in {seconds} s", Retry_After=seconds)

    def _checked(self, kind: str, body: bytes) -> dict[str, object]:
        """The fields of a resource, each of its type, and all that they refer to exists."""
        fields = _object(body)
        wanted = FIELDS[kind]
        if unknown := fields.keys() - wanted.keys():
            raise Refused(400, "invalid", f"{kind} have no field {min(unknown)!r}")
        for name, type_ in wanted.items():
            if not isinstance(fields.get(name), type_):
                raise Refused(400, "invalid", f"{kind}: the field {name!r} must be a {type_.__name__}")
        subnets = cast("list[object]", fields.get("subnets", []))
        for reference in (fields.get("network"), fields.get("primary"), *subnets):
            if reference and self._store.get(str(reference)) is None:
                raise Refused(400, "invalid", f"{kind}: there is no {reference!r}")
        return fields

    def _make(self, kind: str, fields: dict[str, object], key: str) -> tuple[Stored, bool]:
        delay = self._settings.database_time if kind == "databases" else 0
        try:
            return self._store.create(kind, str(fields["name"]), fields, key, self._clock() + delay)
        except QuotaReached as reached:
            raise Refused(403, "quota_exceeded", str(reached)) from None
        except KeyReused as reused:
            raise Refused(409, "key_reused", str(reused)) from None

    def _get(self, kind: str, id: str) -> Response:
        resource = self._store.get(id)
        if resource is None or resource.kind != kind:
            raise Refused(404, "not_found", f"there is no {id!r} among the {kind}")
        return Response(200, self._shown(resource))

    def _set_quota(self, body: bytes) -> Response:
        match _object(body):
            case {"kind": str(kind), "maximum": int(maximum)} if kind in FIELDS and maximum >= 0:
                self._store.set_quota(kind, maximum)
                return Response(200, {"kind": kind, "maximum": maximum})
            case _:
                raise Refused(400, "invalid", 'a quota is {"kind": …, "maximum": a whole number}')

    def _shown(self, resource: Stored) -> dict[str, object]:
        status = "ready" if self._clock() >= resource.ready_at else "creating"
        return {"id": resource.id, "kind": resource.kind, "name": resource.name, "status": status}


def _object(body: bytes) -> dict[str, object]:
    """A JSON object; anything else is refused."""
    try:
        value: object = json.loads(body)
    except ValueError:
        raise Refused(400, "invalid", "the body isn't JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "invalid", "the body must be a JSON object")
    return cast("dict[str, object]", value)
