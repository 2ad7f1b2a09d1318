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
        self._runs: dict[str, dict[str, None]] = {}  # the update ids (see `Key`) that are waited for, by run

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
        for answer in list(self._callers.get((outcome.run_id, ""), ())):
            self.withdraw(answer)
            settle(answer, outcome)

    def progressed(self, run_id: str, outcome: UpdateOutcome) -> None:
        """An update has come further, on disk."""
        for answer, stage in list(self._callers.get((run_id, outcome.update_id), {}).items()):
            if far_enough(outcome, stage):
                self.withdraw(answer)
                settle(answer, outcome)

    def move(self, run_id: str, update_ids: list[str], new_run_id: str) -> None:
        """What callers wait for is another run's now."""
        for update_id in update_ids:
            for answer, stage in list(self._callers[run_id, update_id].items()):
                self.withdraw(answer)
                self._add((new_run_id, update_id), answer, stage)

    def waits_for(self, run_id: str) -> bool:
        """Whether anybody waits for something of a run."""
        return run_id in self._runs

    def updates_of(self, run_id: str) -> list[str]:
        """The updates of a run that somebody waits for."""
        return [update_id for update_id in self._runs.get(run_id, ()) if update_id]

    def withdraw(self, answer: Answer | None) -> None:
        """This caller waits no more: it has given up, or what it saw is to be decided again."""
        if answer is None or (key := self._keys.pop(answer, None)) is None:
            return
        callers = self._callers[key]
        del callers[answer]
        if not callers:
            del self._callers[key]
            updates = self._runs[key[0]]
            del updates[key[1]]
            if not updates:
                del self._runs[key[0]]

    def _add(self, key: Key, answer: Answer, stage: UpdateStage) -> None:
        self._callers.setdefault(key, {})[answer] = stage
        self._runs.setdefault(key[0], {})[key[1]] = None
        self._keys[answer] = key


def far_enough(outcome: object, stage: UpdateStage) -> bool:
    """Whether an update has come as far as a caller wants to know."""
    return isinstance(outcome, UpdateOutcome) and (outcome.stage != "accepted" or stage == "accepted")
