"""Children that are left behind or called back, sagas, and activities that no queue's worker ends: steps whose outcome
stands outside of the workflow.

A child's id says how it was begun, so that what must have become of it can be told at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perdure.errors import ApplicationError
from perdure.model.events import ParentClosePolicy
from perdure.model.requests import Status
from perdure.sdk.activity.api import activity
from perdure.sdk.activity.definition import CancellationType
from perdure.sdk.retry import RetryPolicy
from perdure.sdk.workflow.api import workflow
from perdure.testing.simulation import ledger as outside
from perdure.testing.simulation.attempts import BACKOFF, Flaky, Step
from perdure.testing.simulation.far import TIMEOUT
from perdure.testing.simulation.near import Near

LEFT, RECALLED, UNDONE, KEPT = 19, 23, 29, 31
POLICIES: Final[tuple[ParentClosePolicy, ...]] = ("terminate", "request_cancel", "abandon")
CANCELLATIONS: Final[tuple[CancellationType, ...]] = ("wait", "try", "abandon")

BECOMES: Final[dict[str, frozenset[Status]]] = {
    "leave-terminate": frozenset({"Terminated"}),
    "leave-request_cancel": frozenset({"Canceled"}),
    "leave-abandon": frozenset({"Completed"}),
    "recall-wait": frozenset({"Canceled"}),
    "recall-try": frozenset({"Canceled", "Terminated"}),  # the parent may end first
    "recall-abandon": frozenset({"Terminated"}),  # by the parent's end
}
"""How children end, by how they were begun."""


@dataclass
class Deed:
    """Something that a saga does or undoes."""

    saga: str
    number: int
    key: int
    fails: int = 0


@dataclass
class Claim:
    """What a workflow says that has happened: that a child has ended, or that a saga has undone so much, or nothing."""

    subject: str
    key: int
    dos: int = 0
    undone: bool = False


QUICK: Final = RetryPolicy(initial_interval=BACKOFF, maximum_interval=4.0)


@activity(name="simulated-do", retry_policy=QUICK)
async def do(deed: Deed) -> Deed:
    """Do something that is to be undone."""
    await outside.current().attempts.perform(Step(deed.key, "act", 20, fails=deed.fails))
    outside.current().deeds.did(deed.saga, activity.info().run_id, "do", deed.number)
    return deed


@activity(name="simulated-undo", retry_policy=QUICK)
async def undo(deed: Deed) -> None:
    """Undo it."""
    await outside.current().attempts.perform(Step(deed.key + 5, "act", 20, fails=deed.fails))
    outside.current().deeds.did(deed.saga, activity.info().run_id, "undo", deed.number)


@activity(name="simulated-claim", retry_policy=QUICK)
async def claim(what: Claim) -> None:
    """Have it compared with what is known outside."""
    info = activity.info()
    await outside.current().attempts.perform(Step(what.key, "act"))
    if what.dos:
        outside.current().deeds.check(info.workflow_id, info.run_id, what.subject, what.dos, undone=what.undone)
    else:
        child = outside.current().on_disk(what.subject, "a child has ended")
        if child.status == "Running":
            outside.current().fail(f"{what.subject} runs on disk, but its parent goes on as if it had ended")


@activity(name="simulated-tidy", retry_policy=QUICK)
async def tidy(key: int) -> int:
    """What a child does when it is asked to stop."""
    return await outside.current().attempts.perform(Step(key, "act", 20))


@workflow(name="simulated-clerk")
async def clerk(step: Step) -> int:
    """Waits: for some time, or (ms 0) for ever. Asked to stop, it tidies up first."""
    try:
        if step.ms:
            await asyncio.sleep(step.ms / 1000)
        else:
            await workflow.receive("never", int)
    except asyncio.CancelledError:
        await workflow.shielded(tidy(step.key))
        raise
    return step.key


def child_id(how: str) -> str:
    """An id for a child of the workflow that runs."""
    return f"{workflow.info().workflow_id}/{how}/{workflow.uuid4()}"


def look_at(child: asyncio.Future[int]) -> None:
    """However a child ends that nobody awaits, somebody has seen it: it may have ended with a run that was reset."""
    if not child.cancelled():
        child.exception()


async def leave(step: Step) -> int:
    """Begin a child, and don't wait for it."""
    policy = POLICIES[step.n]
    inner = Step(step.key, "clerk", ms=2_000 if policy == "abandon" else 0)
    child = clerk.options(id=child_id(f"leave-{policy}"), parent_close_policy=policy).start(inner)
    child.add_done_callback(look_at)
    return LEFT


async def recall(step: Step) -> int:
    """Begin a child, and call it back."""
    kind = CANCELLATIONS[step.n]
    id = child_id(f"recall-{kind}")
    handle = clerk.options(id=id, cancellation_type=kind).start(Step(step.key, "clerk"))
    await asyncio.sleep(0.05)
    handle.cancel()
    handle.add_done_callback(look_at)
    await asyncio.wait([handle])
    if kind == "wait":
        await claim(Claim(id, step.key + 1))
    return RECALLED


async def saga(step: Step) -> int:
    """So many steps that are undone: by a failure (ms 0), or in the midst of one that never ends; or (ms 1) are not."""
    name, dos = str(workflow.uuid4()), 0
    undone = True
    try:
        async with asyncio.timeout(None if step.ms < 2 else step.ms / 1000):
            async with workflow.saga() as steps:
                for number in range(step.n):
                    deed = Deed(name, number, step.key * 1_000 + 10 * number, step.fails if number == 0 else 0)
                    await steps.do(do(deed), undo=undo)
                    dos += 1
                if step.ms > 1:
                    await steps.do(tidy_never(step.key * 1_000 + 999), undo=lambda _: tidy(0))
                elif not step.ms:
                    raise ApplicationError("as it should")
                undone = False
    except (ApplicationError, TimeoutError, Flaky):  # the last: a step that was cancelled, and failed
        pass
    finally:
        if dos:
            await workflow.shielded(claim(Claim(name, step.key + 1, dos, undone)))
    return UNDONE if undone else KEPT


@activity(name="simulated-endless", retry_policy=QUICK)
async def tidy_never(key: int) -> int:
    """Does not end by itself."""
    return await outside.current().attempts.perform(Step(key, "act", 3_600_000))


# --- Not in the hands of a queue's worker -------------------------------------------------------------------
@activity(name="simulated-near", retry_policy=RetryPolicy(initial_interval=BACKOFF, maximum_interval=6.0))
async def near(part: Near) -> int:
    """Take a while, fail as often as told; return the key."""
    return await outside.current().nears.perform(part)


async def nearby(step: Step, noted: Sequence[int]) -> int:
    """One local activity, and others that follow at once."""

    def part(number: int) -> Near:
        return Near(step.key * 1_000 + number, step.ms, step.fails if number == 0 else 0, [*noted])

    first = await near.local(part(0))
    return first + sum(await asyncio.gather(*(near.local(part(number)) for number in range(1, step.n))))


@activity(
    name="simulated-later",
    start_to_close_timeout=TIMEOUT,
    retry_policy=RetryPolicy(initial_interval=BACKOFF, maximum_interval=4.0),
)
async def later(step: Step) -> int:
    """Has somebody else end it, by failures, results or silence, as the step says."""
    return await outside.current().attempts.perform(step)
