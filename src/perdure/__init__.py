"""Perdure: durable execution for Python. Ordinary functions that survive crashes, restarts and year-long waits.

::

    @activity                       # called from a workflow: retried, timed, recorded
    async def create_vpc(region: str) -> str: ...

    @workflow                       # goes on where it was, whatever happens to the process
    async def provision(team: str, regions: list[str]) -> list[str]:
        return await asyncio.gather(*(create_vpc(r) for r in regions))

    async with embedded("platform.db") as client:
        await client.run(provision("payments", ["eu-west-1"]), id="env-payments")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

from perdure.durations import Duration
from perdure.errors import (
    ActivityCancelled,
    ActivityError,
    ActivityTimedOut,
    ApplicationError,
    CodecError,
    CompleteLater,
    DecodeError,
    EncodeError,
    EngineStopped,
    GuardError,
    Hold,
    InvalidRequest,
    LimitExceeded,
    NondeterminismError,
    NotFound,
    NotRunning,
    NotTaken,
    PayloadTooLarge,
    PerdureError,
    ProcessFailed,
    QueryFailed,
    ScheduleChanged,
    ScheduleExists,
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreLost,
    StoreReadOnly,
    StoreTooNew,
    Unavailable,
    WorkerLost,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from perdure.model.payloads import Payload
from perdure.sdk.activity.api import activity
from perdure.sdk.calls import ActivityHandle
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.workflow.api import workflow
from perdure.sdk.workflow.calls import UnusedCallWarning, WorkflowCall
from perdure.sdk.workflow.children import ChildOptions
from perdure.sdk.workflow.context import WorkflowInfo
from perdure.sdk.workflow.external import ExternalHandle
from perdure.sdk.workflow.futures import ChildHandle
from perdure.sdk.workflow.saga import Saga

if TYPE_CHECKING:
    from perdure.embedded import embedded
    from perdure.model.requests import AttemptState
    from perdure.sdk.activity.context import ActivityInfo
    from perdure.sdk.activity.processes import ProcessResult
    from perdure.sdk.client.client import Client
    from perdure.sdk.client.description import ActivityDescription, WorkflowDescription, WorkflowRow
    from perdure.sdk.client.elsewhere import AsyncActivityHandle
    from perdure.sdk.client.handle import WorkflowHandle
    from perdure.sdk.client.schedules import ScheduleDescription, ScheduleHandle, ScheduleRow
    from perdure.sdk.client.starts import StartOptions, WithStart
    from perdure.sdk.client.timing import Calendar, Interval, Schedule
    from perdure.sdk.codecs.aes_gcm import AesGcm
    from perdure.sdk.codecs.api import PayloadCodec
    from perdure.sdk.codecs.offload import Offload
    from perdure.sdk.codecs.zstd import Zstd
    from perdure.sdk.interceptors import ActivityCall, ClientCall, InboundCall, Interceptor, OutboundCall
    from perdure.sdk.worker.worker import Worker

    __version__: str

__all__ = [
    "ActivityCall",
    "ActivityCancelled",
    "ActivityDescription",
    "ActivityError",
    "ActivityHandle",
    "ActivityInfo",
    "ActivityTimedOut",
    "AesGcm",
    "ApplicationError",
    "AsyncActivityHandle",
    "AttemptState",
    "Calendar",
    "ChildHandle",
    "ChildOptions",
    "Client",
    "ClientCall",
    "CodecError",
    "CompleteLater",
    "DecodeError",
    "Duration",
    "EncodeError",
    "EngineStopped",
    "ExternalHandle",
    "GuardError",
    "Hold",
    "InboundCall",
    "Interceptor",
    "Interval",
    "InvalidRequest",
    "LimitExceeded",
    "NondeterminismError",
    "NotFound",
    "NotRunning",
    "NotTaken",
    "Offload",
    "OutboundCall",
    "Payload",
    "PayloadCodec",
    "PayloadTooLarge",
    "PerdureError",
    "ProcessFailed",
    "ProcessResult",
    "QueryFailed",
    "RetryPolicy",
    "Saga",
    "Schedule",
    "ScheduleChanged",
    "ScheduleDescription",
    "ScheduleExists",
    "ScheduleHandle",
    "ScheduleRow",
    "StartOptions",
    "StoreCorrupt",
    "StoreError",
    "StoreForeign",
    "StoreFull",
    "StoreLocked",
    "StoreLost",
    "StoreReadOnly",
    "StoreTooNew",
    "Unavailable",
    "UnusedCallWarning",
    "WithStart",
    "Worker",
    "WorkerLost",
    "WorkflowAlreadyStarted",
    "WorkflowCall",
    "WorkflowCancelled",
    "WorkflowDescription",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowRow",
    "WorkflowTerminated",
    "WorkflowTimedOut",
    "Zstd",
    "activity",
    "embedded",
    "workflow",
]

_LAZY: Final = {
    "ActivityCall": "perdure.sdk.interceptors",
    "ActivityDescription": "perdure.sdk.client.description",
    "ActivityInfo": "perdure.sdk.activity.context",
    "AesGcm": "perdure.sdk.codecs.aes_gcm",
    "AsyncActivityHandle": "perdure.sdk.client.elsewhere",
    "AttemptState": "perdure.model.requests",
    "Calendar": "perdure.sdk.client.timing",
    "Client": "perdure.sdk.client.client",
    "Offload": "perdure.sdk.codecs.offload",
    "ClientCall": "perdure.sdk.interceptors",
    "InboundCall": "perdure.sdk.interceptors",
    "Interceptor": "perdure.sdk.interceptors",
    "Interval": "perdure.sdk.client.timing",
    "OutboundCall": "perdure.sdk.interceptors",
    "PayloadCodec": "perdure.sdk.codecs.api",
    "ProcessResult": "perdure.sdk.activity.processes",
    "Schedule": "perdure.sdk.client.timing",
    "ScheduleDescription": "perdure.sdk.client.schedules",
    "ScheduleHandle": "perdure.sdk.client.schedules",
    "ScheduleRow": "perdure.sdk.client.schedules",
    "StartOptions": "perdure.sdk.client.starts",
    "WithStart": "perdure.sdk.client.starts",
    "Worker": "perdure.sdk.worker.worker",
    "WorkflowDescription": "perdure.sdk.client.description",
    "WorkflowHandle": "perdure.sdk.client.handle",
    "WorkflowRow": "perdure.sdk.client.description",
    "Zstd": "perdure.sdk.codecs.zstd",
    "embedded": "perdure.embedded",
}
"""Names that are imported when they are first asked for: what only defines workflows needs no engine."""


if not TYPE_CHECKING:  # or the checkers would believe that every name is there

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return import_module("importlib.metadata").version("perdure")
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package: `perdure.embedded` is the function."""

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the module perdure.embedded, by whomever, would bind it here in place of the function.
        if name == "embedded" and isinstance(value, ModuleType):
            value = value.embedded
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
