"""Local activities, as the outside world sees them: they run at least once, after what their code has heard is on disk.

What the history says of them must have happened. While no process and no worker is lost, what it says does not happen
again, their attempts are counted, and their backoffs kept.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import json

from perdure.limits import RETRY_JITTER
from perdure.model.events import HistoryEvent, MarkerRecorded
from perdure.sdk.activity.api import activity
from perdure.sdk.converter import encode, unordered
from perdure.sdk.workflow.local import LOCAL
from perdure.testing.simulation.attempts import BACKOFF, CLOCKS_AGREE, Failures, Flaky

if TYPE_CHECKING:
    from perdure.testing.simulation.ledger import Ledger


@dataclass
class Near:
    """What a local activity is to do. seen: the signals that its workflow's code had heard of."""

    key: int
    ms: int
    fails: int
    seen: list[int]


@dataclass
class _Try:
    """An attempt. losses: how many processes and workers had been lost when it began. origin: the run whose history
    its own began with, where that is a copy; else its own."""

    number: int
    losses: int
    origin: str
    end: str = "running"
    ended: float = 0.0


@dataclass
class Nears:
    """All of them, and what must be so."""

    ledger: Ledger
    _of: dict[tuple[str, str, int], list[_Try]] = field(default_factory=dict[tuple[str, str, int], list[_Try]])
    _failed: Failures = field(default_factory=Failures)

    async def perform(self, part: Near) -> int:
        """Its effect on the outside world."""
        info, ledger = activity.info(), self.ledger
        budget = info.workflow_id, part.key
        attempt = self._begin((info.workflow_id, info.run_id, part.key), info.attempt, part)
        try:
            await asyncio.sleep(part.ms / 1000)
            if number := self._failed.next(budget, part.fails):
                attempt.end = "raised"
                raise Flaky(f"failure {number}")
            attempt.end = "returned"
            return part.key
        finally:
            attempt.ended = ledger.time()
            ledger.say(f"local activity {part.key} of {info.workflow_id} attempt {info.attempt}: {attempt.end}")

    def _begin(self, key: tuple[str, str, int], number: int, asked: Near) -> _Try:
        ledger, (wid, run_id, part) = self.ledger, key
        ledger.say(f"local activity {part} of {wid} attempt {number} begins")
        run = ledger.run_on_disk(wid, run_id)
        if run is None:
            ledger.fail(f"local activity {part} of {wid} began, but run {run_id} is not on disk")
            raise AssertionError
        origin = run.started.original_run_id or run_id
        if unstored := {*asked.seen} - {*ledger.notes_on_disk(wid, ledger.on_disk(wid, "a local activity began"))}:
            ledger.fail(f"local activity {part} of {wid} began, but the signals {unstored} are not on disk")
        before = self._of.setdefault(key, [])
        if before and before[-1].losses == ledger.attempts.losses and not ledger.several:
            self._check_next(key, number, before[-1], asked)
        if number > 1 and not self._has_failed(wid, part, number - 1, origin):
            ledger.fail(f"attempt {number} of local activity {part} of {wid} began, but the one before did not fail")
        before.append(_Try(number, ledger.attempts.losses, origin))
        return before[-1]

    def _has_failed(self, workflow_id: str, part: int, number: int, origin: str) -> bool:
        """In the same run, or in one that was reset: the run in its place goes on counting from what it has copied."""
        return any(
            (each.number, each.origin, each.end) == (number, origin, "raised")
            for key, attempts in self._of.items()
            if (key[0], key[2]) == (workflow_id, part)
            for each in attempts
        )

    def _check_next(self, key: tuple[str, str, int], number: int, last: _Try, asked: Near) -> None:
        """Nobody was lost since the attempt before. (It may still have been for nothing: a store refuses rows, too.)"""
        ledger, (wid, run_id, part) = self.ledger, key
        what = f"attempt {number} of local activity {part} of {wid}"
        if (
            number == last.number + 1
            and last.end == "raised"
            and ledger.time() - last.ended < BACKOFF * (1 - RETRY_JITTER) - CLOCKS_AGREE
        ):
            ledger.fail(f"{what} began {ledger.time() - last.ended:.3f} s after a failure")
        digest = zlib.crc32(unordered(encode(asked, "what is asked")))
        for events in self._histories(wid, run_id):
            if any(recorded == part for recorded, _ in _results(events)):
                ledger.fail(f"{what} began, but its outcome is on disk")
            if any(data["digest"] == digest and data["attempt"] >= number for data in _markers(events)):
                ledger.fail(f"{what} began, but it is on disk that this one, or a later one, has failed")

    def _histories(self, workflow_id: str, run_id: str) -> Iterator[list[HistoryEvent]]:
        histories = self.ledger.histories(workflow_id)
        return (events for events in histories if events and getattr(events[0], "run_id", "") == run_id)

    def check_history(self, workflow_id: str, history: list[HistoryEvent]) -> None:
        """What it says of them has happened, and is said once."""
        results = [*_results(history)]
        returned = {
            (key[2], each.number)
            for key, attempts in self._of.items()
            for each in attempts
            if key[0] == workflow_id and each.end == "returned"
        }
        if not returned >= {*results}:
            self.ledger.fail(f"the history of {workflow_id} says that local activities {results} returned: {returned}")
        if len({part for part, _ in results}) != len(results):
            self.ledger.fail(f"the history of {workflow_id} says more than once that a local activity returned")


def _markers(history: Iterable[HistoryEvent]) -> Iterator[dict[str, int]]:
    """What is recorded of each outcome."""
    for event in history:
        if isinstance(event, MarkerRecorded) and event.marker_name == LOCAL:
            yield json.decode(event.details["data"].data)


def _results(history: Iterable[HistoryEvent]) -> Iterator[tuple[int, int]]:
    """What local activities have returned, and in which attempt."""
    for event in history:
        if isinstance(event, MarkerRecorded) and event.marker_name == LOCAL and "result" in event.details:
            yield int(event.details["result"].data), json.decode(event.details["data"].data)["attempt"]
