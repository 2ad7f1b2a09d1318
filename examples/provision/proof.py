"""Was everything made, nothing twice, and nothing left behind? What the cloud has against what we were told."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from examples.provision.cloud import CallLog, Report
from examples.provision.messages import Finished
from examples.provision.progress import Step


@dataclass(frozen=True, slots=True)
class Kill:
    """The kill -9: when (seconds since the epoch), and the client that died, as the cloud's log calls it."""

    at: float
    client: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so, and whether it is."""

    claim: str
    evidence: str
    holds: bool


def prove(plan: list[Step], finished: Finished, report: Report, kill: Kill) -> list[Check]:
    """Check a finished run.

    Args:
        plan: the steps that the specification asks for.
        finished: what the workflow returned, and what its history says.
        report: what the cloud says.
        kill: the kill that happened on the way.
    """
    wanted = Counter((step.kind, step.name) for step in plan)
    made = Counter((resource.kind.removesuffix("s"), resource.name) for resource in report.resources)
    created = Counter(call.key for call in report.calls if call.outcome == "created")
    existing = {resource.id for resource in report.resources}
    returned = {resource.id for resource in finished.environment.resources()}
    unheard = {call.key for call in report.calls if call.outcome == "created" and not call.heard}
    recognised = {call.key for call in report.calls if call.outcome == "repeated" and call.heard}
    return [
        Check(
            "All that was asked for exists, once.",
            f"{wanted.total()} asked for, {made.total()} exist",
            wanted == made,
        ),
        Check(
            "Nothing was made twice.",
            f"{len(created)} keys, {created.total()} times something was made",
            created.total() == len(created) == len(existing),
        ),
        Check(
            "No orphan is left: the cloud has exactly what the workflow returned.",
            f"{len(existing)} exist, {len(returned)} returned",
            existing == returned,
        ),
        Check(
            "Where the answer was lost after the work was done, asking again gave the same resource.",
            f"{len(unheard)} lost, {len(unheard & recognised)} recognised",
            unheard <= recognised,
        ),
        *_around_the_kill(finished, report.calls, kill),
    ]


def _around_the_kill(finished: Finished, calls: list[CallLog], kill: Kill) -> list[Check]:
    key = f"{finished.environment.name}/{{}}".format
    done = {key(step.activity_id) for step in finished.steps if 0 < step.finished_at <= kill.at}
    waited_for = {call.key for call in calls if call.client == kill.client and (call.ended or math.inf) > kill.at}
    again = {call.key for call in calls if call.client != kill.client}
    return [
        Check(
            "What was done before the kill did not run again.",
            f"{len(done)} done, {len(done & again)} ran again",
            not done & again,
        ),
        Check(
            "What was in flight when the process was killed ran again.",
            f"{len(waited_for)} in flight, {len(waited_for & again)} ran again",
            waited_for <= again,
        ),
    ]
