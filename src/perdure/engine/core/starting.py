"""What of the outbox waits for something before it: a child's begin, or the end of one whose id is to be used again.

Entries of an outbox may overtake each other. But until a child has begun, another run may have its id, and would take
for its own, or refuse, what is meant for the child; and until one has ended that is not to outlive its parent, its id
is taken. All of this follows from the outbox.

::

    start "x" │ signal "x" … cancel "x"      wait for the answer to the start
    end "x"   │ start "x"                    waits for the answer to the end
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeGuard

from perdure.model import records as r
from perdure.model.state import OutboxEntry

_Kind = Literal["start", "end", "other"]

_AFTER: Final[dict[_Kind, _Kind]] = {"start": "end", "end": "start", "other": "start"}
"""What each kind waits for, where it stands before it."""

_BOTH: Final[frozenset[_Kind]] = frozenset({"start", "end"})


class Starting:
    """By workflow id, in their order: the starts and ends without an answer, and what waits for one of them."""

    def __init__(self, outbox: Mapping[int, OutboxEntry]) -> None:
        self._lines: dict[str, dict[int, _Kind]] = {}
        self._waiting: set[int] = set()
        for id in sorted(outbox):
            self.add(id, outbox[id].added.message)

    def add(self, entry_id: int, message: r.Outgoing) -> bool:
        """Something was put into the outbox. Whether it may be sent."""
        kind = _kind(message)
        if kind is None:
            return True
        workflow_id = _workflow_id(message)
        line = self._lines.get(workflow_id, {})
        waits = _AFTER[kind] in line.values()
        if waits:
            self._waiting.add(entry_id)
        if waits or kind != "other":
            self._lines.setdefault(workflow_id, line)[entry_id] = kind
        return not waits

    def waits(self, entry_id: int) -> bool:
        """Whether it may not be sent yet."""
        return entry_id in self._waiting

    def answered(self, entry_id: int, message: r.Outgoing) -> list[int]:
        """An entry has its answer: those that may be sent now."""
        workflow_id = _workflow_id(message)
        line = self._lines.get(workflow_id)
        if line is None or line.pop(entry_id, None) is None:
            return []
        self._waiting.discard(entry_id)
        free = list(self._freed(line))
        for id in free:
            self._waiting.discard(id)
            if line[id] == "other":
                del line[id]
        if not line:
            del self._lines[workflow_id]
        return free

    def _freed(self, line: Mapping[int, _Kind]) -> Iterator[int]:
        """What waits, and has nothing before it any more that it would wait for."""
        if not self._waiting:
            return
        before: set[_Kind] = set()
        for id, kind in line.items():
            if id in self._waiting and _AFTER[kind] not in before:
                yield id
            before.add(kind)
            if before >= _BOTH:
                return  # what is behind waits for one or the other


def ends_child(message: r.Outgoing) -> TypeGuard[r.OutboxCancel]:
    """Whether a child ends by it, since its parent has."""
    return isinstance(message, r.OutboxCancel) and message.terminate and message.child_of is not None


def _workflow_id(message: r.Outgoing) -> str:
    """Whom it is for; "" for reports, which no line is for."""
    return "" if isinstance(message, r.OutboxReport | r.OutboxScheduleReport) else message.workflow_id


def _kind(message: r.Outgoing) -> _Kind | None:
    """None for what waits for nothing: reports, and what is for a run that has begun."""
    if isinstance(message, r.OutboxStart):
        return "start"
    if ends_child(message):
        return "end"
    if isinstance(message, r.OutboxSignal | r.OutboxCancel):
        return None if message.run_id else "other"
    return "other" if isinstance(message, r.OutboxAsk) else None
