"""How long things took after a fault."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from perdure.limits import SECOND
from perdure.model.events import TimerFired, TimerStarted
from tests.chaos.faults import PROCESS, Fault, Kind
from tests.chaos.runner import Chaos
from tests.crash.ledger import Began, Ended, Told


def retried(chaos: Chaos) -> Iterator[tuple[Fault, float, str]]:
    """For each attempt that was cut short by a kill: the kill, the seconds until the next attempt began, and whose."""
    kills = {fault.process: fault for fault in chaos.faults if fault.kind == "kill"}
    running: dict[tuple[str, str, str], Began] = {}
    for line in chaos.lines:
        if isinstance(line, Ended):
            began = running.get((line.workflow, line.run, line.activity))
            if began is not None and began.attempt == line.attempt:
                del running[line.workflow, line.run, line.activity]
        elif isinstance(line, Began):
            before = running.get((line.workflow, line.run, line.activity))
            running[line.workflow, line.run, line.activity] = line
            if before is not None and (kill := kills.get(before.process)) and kill.began < line.at:
                yield kill, (line.at - kill.began) / SECOND, line.workflow


def late_timers(chaos: Chaos) -> list[float]:
    """How late timers fired that were due within a grace after a process was killed, in seconds; but for those that
    the database was in the way of."""
    kills = [fault.began for fault in chaos.faults if fault.kind == "kill"]
    outages = [fault for fault in chaos.faults if fault.kind not in PROCESS]
    found: list[float] = []
    for run in chaos.disk.every_run():
        started = {event.id: event for event in run.events if isinstance(event, TimerStarted)}
        for event in run.events:
            if isinstance(event, TimerFired):
                due = started[event.started_event_id].fire_at
                after_kill = any(0 <= due - kill <= chaos.grace * SECOND for kill in kills)
                if after_kill and not any(o.began <= event.time and o.ended >= due - SECOND for o in outages):
                    found.append((event.time - due) / SECOND)
    return found


def silences(chaos: Chaos, kind: Kind) -> list[float]:
    """For each fault of a kind: the longest time around it in which no client was told anything, in seconds."""
    told = sorted(line.at for line in chaos.lines if isinstance(line, Told))
    found: list[float] = []
    for fault in chaos.faults:
        if fault.kind == kind:
            first, last = bisect_left(told, fault.began), bisect_left(told, fault.ended)
            around = told[max(first - 1, 0) : last + 1]
            found.append(max((after - before for before, after in pairwise(around)), default=0) / SECOND)
    return found


def shown(seconds: list[float]) -> str:
    """The median and the longest."""
    if not seconds:
        return "none"
    return f"{len(seconds)} times, median {median(seconds):.2f} s, longest {max(seconds):.2f} s"
