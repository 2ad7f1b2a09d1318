"""Children whose start is on its way: what else is for their workflow ids waits until that has an answer.

Entries of an outbox may overtake each other. Until a child has begun, another run may have its id, and would take for
its own, or refuse, what is meant for the child. All of this follows from the outbox.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.model import records as r
from perdure.model.state import OutboxEntry


class Starting:
    """By workflow id, the entries from the first start without an answer on, in their order; and which are starts."""

    def __init__(self, outbox: Mapping[int, OutboxEntry]) -> None:
        self._lines: dict[str, dict[int, bool]] = {}
        for id in sorted(outbox):
            self.add(id, outbox[id].added.message)

    def add(self, entry_id: int, message: r.Outgoing) -> bool:
        """Something was put into the outbox. Whether it may be sent."""
        if isinstance(message, r.OutboxStart):
            self._lines.setdefault(message.workflow_id, {})[entry_id] = True
            return True
        if not isinstance(message, r.OutboxSignal | r.OutboxCancel | r.OutboxAsk):
            return True
        line = self._lines.get(message.workflow_id)
        if line is None or (not isinstance(message, r.OutboxAsk) and message.run_id):  # that run has begun
            return True
        line[entry_id] = False
        return False

    def waits(self, entry_id: int, message: r.Outgoing) -> bool:
        """Whether it may not be sent yet."""
        line = self._lines.get(getattr(message, "workflow_id", "")) if self._lines else None
        return line is not None and not line.get(entry_id, True)

    def answered(self, entry_id: int, start: r.OutboxStart) -> list[int]:
        """A start has its answer: the entries that may be sent now."""
        line = self._lines.get(start.workflow_id)
        if line is None:
            return []
        line.pop(entry_id, None)
        free: list[int] = []
        for id, is_start in line.items():
            if is_start:
                break
            free.append(id)
        for id in free:
            del line[id]
        if not line:
            del self._lines[start.workflow_id]
        return free
