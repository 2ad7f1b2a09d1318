"""Attempts that are completed from elsewhere: somebody outside has their token, and reports how they end, or never.

An attempt that its worker has let go of goes on whoever dies; what was acknowledged of it is on disk; and a token is
good for its own attempt alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from perdure.errors import InvalidRequest, NotFound, PerdureError
from perdure.sdk.client.client import Client
from perdure.testing.simulation.attempts import Attempt, Flaky, Key, Step

if TYPE_CHECKING:
    from perdure.model.state import PendingActivity
    from perdure.testing.simulation.ledger import Ledger

TIMEOUT = 20
"""Seconds after which an attempt that nobody reports is given up."""

OFTEN, SELDOM = 0.2, 3.0
"""Seconds between two looks for what is to be reported: while there is something, and while there is nothing."""


@dataclass
class Told:
    """An attempt whose token somebody has. kept: it was on disk that its worker has let go of it. over: it was
    acknowledged how it has ended, or it is known to be over."""

    key: Key
    token: str
    step: Step
    attempt: Attempt
    plan: Literal["complete", "fail", "nothing"]
    kept: bool = False
    over: bool = False
    acknowledged: bool = False


@dataclass
class Elsewhere:
    """All of them, by activity."""

    ledger: Ledger
    _of: dict[Key, list[Told]] = field(default_factory=dict[Key, list[Told]])
    _plans: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])

    def told(self, key: Key, token: str, step: Step, attempt: Attempt) -> None:
        """A worker hands out the token of an attempt, and lets go."""
        budget = key[0], step.key
        number = self._plans[budget] = self._plans.get(budget, 0) + 1
        plan = "nothing" if number <= step.hangs else "fail" if number <= step.hangs + step.fails else "complete"
        self._of.setdefault(key, []).append(Told(key, token, step, attempt, plan))

    def note_what_is_kept(self) -> None:
        """Something is about to be lost: what was let go of before goes on."""
        for told in self._open():
            pending = self._pending(told)
            told.kept = told.kept or (pending is not None and pending.detached)

    def may_be_over(self, key: Key, earlier: Attempt) -> bool:
        """Whether another attempt may begin after one that was let go of."""
        told = next((told for told in self._of.get(key, ()) if told.attempt is earlier), None)
        if told is None or (told.plan == "fail" and told.attempt.end != "detached"):
            return True
        if told.acknowledged and told.plan == "complete":
            return False
        timed_out = self.ledger.time() - earlier.begun > TIMEOUT - 5  # clocks may be set otherwise
        return timed_out or not told.kept

    def _open(self, workflow_id: str = "") -> list[Told]:
        return [
            told
            for key, attempts in self._of.items()
            for told in attempts
            if not told.over and (not workflow_id or key[0] == workflow_id)
        ]

    def _pending(self, told: Told) -> PendingActivity | None:
        """What is on disk of an attempt that is started there."""
        wid, run_id, activity_id = told.key
        state = self.ledger.run_on_disk(wid, run_id)
        if state is None or state.status != "Running" or activity_id not in state.activity_ids:
            return None
        pending = state.activities[state.activity_ids[activity_id]]
        return pending if pending.status == "started" and pending.attempt == told.attempt.number else None

    # --- Whoever reports --------------------------------------------------------------------------------
    async def report(self, client: Client, workflow_id: str) -> None:
        """Report what becomes of those of a workflow, as soon as they are known. Runs until it is cancelled."""
        while True:
            waiting = [told for told in self._open(workflow_id) if told.plan != "nothing"]
            for told in waiting:
                await self._report(client, told)
            await asyncio.sleep(OFTEN if waiting else SELDOM)

    async def _report(self, client: Client, told: Told) -> None:
        ledger, (wid, run_id, activity_id) = self.ledger, told.key
        by_id = told.step.n == 1 and self._pending(told) is not None
        handle = client.get(wid, run_id=run_id).activity(activity_id) if by_id else client.activity(told.token)
        before = self._pending(told)
        for earlier in self._of[told.key]:
            if earlier.acknowledged:
                await self._once_more(client, earlier)
        try:
            if told.step.n == 2:
                asked = await handle.heartbeat(told.step.key)
                if asked.cancel_requested:
                    await handle.cancelled()
                    told.over = True
                    return
            if told.plan == "fail":
                self._ends(told)
                await handle.fail(Flaky("elsewhere"))
            else:
                self._ends(told)
                await handle.complete(told.step.key)
        except InvalidRequest as error:
            ledger.say(f"{told.key} was not reported: {error}")
        except NotFound as error:
            ledger.say(f"{told.key} attempt {told.attempt.number} is over: {error}")
            told.over = True
            after = self._pending(told)
            if before is not None and after is not None and after.detached:
                ledger.fail(f"attempt {told.attempt.number} of {told.key} was said not to run ({error}), but it does")
        else:
            told.over = told.acknowledged = True
            # An id means whichever attempt runs by then; a token, its own.
            told.attempt.end = "raised" if told.plan == "fail" and not by_id else "reported"
            ledger.say(f"{told.key} attempt {told.attempt.number} reported: {told.plan}")
            await self._once_more(client, told)

    def _ends(self, told: Told) -> None:
        """A report is sent, and is perhaps taken, whatever is heard of it."""
        if told.attempt.end == "detached":  # else one was sent before
            told.attempt.end, told.attempt.ended = "reported", (self.ledger.time(), self.ledger.clock())

    async def _once_more(self, client: Client, told: Told) -> None:
        """The same token again: it must not be taken, whatever has become of the activity."""
        try:
            await client.activity(told.token).complete(told.step.key)
        except PerdureError as error:
            self.ledger.say(f"{told.key} is not completed once more: {error}")
        else:
            self.ledger.fail(f"attempt {told.attempt.number} of {told.key} was ended twice")

    def check_end(self) -> None:
        """Nothing was completed twice."""
        for key, attempts in self._of.items():
            if sum(told.acknowledged and told.plan == "complete" for told in attempts) > 1:
                self.ledger.fail(f"{key} was completed more than once: {attempts}")
