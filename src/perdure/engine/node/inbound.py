"""What a request, or a worker that introduces itself, must be like before the engine looks at it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, get_args

from perdure.errors import InvalidRequest, PayloadTooLarge
from perdure.limits import (
    MAX_BLOB,
    MAX_DURATION,
    MAX_ID_LENGTH,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_REASON_LENGTH,
    MAX_WORKFLOW_TASK_TIMEOUT,
)
from perdure.model.payloads import Payload, Payloads
from perdure.model.requests import (
    AnyRequest,
    GetBlob,
    ListWorkflows,
    PutBlob,
    Request,
    StartSignal,
    StartUpdate,
    StartWorkflow,
)
from perdure.model.schedules import PREFIX, ListSchedules, Schedule, ScheduleRequest
from perdure.model.shapes import Check, Shape, check_text, shape_of
from perdure.model.tasks import WorkerHello


def check_request(request: Request[object]) -> None:
    """Raises InvalidRequest where a field is of a wrong type, empty, or over its limit."""
    shape = _SHAPES.get(type(request))
    if shape is None:
        raise InvalidRequest(f"{type(request).__name__} is no request")
    shape.check(request)


def check_hello(hello: WorkerHello) -> None:
    """The same for a worker: its name and its build id stand in the histories of what it runs."""
    _HELLO.check(hello)


def _check_id(value: str, name: str) -> None:
    if not value.isascii():
        check_text(value, name)
    if len(value) > MAX_ID_LENGTH:
        raise InvalidRequest(f"{name} has {len(value)} characters; limits.MAX_ID_LENGTH is {MAX_ID_LENGTH}")


def _check_digest(value: str, name: str) -> None:
    if not _DIGEST.fullmatch(value):
        raise InvalidRequest(f"{name} must be a SHA-256 digest, 64 hexadecimal digits")


def _check_blob(value: bytes, name: str) -> None:
    if len(value) > MAX_BLOB:
        raise PayloadTooLarge(f"{name} has {len(value)} bytes; limits.MAX_BLOB is {MAX_BLOB}")


def _check_name(value: str, name: str) -> None:
    if not value:
        raise InvalidRequest(f"{name} must not be empty")
    _check_id(value, name)
    if value != value.strip():
        raise InvalidRequest(f"{name} must neither begin nor end with white space, as {value!r} does")


def _check_namespace(value: str, name: str) -> None:
    _check_name(value, name)
    if value.startswith(PREFIX):
        raise InvalidRequest(f"{name} must not begin with {PREFIX!r}: schedules are kept there")


def _check_reason(value: str, name: str) -> None:
    check_text(value, name)
    if len(value) > MAX_REASON_LENGTH:
        raise InvalidRequest(f"{name} has {len(value)} characters; limits.MAX_REASON_LENGTH is {MAX_REASON_LENGTH}")


def _check_duration(value: int, name: str) -> None:
    if not 0 <= value <= MAX_DURATION:
        raise InvalidRequest(f"{name} must be between 0 and {MAX_DURATION} microseconds, not {value}")


def _check_limit(value: int, name: str) -> None:
    if value < 0:
        raise InvalidRequest(f"{name} must not be negative, as {value} is")


def _check_payloads(payloads: Payloads, name: str) -> None:
    total = 0
    for payload in payloads:
        if type(payload) is not Payload:
            raise InvalidRequest(f"{name} must hold payloads, not {type(payload).__name__}")
        _PAYLOAD.check(payload)
        size = len(payload.data)
        if size > MAX_PAYLOAD:
            raise PayloadTooLarge(f"{name} has {size} bytes; limits.MAX_PAYLOAD is {MAX_PAYLOAD}")
        total += size
    if total > MAX_MESSAGE:
        raise PayloadTooLarge(f"{name} has {total} bytes in all; limits.MAX_MESSAGE is {MAX_MESSAGE}")


def _check_payload(payload: Payload, name: str) -> None:
    _check_payloads((payload,), name)


def _check_memo(memo: Mapping[str, Payload], name: str) -> None:
    for key in memo:
        if type(key) is not str:
            raise InvalidRequest(f"{name} must have text as keys, not {type(key).__name__}")
        check_text(key, name)
    _check_payloads(tuple(memo.values()), name)


def _check_task_timeout(value: int, name: str) -> None:
    if not 0 <= value <= MAX_WORKFLOW_TASK_TIMEOUT:
        raise InvalidRequest(
            f"{name} must be between 0 and {MAX_WORKFLOW_TASK_TIMEOUT} microseconds "
            f"(limits.MAX_WORKFLOW_TASK_TIMEOUT), not {value}"
        )


def _check_message(message: StartSignal | StartUpdate, name: str) -> None:
    if type(message) not in _MESSAGES:
        raise InvalidRequest(f"{name} must be a signal or an update, not {type(message).__name__}")
    _MESSAGES[type(message)].check(message)


def _check_schedule(schedule: Schedule, name: str) -> None:
    _SCHEDULE.check(schedule)


_DIGEST: Final = re.compile("[0-9a-f]{64}")
_PAYLOAD: Final = shape_of(Payload)
ACTIVITY_TIMEOUTS: Final = (
    "start_to_close_timeout", "schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout",
)  # fmt: skip
_LIMITS: Final[Mapping[str, Check]] = {
    "namespace": _check_namespace,
    **dict.fromkeys(("workflow_id", "workflow_type", "task_queue", "name"), _check_name),
    **dict.fromkeys(("update_id", "activity_id", "request_id"), _check_id),
    **dict.fromkeys(("reason", "note"), _check_reason),
    **dict.fromkeys(("execution_timeout", "run_timeout", "start_delay"), _check_duration),
    "task_timeout": _check_task_timeout,
    "message": _check_message,
    **dict.fromkeys(ACTIVITY_TIMEOUTS, _check_duration),
    **dict.fromkeys(("input", "details"), _check_payloads),
    "result": _check_payload,
    "digest": _check_digest,
    "data": _check_blob,
    **dict.fromkeys(("memo", "header"), _check_memo),
    "limit": _check_limit,
}
"""What is looked at beside the types, by a field's name."""

_HELLO: Final = Shape(WorkerHello, {"namespace": _check_namespace, "build_id": _check_id})
_MESSAGES: Final[Mapping[type[object], Shape]] = {kind: Shape(kind, _LIMITS) for kind in (StartSignal, StartUpdate)}
_OF_NO_WORKFLOW: Final = (ListWorkflows, PutBlob, GetBlob)
_SCHEDULE: Final = Shape(Schedule, {"start": Shape(StartWorkflow, _LIMITS).check, "catchup_window": _check_duration})
_SHAPES: Final = {
    kind: Shape(kind, {**_LIMITS, "workflow_id": _check_id} if kind in _OF_NO_WORKFLOW else _LIMITS)
    for kind in get_args(AnyRequest)
} | {
    kind: Shape(
        kind, {**_LIMITS, "schedule": _check_schedule} | ({"workflow_id": _check_id} if kind is ListSchedules else {})
    )
    for kind in get_args(ScheduleRequest)
}
