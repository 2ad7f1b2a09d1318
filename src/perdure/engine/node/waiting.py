"""Callers who wait for what a run does later: its end, or how an update goes on."""

from __future__ import annotations

from perdure.engine.node.live import Answer, settle
from perdure.model.requests import Outcome, UpdateOutcome, UpdateStage

Key = tuple[str, str]
"""(run_id, update_id); the update_id is "" for the end of the run."""


class Waiting:
    """Who waits for what. It holds nobody who has given up."""

    def __init__(self) -> None:
        self._callers: dict[Key, dict[Answer, UpdateStage]] = {}
        self._keys: dict[Answer, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def for_end(self, run_id: str, answer: Answer) -> None:
        """A caller waits until a run ends."""
        self._add((run_id, ""), answer, "completed")

    def for_update(self, run_id: str, update_id: str, answer: Answer, stage: UpdateStage) -> None:
        """A caller waits until an update has come as far as `stage`."""
        self._add((run_id, update_id), answer, stage)

    def ended(self, outcome: Outcome) -> None:
        """A run has ended, on disk."""
        for answer in self._callers.pop((outcome.run_id, ""), ()):
            del self._keys[answer]
            settle(answer, outcome)

    def progressed(self, run_id: str, outcome: UpdateOutcome) -> None:
        """An update has come further, on disk."""
        for answer, stage in list(self._callers.get((run_id, outcome.update_id), {}).items()):
            if outcome.stage != "accepted" or stage == "accepted":
                self.withdraw(answer)
                settle(answer, outcome)

    def withdraw(self, answer: Answer | None) -> None:
        """This caller waits no more: it has given up, or what it saw is to be decided again."""
        if answer is None or (key := self._keys.pop(answer, None)) is None:
            return
        callers = self._callers[key]
        del callers[answer]
        if not callers:
            del self._callers[key]

    def _add(self, key: Key, answer: Answer, stage: UpdateStage) -> None:
        self._callers.setdefault(key, {})[answer] = stage
        self._keys[answer] = key
