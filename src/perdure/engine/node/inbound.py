"""What a request must be like before the engine looks at it."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.errors import InvalidRequest, PayloadTooLarge
from perdure.limits import MAX_DURATION, MAX_ID_LENGTH, MAX_MESSAGE, MAX_PAYLOAD, MAX_REASON_LENGTH
from perdure.model.payloads import Payload
from perdure.model.requests import ListWorkflows, Request

IDS = ("namespace", "workflow_id", "workflow_type", "task_queue", "name", "update_id", "activity_id", "request_id")
REQUIRED = frozenset(("namespace", "workflow_id", "workflow_type", "task_queue", "name"))
REASONS = ("reason", "note")
DURATIONS = (
    "execution_timeout", "run_timeout", "start_to_close_timeout", "schedule_to_close_timeout", "heartbeat_timeout",
)  # fmt: skip


def check_request(request: Request[object]) -> None:
    """Raises InvalidRequest where a field is empty or over its limit."""
    fields = request.__struct_fields__
    for name in fields:
        value = getattr(request, name)
        if type(value) is str:
            if not value.isascii():
                check_text(name, value)
            if name in IDS:
                if not value and name in REQUIRED and not isinstance(request, ListWorkflows):
                    raise InvalidRequest(f"{name} must not be empty")
                if len(value) > MAX_ID_LENGTH:
                    raise InvalidRequest(f"{name} has {len(value)} characters; limits.MAX_ID_LENGTH is {MAX_ID_LENGTH}")
            elif name in REASONS and len(value) > MAX_REASON_LENGTH:
                raise InvalidRequest(
                    f"{name} has {len(value)} characters; limits.MAX_REASON_LENGTH is {MAX_REASON_LENGTH}"
                )
        elif type(value) is int:
            if name in DURATIONS and not 0 <= value <= MAX_DURATION:
                raise InvalidRequest(f"{name} must be between 0 and {MAX_DURATION} microseconds, not {value}")
        elif value is not None and name in ("input", "result", "memo"):
            check_payloads(name, value)


def check_text(name: str, value: str) -> None:
    """Raises InvalidRequest where a string is none that can be stored."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} is no valid text: {value!r} ({error.reason})") from error


def check_payloads(name: str, value: object) -> None:
    """Raises PayloadTooLarge where one payload, or all together, are over their limits."""
    total = 0
    for payload in _payloads(value):
        size = len(payload.data)
        if size > MAX_PAYLOAD:
            raise PayloadTooLarge(f"{name} has {size} bytes; limits.MAX_PAYLOAD is {MAX_PAYLOAD}")
        total += size
    if total > MAX_MESSAGE:
        raise PayloadTooLarge(f"{name} has {total} bytes in all; limits.MAX_MESSAGE is {MAX_MESSAGE}")


def _payloads(value: object) -> Iterator[Payload]:
    if isinstance(value, Payload):
        yield value
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, tuple):
        yield from value
