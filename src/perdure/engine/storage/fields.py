"""The fields of list filters: which there are, what each takes, and what is taken for a mistyped one.

Search attributes have names that people choose, so any other name may be one. A bare name that resembles a field's, or
that means one elsewhere, is refused nevertheless: as an attribute that no run has, it would quietly list nothing. In
double quotes a name is always an attribute's.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final, Literal, NamedTuple

from perdure.clock import to_datetime

Subject = Literal["workflows", "schedules"]
"""What is listed."""


class Field(NamedTuple):
    """A field that every listing of its subjects has.

    takes: the kind of values that it is compared with.
    column: whether stores have a column for it; otherwise it is kept as a search attribute.
    """

    takes: Literal["text", "status", "time", "truth"]
    of: tuple[Subject, ...] = ("workflows",)
    column: bool = True


_BOTH: Final[tuple[Subject, ...]] = ("workflows", "schedules")
FIELDS: Final[dict[str, Field]] = {
    "WorkflowType": Field("text", _BOTH),
    "WorkflowId": Field("text", _BOTH),
    "RunId": Field("text"),
    "ExecutionStatus": Field("status"),
    "StartTime": Field("time", _BOTH),
    "CloseTime": Field("time"),
    "TaskQueue": Field("text", _BOTH),
    "ScheduledById": Field("text", column=False),
    "ScheduledStartTime": Field("time", column=False),
    "Paused": Field("truth", ("schedules",), column=False),
}

_MEANT: Final = {
    "id": "WorkflowId",
    "type": "WorkflowType",
    "status": "ExecutionStatus",
    "queue": "TaskQueue",
    "started": "StartTime",
    "startedat": "StartTime",
    "closed": "CloseTime",
    "closedat": "CloseTime",
    "endtime": "CloseTime",
    "schedule": "ScheduledById",
    "scheduleid": "ScheduledById",
    "temporalscheduledbyid": "ScheduledById",
    "temporalscheduledstarttime": "ScheduledStartTime",
    "temporalschedulepaused": "Paused",
}
"""What people write for a field."""

_ELSEWHERE: Final = {
    "executiontime",
    "executionduration",
    "historylength",
    "historysizebytes",
    "statetransitioncount",
    "parentworkflowid",
    "parentrunid",
    "rootworkflowid",
    "rootrunid",
    "buildids",
    "temporalchangeversion",
    "batcheruser",
}
"""Fields that listings of Temporal have, and ours don't."""


def mistaken(name: str, subject: Subject | None) -> str:
    """Why a bare name can't stand for what is compared; "" where it can.

    subject: what is listed; None: either.
    """
    if name in FIELDS:
        return _not_of(name, subject)
    folded = {field.lower(): field for field in FIELDS if subject is None or subject in FIELDS[field].of}
    meant = _MEANT.get(name.lower(), "")
    if not meant:
        close = get_close_matches(name.lower(), folded, n=1, cutoff=0.85)
        meant = folded[close[0]] if close else ""
    if subject == "schedules":
        hint = f"did you mean {meant}? " if meant in folded.values() else ""
        return f"unknown field {name!r}: {hint}schedules have no search attributes, but {_fields_of(subject)}"
    quoted = f'(a search attribute of that name is written in double quotes: "{name}")'
    if meant:
        return f"unknown field {name!r}: did you mean {meant}? {quoted}"
    if name.lower() in _ELSEWHERE:
        return f"unknown field {name!r}: the fields are {_fields_of(subject)} {quoted}"
    return _not_of(name, subject) and f"{_not_of(name, subject)} {quoted}"


def _not_of(name: str, subject: Subject | None) -> str:
    field = next((known for known in FIELDS if known.lower() == name.lower()), None)
    if field is None or subject is None or subject in FIELDS[field].of:
        return ""
    other = "client.list_schedules()" if subject == "workflows" else "client.list()"
    return f"{field} is no field of {subject}, but of {other}; here the fields are {_fields_of(subject)}"


def _fields_of(subject: Subject | None) -> str:
    return ", ".join(name for name, field in FIELDS.items() if subject is None or subject in field.of)


def sortable_time(microseconds: int) -> str:
    """A time as a search attribute: as text that is less where it is earlier, with a fraction or without."""
    return to_datetime(microseconds).isoformat()  # "+" sorts before ".", which "Z" doesn't
