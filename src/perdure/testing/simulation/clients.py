"""The clients of a simulation: who starts the workflows, sends them messages, and waits for what comes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from perdure.clock import SECOND
from perdure.errors import (
    InvalidRequest,
    NotFound,
    PerdureError,
    QueryFailed,
    Unavailable,
    WorkflowAlreadyStarted,
    WorkflowFailed,
)
from perdure.model.events import IdReusePolicy, WorkflowTaskCompleted
from perdure.model.requests import (
    GetResult,
    Reply,
    Request,
    SignalWorkflow,
    StartSignal,
    StartWorkflow,
    UpdateWorkflow,
)
from perdure.model.retry import RetryPolicy
from perdure.sdk.client.client import Client
from perdure.sdk.client.handle import WorkflowHandle
from perdure.sdk.converter import encode
from perdure.testing.simulation.attempts import Step
from perdure.testing.simulation.families import clerk
from perdure.testing.simulation.ledger import Asked, Ledger
from perdure.testing.simulation.script import KINDS, LATE, Report, Script, make_plan


@dataclass
class Wanted:
    """What the clients of one workflow do: its plan, and the messages they send, each after a pause.

    rivals: how many others try to start it, too; one of them succeeds.
    joined: each start brings a signal, for whichever run there is.
    delay: seconds until a start begins, unless another one comes. retried: whether a run that fails is tried again.
    entity: it has no plan, and lives until it is told to go.
    resets: how often it may be reset.
    """

    workflow_id: str
    plan: list[Step]
    messages: list[tuple[float, str, int]]
    rivals: int = 0
    joined: bool = False
    delay: float = 0.0
    retried: bool = False
    entity: bool = False

    @property
    def resets(self) -> int:
        return sum(kind == "reset" for _, kind, _ in self.messages)


def make_wanted(random: Random, kinds: tuple[str, ...] = KINDS) -> list[Wanted]:
    """The workflows of a seed."""
    workflows: list[Wanted] = []
    for w in range(random.randint(1, 5)):
        plan = make_plan(random, (w + 1) * 100, kinds)
        notes = max([step.n for step in plan if step.kind == "signals"], default=0) + random.randint(0, 2)
        messages = [(random.random() * random.choice((0.01, 2.0)), "note", n) for n in range(notes)]
        messages += [
            (random.random(), "add", 90_000 + n if random.random() < 0.8 else -1 - n)
            for n in range(random.randint(0, 2))
        ]
        messages += [(random.random(), random.choice(("describe", "query")), 0) for _ in range(random.randint(0, 2))]
        random.shuffle(messages)
        if random.random() < 0.3 and not any(kind == "add" for _, kind, _ in messages):  # updates are of one run
            plan.insert(random.randrange(len(plan)), Step((w + 1) * 100 + 50, "again"))
        workflows.append(Wanted(f"w{w}", plan, messages))
    # What was added later draws from a source of its own, so that the seeds are what they were.
    extra = Random(repr(workflows))
    for wanted in workflows:
        _intervene(extra, wanted)
    more = Random(repr(workflows))
    for wanted in workflows:
        _widen(more, wanted)
    if more.random() < 0.4:
        workflows.append(_pet(more))
    farther = Random(repr(workflows))
    for wanted in workflows:
        if not wanted.entity:
            _near_and_far(farther, wanted)
    return workflows


def _intervene(random: Random, wanted: Wanted) -> None:
    """Pauses, resets, starts with signals or delays, and runs that fail at first; no results change by them."""
    kinds, sent = {step.kind for step in wanted.plan}, {kind for _, kind, _ in wanted.messages}
    if random.random() < 0.15:
        wanted.messages.append((random.random() * 2, "pause", random.choice((0, 100, 5_000))))
    if random.random() < 0.15 and not kinds & {"child", "again"}:
        wanted.messages += [(random.random() * 2, "reset", n) for n in range(random.choice((1, 1, 2)))]
    if random.random() < 0.15:
        wanted.joined, wanted.rivals = True, wanted.rivals + random.randint(0, 2)
    if random.random() < 0.1:
        wanted.delay = random.choice((0.01, 3.0))
    if random.random() < 0.4 and not wanted.joined and not kinds & {"signals", "again"} and not sent & {"note", "add"}:
        first = wanted.plan[0].key
        wanted.plan.append(Step(first + 60, "retry", n=random.randint(1, 2)))
        wanted.retried = True


def _widen(random: Random, wanted: Wanted) -> None:
    """Sagas, children that are left or called back, signals that the code fetches, and persons who cancel or go far
    back."""
    plan, key = wanted.plan, wanted.plan[0].key - wanted.plan[0].key % 100 + 70
    for step in (
        Step(key, "leave", n=random.randrange(3)),
        Step(key + 2, "recall", n=random.randrange(3)),
        Step(
            key + 4,
            "saga",
            ms=random.choice((0, 0, 1, 300, 1_000)),
            n=random.randint(1, 3),
            fails=random.choice((0, 1)),
        ),
    ):
        if random.random() < 0.15:
            plan.insert(random.randrange(len(plan)), step)
    if not wanted.retried and random.random() < (0.6 if any(step.kind == "again" for step in plan) else 0.05):
        number = random.randint(1, 4)
        plan.insert(random.randint(0, len(plan)), Step(key + 6, "parcel", n=number))
        wanted.messages += [(random.random() * 2, "parcel", LATE + n) for n in range(number)]
    elif not wanted.retried and not any(step.kind == "signals" for step in plan) and random.random() < 0.2:
        wanted.messages.append((random.random() * random.choice((0.1, 3.0)), "cancel", 0))
    if random.random() < 0.1:
        wanted.messages.append((random.random() * 3, "reset", random.choice((2, 3, 4, 5))))


def _near_and_far(random: Random, wanted: Wanted) -> None:
    """Local activities, and attempts that somebody else ends."""
    plan, key = wanted.plan, wanted.plan[0].key - wanted.plan[0].key % 100 + 80
    near = Step(key, "near", random.choice((0, 1, 300, 3_000)), random.choice((1, 2, 4)), random.choice((0, 0, 1, 3)))
    later = Step(key + 2, "later", 5, random.randrange(3), random.choice((0, 0, 1, 2)), random.choice((0, 0, 0, 1)))
    for step in (near, later):
        if random.random() < 0.2:
            plan.insert(random.randint(0, len(plan)), step)


def _pet(random: Random) -> Wanted:
    """An entity that is told much in a short time."""
    notes = [*range(random.randint(5, 30)), *(LATE + n for n in range(random.randint(0, 10)))]
    messages = [(random.random() * random.choice((0.1, 3.0)), "note", n) for n in notes]
    messages += [(random.random() * 3, "add", 90_000 + n) for n in range(random.randint(0, 5))]
    messages += [(random.random() * 3, random.choice(("describe", "query")), 0) for _ in range(3)]
    if random.random() < 0.1:
        messages.append((random.random() * 3, "reset", random.choice((0, 2, 3))))
    return Wanted("e0", [], messages, entity=True)


class Clients:
    """They go on where they were, in another process if need be, and send again what was never answered."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client, self._ledger = client, ledger

    async def drive(self, wanted: Wanted) -> None:
        """All clients of one workflow, until it has ended and each has its answer."""
        ledger, wid = self._ledger, wanted.workflow_id
        asked = ledger.asked.setdefault(wid, Asked(retried=wanted.retried))
        early = None
        if not asked.started:
            early = asyncio.ensure_future(self._early(wid))
            await asyncio.gather(*(self._start(wanted, rival) for rival in range(wanted.rivals + 1)))
        handle: WorkflowHandle[Report] = self._client.get(wid, Script)  # type: ignore[assignment]
        operator = asyncio.ensure_future(self._operate(handle))
        reporter = asyncio.ensure_future(ledger.elsewhere.report(self._client, wid))
        async with asyncio.TaskGroup() as clients:
            messages = [clients.create_task(self._message(handle, asked, *message)) for message in wanted.messages]
            if wanted.entity:
                clients.create_task(self._end(wid, messages))
            clients.create_task(self._result(handle, asked))
            if early is not None:
                await early
        if wanted.resets:  # perhaps after it had ended; then it has ended again
            async with asyncio.TaskGroup() as clients:
                clients.create_task(self._result(handle, asked))
        await self._children(wid)
        operator.cancel()
        reporter.cancel()

    async def _start(self, wanted: Wanted, rival: int) -> None:
        wid, payload = wanted.workflow_id, (encode(wanted.plan, "plan"),)
        policy: IdReusePolicy = "reject_duplicate" if wanted.rivals or wanted.joined else "allow_duplicate"
        name = f"start-{wid}" if not rival else f"rival-{rival}-{wid}"
        start = StartWorkflow(
            "default", wid, "simulated-pet" if wanted.entity else "simulated-script", "default", payload, name,
            id_reuse_policy=policy,
            id_conflict_policy="use_existing" if wanted.joined else "fail",
            start_delay=int(wanted.delay * SECOND),
            retry_policy=RetryPolicy() if wanted.retried else None,
            message=StartSignal("note", (encode(1_000 + rival, "n"),)) if wanted.joined else None,
        )  # fmt: skip
        asked = self._ledger.asked[wid]
        if wanted.joined:
            asked.sends(1_000 + rival)
        try:
            await self._insist(start)
        except WorkflowAlreadyStarted:
            self._ledger.say(f"{wid} was started by another than {rival}")
            if wanted.joined:
                asked.notes[1_000 + rival] = "refused"
        else:
            if wanted.joined:
                asked.course.append(("answered", 1_000 + rival))
            self._ledger.say(f"{wid} started")

    async def _early(self, wid: str) -> None:
        """A client who asks for the end before the start is through."""
        pause = 0.0
        while True:
            try:
                await self._client.service.call(GetResult("default", wid, ""))
            except (NotFound, Unavailable):
                await asyncio.sleep(pause)
                pause = pause * 2 + 0.0001
            else:
                return

    async def _result(self, handle: WorkflowHandle[Report], asked: Asked) -> None:
        asked.result = await handle.result()
        asked.done = True
        self._ledger.say(f"{handle.id} gave {asked.result}")

    async def _message(self, handle: WorkflowHandle[Report], asked: Asked, pause: float, kind: str, n: int) -> None:
        await asyncio.sleep(pause)
        wid = handle.id
        if kind == "describe":
            await handle.describe()
        elif kind == "query":
            await self._query(handle)
        elif kind == "pause":
            await self._pause(handle, asked, n)
        elif kind == "reset":
            await self._reset(handle, asked, n)
        elif kind == "cancel":
            await self._cancel(handle, asked)
        elif kind in ("note", "parcel"):
            if asked.notes.get(n, "asked") == "asked":
                asked.sends(n)
                asked.notes[n] = "asked"
                await self._note(wid, asked, n, kind)
                await self._query(handle)  # whoever sent it wants to see it there
        elif asked.updates.get(n, "asked") == "asked":
            asked.sends(n)
            asked.updates[n] = "asked"
            await self._update(wid, asked, n)

    async def _pause(self, handle: WorkflowHandle[Report], asked: Asked, ms: int) -> None:
        """A person stops the workflow for a while. Whatever comes between, somebody lets it go on."""
        asked.paused = True
        try:
            await handle.pause("simulated")
            self._ledger.say(f"{handle.id} paused")
            await asyncio.sleep(ms / 1000)
            await handle.resume()
            self._ledger.say(f"{handle.id} resumed")
        except NotFound as error:
            self._ledger.say(f"{handle.id} not paused: {error}")

    async def _cancel(self, handle: WorkflowHandle[Report], asked: Asked) -> None:
        """A person asks it to stop."""
        asked.cancelled = True
        try:
            await handle.cancel("simulated")
            self._ledger.say(f"{handle.id} cancelled")
        except NotFound as error:
            self._ledger.say(f"{handle.id} not cancelled: {error}")

    async def _end(self, wid: str, messages: list[asyncio.Task[None]]) -> None:
        """An entity is told to go when all else was said."""
        await asyncio.wait(messages)
        try:
            await self._insist(SignalWorkflow("default", wid, "", "end", (), f"end-{wid}"))
        except NotFound:
            self._ledger.say(f"{wid} had ended before")

    async def _children(self, wid: str) -> None:
        """Wait until all that it has begun has ended, too."""
        begun, pause = False, 0.5
        while not begun:  # nobody tells when
            await asyncio.sleep(pause)
            begun, pause = not self._ledger.sends(wid), pause * 2
        for id in self._ledger.clerks(wid):
            try:
                await self._client.get(id, clerk).result()
            except WorkflowFailed as error:
                self._ledger.say(f"{id}: {error}")

    async def _reset(self, handle: WorkflowHandle[Report], asked: Asked, n: int) -> None:
        """A person has a workflow task run again: the last one (n is less than 2), or one of those before it."""
        asked.reset = True
        again = handle.options(request_id=f"reset-{handle.id}-{n}")
        try:
            tasks = [event.id async for event in handle.history() if isinstance(event, WorkflowTaskCompleted)]
            if n < 2 or not tasks:
                again = await again.reset(to="last", reason="simulated")
            else:
                again = await again.reset(event_id=tasks[-n] if n < len(tasks) else tasks[0], reason="simulated")
        except (NotFound, InvalidRequest) as error:
            self._ledger.say(f"{handle.id} not reset: {error}")
        else:
            self._ledger.say(f"{handle.id} reset: goes on as {again.run_id}")

    async def _note(self, wid: str, asked: Asked, n: int, name: str) -> None:
        try:
            await self._insist(SignalWorkflow("default", wid, "", name, (encode(n, "n"),), f"note-{wid}-{n}"))
        except NotFound:
            self._ledger.say(f"{wid} refused signal {n}")
            asked.notes[n] = "refused"
        else:
            asked.course.append(("answered", n))
            self._ledger.say(f"{wid} took signal {n}")

    async def _query(self, handle: WorkflowHandle[Report]) -> None:
        while True:
            try:
                await handle.query(Script.progress)
            except (NotFound, QueryFailed) as error:  # nobody is there to answer, or the code has not begun
                self._ledger.say(f"{handle.id} not queried: {error}")
                await asyncio.sleep(0.3)
            else:
                return

    async def _update(self, wid: str, asked: Asked, n: int) -> None:
        try:
            outcome = await self._insist(UpdateWorkflow("default", wid, "", f"update-{n}", "add", (encode(n, "n"),)))
        except NotFound:
            asked.updates[n] = "refused"
            return
        asked.course.append(("answered", n))
        self._ledger.say(f"{wid} update {n}: {outcome}")
        if outcome.result is None:
            asked.updates[n] = "refused"

    async def _operate(self, handle: WorkflowHandle[Report]) -> None:
        """A person who looks now and then, and releases what is held."""
        while True:
            await asyncio.sleep(5)
            try:
                description = await handle.describe()
                if any(each.status == "held" for each in description.activities):
                    await handle.release(note="simulated")
                    self._ledger.say(f"{handle.id} released")
            except PerdureError as error:
                self._ledger.say(f"{handle.id} not released: {error}")

    async def _insist(self, request: Request[Reply]) -> Reply:
        """Send a request until it is answered, as a client does."""
        while True:
            try:
                return await self._client.service.call(request)
            except Unavailable:
                await asyncio.sleep(0.05)
