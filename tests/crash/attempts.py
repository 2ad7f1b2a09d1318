"""The guarantees of activities, held against the ledger alone (DESIGN, section 5: 2 and 3).

An attempt is told what the one before it failed with. So each pair of attempts that follow each other shows what
the engine remembered: a failure, whose backoff must be over; a hold, which somebody must have released; or nothing
(the worker was lost), which only a kill explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from perdure.limits import RETRY_JITTER, SECOND
from tests.crash.checks import Finding
from tests.crash.ledger import AnyLine, Asked, Began, End, Ended, Mark
from tests.crash.workload import BACKOFF, LIMIT, LONGEST_BACKOFF, PATIENCE, Order

Cause = Literal["first", "raised", "held", "timeout", "lost", "evicted"]

_CAUSES: dict[str, Cause] = {
    "Flaky": "raised",
    "Hold": "held",
    "ActivityTimedOut": "timeout",
    "WorkerLost": "lost",
}
_NUMBER = re.compile(r"attempt (\d+)")


@dataclass
class Attempt:
    """An attempt, as it was seen outside. `end` is "" where the process was killed before."""

    began: Began
    end: End | Literal[""] = ""
    ended_at: int = 0

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return self.began.attempt

    def cause(self) -> tuple[Cause, int]:
        """What it was told of the attempt before, and the number of that one (0: it doesn't say)."""
        if not self.began.failure:
            return "first", 0
        type, _, message = self.began.failure.partition(": ")
        if message == "its worker stopped":
            return "evicted", 0
        number = _NUMBER.search(message)
        return _CAUSES[type.rpartition(".")[2]], int(number[1]) if number else 0


@dataclass
class Activity:
    """An activity's attempts, as they began, and when somebody asked to release it."""

    workflow_id: str
    step: int
    attempts: list[Attempt]
    releases: list[int]


def activities(lines: list[AnyLine]) -> dict[tuple[str, str, str], Activity]:
    """All activities of a ledger, by (workflow id, run id, activity id)."""
    found: dict[tuple[str, str, str], Activity] = {}
    for line in lines:
        match line:
            case Began():
                key = line.workflow, line.run, line.activity
                activity = found.setdefault(key, Activity(line.workflow, line.step, [], []))
                activity.attempts.append(Attempt(line))
            case Ended():
                attempts = found[line.workflow, line.run, line.activity].attempts
                attempt = next(each for each in reversed(attempts) if each.number == line.attempt)
                attempt.end, attempt.ended_at = line.how, line.at
            case Asked(what="release"):
                run, activity_id, _ = line.about.split()
                found[line.workflow, run, activity_id].releases.append(line.at)
            case _:
                pass
    return found


def check_attempts(lines: list[AnyLine], orders: list[Order]) -> list[Finding]:
    """What was done too often, too early, or with a count forgotten."""
    closed = {line.process for line in lines if isinstance(line, Mark) and line.kind == "closed"}
    hopeless = {step.key for order in orders for step in order.plan if step.kind == "hopeless"}
    found: list[Finding] = []
    for (workflow_id, _, activity_id), activity in activities(lines).items():
        texts = [*_check_first(activity.attempts[0])]
        for place in range(1, len(activity.attempts)):
            texts += _check_pair(activity, place, closed)
        counted = sum(attempt.end != "cancelled" for attempt in activity.attempts)
        if activity.step in hopeless and counted > LIMIT:
            texts.append(f"it had {counted} attempts; its policy gives it {LIMIT}")
        found += [Finding(workflow_id, f"activity {activity_id} (step {activity.step}): {text}") for text in texts]
    return found


def _check_first(first: Attempt) -> Iterator[str]:
    cause, _ = first.cause()
    if first.number > 1 + first.began.process:
        yield f"its first attempt has the number {first.number}"
    if (first.number == 1) != (cause == "first") or cause in ("raised", "held"):
        yield f"its first attempt, {first.number}, was told of {first.began.failure!r}"


def _check_pair(activity: Activity, place: int, closed: set[int]) -> Iterator[str]:
    """An attempt, and the one that began before it."""
    last, attempt = activity.attempts[place - 1 : place + 1]
    cause, number = attempt.cause()
    what = f"attempt {attempt.number}, in process {attempt.began.process} after {cause},"
    lives = attempt.began.process - last.began.process
    # An attempt that was started on disk, and killed before it began, isn't seen here: at most one a kill.
    if not last.number < attempt.number <= last.number + 1 + lives:
        yield f"{what} follows attempt {last.number} of process {last.began.process}"
    if number and number != attempt.number - 1:
        yield f"{what} was told of attempt {number}"
    if cause == "first":
        yield f"{what} was told of no failure"
    if cause == "lost" and number == last.number and lives == 0:
        yield f"{what} was started although nobody was killed"
    tells_of_last = attempt.number == last.number + 1
    if last.end == "returned" and (
        last.began.process in closed or (tells_of_last and cause not in ("lost", "timeout"))
    ):
        yield f"{what} repeats what had returned"
    if cause == "evicted" and tells_of_last and last.end not in ("cancelled", "hung"):
        yield f"{what} was told of an eviction, but attempt {last.number} {last.end or 'was killed'}"
    yield from _check_memory(activity, place, cause, number, what)


def _check_memory(activity: Activity, place: int, cause: Cause, number: int, what: str) -> Iterator[str]:
    """What the engine remembers of an attempt that failed: why, how far it came, and until when to wait."""
    last, attempt = activity.attempts[place - 1 : place + 1]
    if cause not in ("raised", "held", "timeout") or number != last.number:
        return
    if cause == "held":
        if not any(last.ended_at <= at <= attempt.began.at for at in activity.releases):
            yield f"{what} was not released by anybody"
        return
    if cause == "raised":
        if last.end != "raised":
            yield f"{what} was told of a failure, but attempt {number} {last.end or 'was killed'}"
        if attempt.began.beat != number:
            yield f"{what} was told of heartbeat {attempt.began.beat}"
    since = last.ended_at if cause == "raised" else last.began.started + int(PATIENCE * SECOND)
    wait = _least_backoff(activity.attempts[: place + 1])
    if attempt.began.at < since + wait:
        yield f"{what} began {(attempt.began.at - since) / SECOND:.3f} s after the failure; its backoff is {wait} µs"


def _least_backoff(attempts: list[Attempt]) -> int:
    """The least that has to be waited, in microseconds, before the last of these attempts."""
    since_hold = 0
    for attempt, following in pairwise(attempts):
        if attempt.end == "held":
            since_hold = 0
        elif attempt.end != "cancelled" and following.cause()[0] != "evicted":  # which costs none
            since_hold += 1
    interval = min(BACKOFF * 2 ** (max(since_hold, 1) - 1), LONGEST_BACKOFF)
    return int(interval * (1 - RETRY_JITTER) * SECOND)
