"""The world outside of the engine, as activities and clients know it. All of it is in the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from perdure import Hold, activity
from perdure.clock import SECOND
from tests.crash.ledger import AnyLine, Asked, Began, End, Ended, Ledger, Told, What, now
from tests.crash.workload import Flaky, Step

ActivityKey = tuple[str, str, str]
"""(workflow id, run id, activity id)"""


class Outside:
    """What is known outside, folded from the ledger's lines; and, for activities, the world that they act on.

    Activities in threads use it too: what they change is a key that nobody else changes at the time.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.process = ledger.process
        self.told: set[tuple[What, str, str]] = set()
        self.holds: dict[ActivityKey, int] = {}  # that nobody has released yet → the attempt
        self.on_hold: Callable[[ActivityKey], None] = lambda _: None
        self._ends: Counter[tuple[int, End]] = Counter()
        for line in ledger.lines:
            self._learn(line)

    def _say(self, line: AnyLine) -> None:
        self._ledger.write(line)
        self._learn(line)

    def _learn(self, line: AnyLine) -> None:
        match line:
            case Told():
                self.told.add((line.what, line.workflow, line.about))
            case Began():
                self.holds.pop((line.workflow, line.run, line.activity), None)
            case Ended():
                self._ends[line.step, line.how] += 1
                if line.how == "held":
                    self.holds[line.workflow, line.run, line.activity] = line.attempt
            case _:
                pass

    # --- Clients ----------------------------------------------------------------------------------------
    def ask(self, what: What, workflow: str, about: str = "") -> bool:
        """Somebody is about to ask for something. False if the answer is known already."""
        if (what, workflow, about) in self.told:
            return False
        self._say(Asked(process=self.process, at=now(), what=what, workflow=workflow, about=about))
        return True

    def tell(self, what: What, workflow: str, about: str = "", value: object = None) -> None:
        """Somebody was given an answer."""
        self._say(Told(process=self.process, at=now(), what=what, workflow=workflow, about=about, value=value))

    # --- Activities -------------------------------------------------------------------------------------
    def begin(self, step: Step) -> bool:
        """The running attempt begins. True if it is to hang."""
        self._say(began(self.process, step))
        if self._ends[step.key, "hung"] >= step.hangs:
            return False
        self._end(step, "hung")
        return True

    def end(self, step: Step) -> int:
        """The running attempt has its effect: it returns, or raises Flaky or Hold."""
        info = activity.info()
        if self._ends[step.key, "held"] < step.holds:
            self._end(step, "held")
            self.on_hold((info.workflow_id, info.run_id, info.activity_id))
            raise Hold(f"attempt {info.attempt} wants somebody to look")
        if self._ends[step.key, "raised"] < step.fails:
            activity.heartbeat(info.attempt)
            self._end(step, "raised")
            raise Flaky(f"attempt {info.attempt} failed")
        self._end(step, "returned")
        return step.key

    def cancelled(self, step: Step) -> None:
        """The running attempt was told to stop."""
        self._end(step, "cancelled")

    def _end(self, step: Step, how: End) -> None:
        self._say(ended(self.process, step, how))


def began(process: int, step: Step) -> Began:
    """That the running attempt of an activity begins."""
    info = activity.info()
    return Began(
        process=process,
        at=now(),
        workflow=info.workflow_id,
        run=info.run_id,
        activity=info.activity_id,
        step=step.key,
        attempt=info.attempt,
        started=int(info.started_time.timestamp() * SECOND),
        failure=info.last_failure or "",
        beat=activity.heartbeat_details(int) or 0,
    )


def ended(process: int, step: Step, how: End) -> Ended:
    """That it ends."""
    info = activity.info()
    return Ended(
        process=process,
        at=now(),
        workflow=info.workflow_id,
        run=info.run_id,
        activity=info.activity_id,
        step=step.key,
        attempt=info.attempt,
        how=how,
    )
