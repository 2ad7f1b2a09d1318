"""What a request is remembered by, so that a repetition has no effect.

The kind of a request is part of it: people may give a start and a signal the same request id, and mean two things.
"""

from __future__ import annotations

from perdure.model.requests import Request, StartUpdate, StartWorkflow, UpdateWorkflow


def dedup_id(request: Request[object]) -> str:
    """What a request is remembered by; "" if it has no request id."""
    if isinstance(request, UpdateWorkflow):
        return update_id(request.update_id)
    return _id_of(type(request), getattr(request, "request_id", ""))


def dedup_ids(request: Request[object]) -> tuple[str, ...]:
    """All that a request is remembered by: where any of it was carried out before, all of it was."""
    own = dedup_id(request)
    if isinstance(request, StartWorkflow) and isinstance(request.message, StartUpdate):
        return own, update_id(request.message.update_id)
    return (own,) if own else ()


def start_id(request_id: str) -> str:
    """What a start with this request id is remembered by."""
    return _id_of(StartWorkflow, request_id)


def update_id(update_id: str) -> str:
    """What an update is remembered by, whichever request has brought it."""
    return _id_of(UpdateWorkflow, update_id)


def _id_of(kind: type[Request[object]], request_id: str) -> str:
    return f"{kind.__struct_config__.tag}:{request_id}" if request_id else ""
