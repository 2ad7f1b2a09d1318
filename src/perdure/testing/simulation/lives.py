"""Which processes the store has heard of lately: what others may take for lost, and what they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure.limits import NODE_GRACE, SECOND

if TYPE_CHECKING:
    from perdure.testing.simulation.ledger import Ledger

GRACE: Final = NODE_GRACE / SECOND


class Lives:
    """The processes that say that they are alive, by the true time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._renewed: dict[int, float] = {}
        self._given_up: dict[int, float] = {}  # until when it was last counted as lost
        self._ended: set[int] = set()

    def renewed(self, process: int) -> None:
        """The store has heard of it."""
        now = self._ledger.time()
        if now - self._renewed.get(process, now) >= GRACE:
            self._given_up[process] = now
        self._renewed[process] = now

    def silent(self, process: int) -> bool:
        """Whether others may take it for lost now."""
        return self._ledger.time() - self._renewed.get(process, self._ledger.time()) >= GRACE

    def ended(self, process: int) -> None:
        """It is dead, or has left in good order."""
        self._ended.add(process)

    def lost(self, process: int, since: float) -> bool:
        """Whether others may have taken it for lost at some time since then."""
        if process in self._ended or self.silent(process):
            return True
        return self._given_up.get(process, -1.0) >= since
