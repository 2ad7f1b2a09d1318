"""Schedules, as seen from outside: made, looked at, changed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypedDict, overload

from msgspec import Struct
from msgspec.structs import replace
from typing_extensions import TypeVar, Unpack

from perdure.clock import to_datetime
from perdure.durations import Duration
from perdure.errors import ScheduleChanged
from perdure.limits import UPDATE_TRIES
from perdure.model import schedules as s
from perdure.model.requests import Reply, Request, StartWorkflow, Status
from perdure.model.schedules import Overlap, ScheduledRun
from perdure.sdk.client.description import (
    InterventionDescription,
    PauseDescription,
    intervention_of,
    pause_of,
)
from perdure.sdk.client.starts import StartOptions, start_request
from perdure.sdk.client.timing import Schedule, engine_schedule, moment, overlap_or_default, user_schedule
from perdure.sdk.options import name as checked_name
from perdure.sdk.options import optional_name, text
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.workflow.calls import WorkflowCall
from perdure.sdk.workflow.decorators import ClassWorkflow, PlainClassWorkflow

if TYPE_CHECKING:
    from perdure.sdk.client.client import Client

R = TypeVar("R")


_NO_START: Final = StartWorkflow("-", "-", "-", "-", (), "")
"""Where what a schedule starts stays what it is: whoever changes the times need not be able to read its arguments."""


class ScheduledStartOptions(TypedDict, total=False):
    """What may be said of the workflow that a schedule starts. `Client.start` tells what each means; `workflow_id` is
    what the workflows' ids begin with, by default the schedule's id."""

    workflow_id: str | None
    task_queue: str | None
    execution_timeout: Duration | None
    run_timeout: Duration | None
    task_timeout: Duration | None
    retry_policy: RetryPolicy | None
    memo: Mapping[str, object] | None


class ScheduleRow(Struct, frozen=True, kw_only=True):
    """One schedule of a listing. Times are in UTC."""

    id: str
    workflow_type: str
    created: datetime


class ScheduledRunDescription(Struct, frozen=True, kw_only=True):
    """What a schedule has started. Times are in UTC."""

    scheduled_time: datetime
    """The nominal time."""
    started_time: datetime
    workflow_id: str
    run_id: str | None
    """None: its start is on its way, or was refused."""
    status: Status | None
    manual: bool
    """A person asked for it: a trigger, a backfill, or a reset after its end."""
    error: str | None
    """What it failed with, or why it could not be started."""


class ScheduleDescription(Struct, frozen=True, kw_only=True):
    """A schedule, as it is now. Times are in UTC."""

    id: str
    schedule: Schedule
    workflow_type: str
    task_queue: str
    revision: int
    """How often it was defined: 1, and one more with each update."""
    created: datetime
    paused: PauseDescription | None
    next_times: tuple[datetime, ...]
    """When it will start something next, the first ten times, with their jitter; as if it were not paused."""
    running: tuple[ScheduledRunDescription, ...]
    """What it has started and has not ended; the first 1,000 of them."""
    running_count: int
    recent: tuple[ScheduledRunDescription, ...]
    """The last ten that have ended, the latest last."""
    buffered: tuple[datetime, ...]
    """Nominal times of starts that wait for what runs."""
    backfills: int
    """How many are under way."""
    started: int
    """Workflows that it has started, those that run included."""
    missed: int
    """Times that were longer ago than the catch-up window when they were looked at."""
    skipped: int
    """Starts that were left out by the overlap policy."""
    refused: int
    """Starts that were refused, such as for an id that is taken by something else; they are not among the started."""
    last_refusal: str | None
    """Which workflow could not be started the last time, and why; None: each could."""
    last_failure: str | None
    """What the last workflow that has ended failed with; None: it did not fail."""
    interventions: tuple[InterventionDescription, ...]
    """What persons did about it, the latest last."""


class ScheduleHandle:
    """A schedule that was made, by this process or any other. Made by `Client.create_schedule` and `Client.schedule`.

    Every method raises `NotFound` where there is no such schedule, and `Unavailable` where the engine could not be
    reached for an hour. What persons do stands in the journal with who, when and why; `describe` shows it.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id: Final = id

    async def describe(self) -> ScheduleDescription:
        """Its definition, its next times, what it has started, and what persons did about it."""
        return _described(await self._describe())

    async def pause(self, note: str = "") -> None:
        """Start nothing more, but what a person asks for. What runs goes on. Pausing again changes nothing.

        Args:
            note: why; it stands in the journal, with who and when.
        """
        client = self._client
        note = text(note, "the note")
        await self._call(s.PauseSchedule(client.namespace, self.id, client.ids.new_id(), note, client.identity))

    async def unpause(self, note: str = "") -> None:
        """Go on with the times from now on. Those of the pause aren't made up for (`backfill` does that).

        Args:
            note: what was done meanwhile; it stands in the journal, with who and when.
        """
        client = self._client
        note = text(note, "the note")
        await self._call(s.UnpauseSchedule(client.namespace, self.id, client.ids.new_id(), note, client.identity))

    async def trigger(self, *, overlap: Overlap | None = None, note: str = "", request_id: str | None = None) -> None:
        """Start the workflow once now, also in a pause. Its nominal time is now.

        Args:
            overlap: what happens if one runs; by default as the schedule says.
            note: why; it stands in the journal, with who and when.
            request_id: makes it idempotent: of several with the same id, one takes effect.

        Raises:
            ValueError: there is no such overlap policy.
        """
        client = self._client
        await self._call(
            s.TriggerSchedule(
                client.namespace,
                self.id,
                optional_name(request_id, "request_id") or client.ids.new_id(),
                overlap_or_default(overlap),
                text(note, "the note"),
                client.identity,
            )
        )

    async def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        overlap: Overlap | None = None,
        note: str = "",
        request_id: str | None = None,
    ) -> None:
        """Start what would have been due in a time of the past, also in a pause. Returns before that is done.

        Args:
            start, end: from when to when, both included; with time zones. A time that is in two backfills is started
                twice: let the next one begin after this one's end.
            overlap: what happens if one runs; by default as the schedule says. "buffer_all" starts one after another,
                "allow_all" all at once; with "skip" most are left out.
            note: why; it stands in the journal, with who and when.
            request_id: makes it idempotent: of several with the same id, one takes effect.

        Raises:
            TypeError, ValueError: a time has no zone; there is no such overlap policy.
            InvalidRequest: the end is before the start, or in the future.
            LimitExceeded: it may have more than `limits.MAX_BACKFILL_TIMES` times, or too many are under way.
        """
        client = self._client
        await self._call(
            s.BackfillSchedule(
                client.namespace,
                self.id,
                optional_name(request_id, "request_id") or client.ids.new_id(),
                moment(start, "start"),
                moment(end, "end"),
                overlap_or_default(overlap),
                text(note, "the note"),
                client.identity,
            )
        )

    async def update(
        self,
        change: Schedule | Callable[[Schedule], Schedule],
        call: WorkflowCall[R] | ClassWorkflow[R] | PlainClassWorkflow[R] | None = None,
        /,
        *,
        note: str = "",
        **options: Unpack[ScheduledStartOptions],
    ) -> None:
        """Give it another definition.

        Where the times are others, they count from now on; else what is due and not started yet is kept.

        ::

            await handle.update(lambda schedule: replace(schedule, overlap="buffer_one"))   # msgspec.structs.replace

        Args:
            change: the new schedule, or what makes it of the one that there is. It may be called again, where somebody
                else changes the schedule at the same time.
            call: what to start from now on; by default what it is.
            note: why; it stands in the journal, with who and when.
            options: of the start; they need a `call`.

        Raises:
            InvalidRequest: it can't be read, or could never start anything; the message says what and where.
            ScheduleChanged: others change it faster than this does.
            TypeError, ValueError: something is not what it should be; the message names it.
        """
        client, note = self._client, text(note, "the note")
        if call is None and options:
            raise TypeError(f"{', '.join(options)}: options are of a start; give the call, too")
        tries = UPDATE_TRIES
        while True:
            before = await self._describe()
            start = _NO_START if call is None else scheduled_start(client, self.id, call, options)
            schedule = change(user_schedule(before.schedule, before.remaining)) if callable(change) else change
            request = s.UpdateSchedule(
                client.namespace,
                self.id,
                engine_schedule(schedule, start),
                client.ids.new_id(),
                before.revision,
                note,
                client.identity,
                keep_start=call is None,
            )
            tries -= 1
            try:
                await self._call(request)
            except ScheduleChanged:
                if not tries:
                    raise
            else:
                return

    async def delete(self, note: str = "") -> None:
        """End the schedule. What it has started goes on, and its id may be used again.

        Args:
            note: why; it stands in the journal, with who and when.
        """
        client = self._client
        note = text(note, "the note")
        await self._call(s.DeleteSchedule(client.namespace, self.id, client.ids.new_id(), note, client.identity))

    async def _describe(self) -> s.ScheduleDescription:
        return await self._call(s.DescribeSchedule(self._client.namespace, self.id))

    async def _call(self, request: Request[Reply]) -> Reply:
        return await self._client.send(request)

    def __repr__(self) -> str:
        return f"<schedule {self.id!r}>"


class Schedules:
    """What a client does about schedules: a part of `Client`."""

    @abstractmethod
    def _client(self) -> Client: ...

    @overload
    async def create_schedule(
        self,
        id: str,
        call: WorkflowCall[R] | ClassWorkflow[R],
        schedule: Schedule,
        /,
        *,
        paused: bool = False,
        note: str = "",
        request_id: str | None = None,
        **options: Unpack[ScheduledStartOptions],
    ) -> ScheduleHandle: ...
    @overload
    async def create_schedule(
        self,
        id: str,
        call: PlainClassWorkflow[R],
        schedule: Schedule,
        /,
        *,
        paused: bool = False,
        note: str = "",
        request_id: str | None = None,
        **options: Unpack[ScheduledStartOptions],
    ) -> ScheduleHandle: ...
    async def create_schedule(
        self,
        id: str,
        call: object,
        schedule: Schedule,
        /,
        *,
        paused: bool = False,
        note: str = "",
        request_id: str | None = None,
        **options: Unpack[ScheduledStartOptions],
    ) -> ScheduleHandle:
        """Start a workflow at recurring times, until the schedule is deleted. When this returns, it is on disk.

        Each of its workflows has the id "<id>-<nominal time>", as "nightly-2027-01-31T02:00:00Z", and the search
        attributes `ScheduledById` and `ScheduledStartTime`.

        ::

            nightly = Schedule(cron="0 3 * * *", time_zone="Europe/Zurich")
            handle = await client.create_schedule("nightly", provision("payments", ["eu"]), nightly)

        Args:
            id: the schedule's id. Ids of schedules and of workflows don't meet.
            call: what to start each time: `provision("payments")`, or `Onboarding(request)` for a class.
            schedule: when, and how.
            paused: it starts nothing until `unpause`, but what a person asks for.
            note: why; it stands in the journal, with who and when.
            request_id: makes it idempotent: of several with the same id, one takes effect.
            options: of the start, as of `start`: task_queue, timeouts, retry_policy, memo; `workflow_id` is what the
                workflows' ids begin with, in place of the schedule's id.

        Raises:
            ScheduleExists: there is a schedule with this id.
            InvalidRequest: it can't be read, or could never start anything; the message says what and where.
            TypeError, ValueError: something is not what it should be; the message names it.
            EncodeError, PayloadTooLarge: an argument can't be stored.
            Unavailable: the engine could not be reached for an hour.
        """
        client = self._client()
        id = checked_name(id, "id")
        start = scheduled_start(client, id, call, options)
        request = s.CreateSchedule(
            client.namespace,
            id,
            engine_schedule(schedule, start),
            optional_name(request_id, "request_id") or client.ids.new_id(),
            paused,
            text(note, "the note"),
            client.identity,
        )
        await client.send(request)
        return ScheduleHandle(client, id)

    def schedule(self, id: str, /) -> ScheduleHandle:
        """A handle to a schedule that was made before. Asks nobody: a wrong id shows at the first use.

        Raises:
            TypeError: the id is no text.
        """
        return ScheduleHandle(self._client(), text(id, "id"))

    async def list_schedules(self, query: str = "") -> AsyncIterator[ScheduleRow]:
        """Schedules, the latest made first.

        Args:
            query: such as "WorkflowType = 'provision' AND Paused = TRUE"; `WorkflowId` is the schedule's id. By default
                all. The other fields are StartTime (when it was made) and TaskQueue.

        Raises:
            TypeError: the query is no text.
            InvalidRequest: the query can't be read; the message says where.
            Unavailable: the engine could not be reached for an hour.
        """
        client = self._client()
        page, query = "", text(query, "the query")
        while True:
            reply = await client.send(s.ListSchedules(client.namespace, "", query, page))
            for listed in reply.rows:
                yield ScheduleRow(
                    id=listed.workflow_id, workflow_type=listed.workflow_type, created=to_datetime(listed.start_time)
                )
            if not reply.next:
                return
            page = reply.next


def scheduled_start(client: Client, id: str, call: object, options: ScheduledStartOptions) -> StartWorkflow:
    """The start that a schedule repeats. Raises as `start_request`."""
    for option in options:
        if option not in ScheduledStartOptions.__annotations__:
            if option in Schedule.__struct_fields__:
                raise TypeError(f"{option!r} is of the schedule itself: Schedule(…, {option}=…)")
            allowed = ", ".join(ScheduledStartOptions.__annotations__)
            raise TypeError(f"what a schedule starts has no option {option!r}; it has {allowed}")
    start = StartOptions(
        id=id if (prefix := options.get("workflow_id")) is None else checked_name(prefix, "workflow_id"),
        task_queue=options.get("task_queue"),
        execution_timeout=options.get("execution_timeout"),
        run_timeout=options.get("run_timeout"),
        task_timeout=options.get("task_timeout"),
        retry_policy=options.get("retry_policy"),
        memo=options.get("memo"),
    )
    with client.room():
        request, _ = start_request(client, call, start)
    return replace(request, identity="")


# --- Descriptions -------------------------------------------------------------------------------------------
def _described(reply: s.ScheduleDescription) -> ScheduleDescription:
    start, failure = reply.schedule.start, reply.last_failure
    return ScheduleDescription(
        id=reply.schedule_id,
        schedule=user_schedule(reply.schedule, reply.remaining),
        workflow_type=start.workflow_type,
        task_queue=start.task_queue,
        revision=reply.revision,
        created=to_datetime(reply.created),
        paused=pause_of(reply.paused),
        next_times=tuple([to_datetime(time) for time in reply.next_times]),
        running=tuple([_run(each) for each in reply.running]),
        running_count=reply.running_count,
        recent=tuple([_run(each) for each in reply.recent]),
        buffered=tuple([to_datetime(each.time) for each in reply.buffered]),
        backfills=reply.backfills,
        started=reply.started,
        missed=reply.missed,
        skipped=reply.skipped,
        refused=reply.refused,
        last_refusal=reply.last_refusal or None,
        last_failure=None if failure is None else failure.text,
        interventions=tuple([intervention_of(each) for each in reply.interventions]),
    )


def _run(run: ScheduledRun) -> ScheduledRunDescription:
    status: Status | Literal[""] = run.status
    return ScheduledRunDescription(
        scheduled_time=to_datetime(run.time),
        started_time=to_datetime(run.begun_at),
        workflow_id=run.workflow_id,
        run_id=run.run_id or None,
        status=status or None,
        manual=run.manual,
        error=run.error or None,
    )
