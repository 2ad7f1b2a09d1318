"""What sagas have done to the outside world, and undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.testing.simulation.ledger import Ledger


class Deeds:
    """What sagas have done and undone, in each run."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._done: dict[tuple[str, str, str], list[int]] = {}

    def did(self, saga: str, run_id: str, what: str, number: int) -> None:
        """Something was done ("do") or undone ("undo"); perhaps not for the first time, since an answer may be lost."""
        numbers = self._done.setdefault((saga, run_id, what), [])
        if number not in numbers:
            numbers.append(number)

    def check(self, workflow_id: str, run_id: str, saga: str, dos: int, *, undone: bool) -> None:
        """As many were undone as were done, the last first; or none was. `dos`: those that the code knows of; the last
        one may have been done when it was cancelled already."""
        did = self._done.get((saga, run_id, "do"), [])
        undid = self._done.get((saga, run_id, "undo"), [])
        if self._ledger.asked[workflow_id].reset:
            return  # an earlier run may have done, and undone, some of it
        backwards = [[*reversed(range(count))] for count in ((dos, dos + 1) if undone else (0,))]
        if did[:dos] != [*range(dos)] or undid not in backwards:
            self._ledger.fail(
                f"a saga of {workflow_id} did {did}, and undid {undid}; {dos} were done, undone: {undone}"
            )
