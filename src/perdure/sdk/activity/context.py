"""One running attempt of an activity, as its function sees it.

The executor sets the current context for each attempt, in the attempt's own `contextvars` context; so it is
also there in tasks and threads that the activity starts with `asyncio.create_task` or `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import get_ident
from typing import Any, get_args, get_origin

from perdure.clock import to_datetime
from perdure.errors import DecodeError
from perdure.model.payloads import Payloads
from perdure.model.tasks import ActivityTask
from perdure.sdk.activity.tokens import encode_token
from perdure.sdk.converter import decode, encode


@dataclass(frozen=True, slots=True)
class ActivityInfo:
    """Facts about the attempt that is running. Times are in UTC; `attempt` counts from 1."""

    activity_id: str
    activity_type: str
    attempt: int
    workflow_id: str
    run_id: str
    workflow_type: str
    namespace: str
    task_queue: str
    scheduled_time: datetime
    started_time: datetime
    start_to_close_timeout: timedelta | None
    heartbeat_timeout: timedelta | None
    last_failure: str | None
    """What the attempt before this one failed with, as "type: message"."""
    is_local: bool
    """Whether the workflow's own worker runs it, without a task queue."""
    task_token: str
    """Names this attempt, for `Client.activity`, when it is completed from elsewhere. It names, and proves nothing: who
    has it can't do more than who has a client."""


class ActivityContext(ABC):
    """One running attempt."""

    __slots__ = ("_info", "_told", "cancelled", "ended", "task")

    def __init__(self, task: ActivityTask) -> None:
        self.task = task
        self.cancelled = False
        """Whether the attempt is not wanted any more. An `async def` activity also sees `CancelledError`;
        a plain one looks here, or gets it from `heartbeat`."""
        self.ended = False  # the function has ended: programs that it has left behind end, too
        self._told: set[int] = set()
        self._info: ActivityInfo | None = None

    @property
    def info(self) -> ActivityInfo:
        """Facts about this attempt."""
        if self._info is None:
            self._info = _info_of(self.task)
        return self._info

    def heartbeat(self, *details: object) -> None:
        """Tell that the attempt is alive, and how far it came. May be called from any thread, and as often
        as one likes: what is sent is throttled, and the latest details win.

        Args:
            details: values that the next attempt finds in `heartbeat_details`, encoded like arguments. Without any, it
                finds those that were told last.

        Raises:
            EncodeError: a detail can't be encoded.
            PayloadTooLarge: a detail is over its limit.
            asyncio.CancelledError: in a thread, which nothing else can interrupt: the attempt is not wanted any more.
                Each thread is told once, so that its clean-up may beat again.
        """
        if details:
            self.report(tuple([encode(detail, f"heartbeat detail {n}") for n, detail in enumerate(details, 1)]))
        else:
            self.alive()
        thread = get_ident()
        if self.cancelled and thread not in self._told and self.in_thread(thread):
            self._told.add(thread)
            raise asyncio.CancelledError(f"activity {self.task.activity_type!r} is not wanted any more")

    def heartbeat_details(self, type: object) -> object | None:
        """What the last attempt's last heartbeat told; None where there is nothing.

        Args:
            type: what to decode to; for several details a `tuple[A, B]`.

        Raises:
            DecodeError: the details don't fit the type.
        """
        details = self.task.heartbeat_details
        if not details:
            return None
        if len(details) == 1:
            return decode(details[0], type, "heartbeat detail 1")
        numbered = enumerate(zip(details, _types_of(type, len(details)), strict=True), 1)
        return tuple([decode(payload, each, f"heartbeat detail {n}") for n, (payload, each) in numbered])

    @abstractmethod
    def alive(self) -> None:
        """Tell that the attempt is alive, and nothing new of how far it came."""

    @abstractmethod
    def in_thread(self, thread: int) -> bool:
        """Whether a thread is another than that of the loop, whose tasks are cancelled as such."""

    @abstractmethod
    def report(self, details: Payloads) -> None:
        """Send a heartbeat, soon or with later ones."""


current_context: ContextVar[ActivityContext] = ContextVar("perdure_activity")


def current() -> ActivityContext | None:
    """The attempt that is running here; None outside an activity."""
    return current_context.get(None)


def _types_of(hint: object, count: int) -> Sequence[object]:
    """What several details are decoded to, where a value of `hint` is asked for. Raises DecodeError."""
    if hint is object or hint is Any or hint is tuple:
        return (object,) * count
    types = get_args(hint) if get_origin(hint) is tuple else ()
    if len(types) == 2 and types[1] is Ellipsis:
        return types[:1] * count
    if len(types) != count:
        raise DecodeError(
            f"the last heartbeat told {count} details, which don't fit {hint}: ask for tuple[…] of {count}"
        )
    return types


def _info_of(task: ActivityTask) -> ActivityInfo:
    run, failure = task.token.run, task.last_failure
    return ActivityInfo(
        activity_id=task.activity_id,
        activity_type=task.activity_type,
        attempt=task.token.attempt,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        workflow_type=task.workflow_type,
        namespace=run.namespace,
        task_queue=task.task_queue,
        scheduled_time=to_datetime(task.scheduled_at),
        started_time=to_datetime(task.started_at),
        start_to_close_timeout=_duration(task.start_to_close_timeout),
        heartbeat_timeout=_duration(task.heartbeat_timeout),
        last_failure=None if failure is None else failure.text,
        is_local=task.token.scheduled_event_id < 0,
        task_token=encode_token(task.token, task.activity_type),
    )


def _duration(microseconds: int) -> timedelta | None:
    return timedelta(microseconds=microseconds) if microseconds else None
