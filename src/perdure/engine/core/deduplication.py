"""What a request is remembered by, so that a repetition has no effect.

The kind of a request is part of it: people may give a start and a signal the same request id, and mean two things.
"""

from __future__ import annotations

from perdure.model.requests import Request, StartWorkflow


def dedup_id(request: Request[object]) -> str:
    """What a request is remembered by; "" if it has no request id."""
    return _id_of(type(request), getattr(request, "request_id", ""))


def start_id(request_id: str) -> str:
    """What a start with this request id is remembered by."""
    return _id_of(StartWorkflow, request_id)


def _id_of(kind: type[Request[object]], request_id: str) -> str:
    return f"{kind.__struct_config__.tag}:{request_id}" if request_id else ""
