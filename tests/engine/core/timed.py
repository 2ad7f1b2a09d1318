"""A schedule that the core's tests drive by hand."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.calendars import iso
from perdure.clock import HOUR
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions.schedules import begin_schedule, check_create
from perdure.engine.core.scheduling import of
from perdure.engine.core.timetable import timetable
from perdure.limits import DEFAULT_RETENTION
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import schedules as s
from perdure.model.failures import Failure
from perdure.model.requests import Status
from tests.engine.core.harness import NOW, Run, effects, payload, start_request

HOURLY = s.ScheduleSpec(intervals=(s.IntervalSpec(HOUR),))
FIRST = timetable(HOURLY).next(NOW)
TARGET = "default", "hourly"


def definition(spec: s.ScheduleSpec = HOURLY, overlap: s.Overlap = "skip", **fields: object) -> s.Schedule:
    start = replace(start_request(""), workflow_id="hourly")
    return s.Schedule(spec, start, overlap, **fields)  # pyright: ignore[reportArgumentType]


def creation(schedule: s.Schedule | None = None, **fields: object) -> s.CreateSchedule:
    return s.CreateSchedule(*TARGET, schedule or definition(), "create", **fields)  # pyright: ignore[reportArgumentType]


class Timed(Run):
    """A schedule that is driven by hand."""

    def __init__(self, schedule: s.Schedule | None = None, *, seed: int = 0, **fields: object) -> None:
        request = creation(schedule, **fields)
        assert check_create(None, request, NOW) is None
        super().__init__(begin_schedule(request, "run-1", 1, NOW, DEFAULT_RETENTION), seed=seed)
        self.ids = 0

    @property
    def kept(self) -> s.ScheduleState:
        return of(self.state)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Begun, missed, skipped, refused."""
        schedule = self.kept
        return schedule.begun, schedule.missed, schedule.skipped, schedule.refused

    def request_id(self) -> str:
        self.ids += 1
        return f"request-{self.ids}"

    def due(self, at: int = 0) -> Sequence[fx.Send]:
        """Its next time has come (or another has); what it sends."""
        self.now = max(self.now, at or self.execution.wake_at())
        return effects(self.decide(i.WakeUp(("schedules/default", "hourly", 1))), fx.Send)

    def catch_up(self, at: int) -> None:
        """Until nothing more is due."""
        self.now = at
        self.answer_all()
        while 0 < self.execution.wake_at() <= self.now and self.state.status == "Running":
            self.due(self.now)
            self.answer_all()

    def answer(self, entry_id: int, error: str = "") -> None:
        """What was sent has arrived."""
        self.decide(i.OutboxAnswered(entry_id, error, "" if error else f"run-of-{entry_id}"))

    def answer_all(self) -> None:
        while self.state.outbox:
            self.answer(next(iter(self.state.outbox)))

    def report(
        self, start_id: int, status: Status = "Completed", failure: Failure | None = None, *, reset: int = 0
    ) -> None:
        """What was started has ended; or it runs again, after its last reset by the run with this number."""
        result = payload(start_id) if status == "Completed" else None
        first = self.state.started.first_run_id
        by = e.ScheduleRef("hourly", first, start_id, FIRST + (start_id - 1) * HOUR, reset)
        workflow_id = f"hourly-{iso(by.time)}"
        run_id = f"run-{reset}-of-{start_id}" if reset else f"run-of-{start_id}"
        self.decide(i.ScheduledRunReported(by, workflow_id, run_id, status, result, failure))

    def trigger(self, overlap: s.Overlap | None = None) -> Sequence[fx.Send]:
        request = s.TriggerSchedule(*TARGET, self.request_id(), overlap, "because", "ann")
        return effects(self.decide(request), fx.Send)


def sent(sends: Sequence[fx.Send]) -> list[str]:
    """The ids of the workflows that are started, or asked to end."""
    found: list[str] = []
    for send in sends:
        message = send.message
        if isinstance(message, r.OutboxCancel):
            found.append(f"{'terminate' if message.terminate else 'cancel'} {message.workflow_id}")
        else:
            assert isinstance(message, r.OutboxScheduledStart)
            found.append(message.workflow_id)
    return found
