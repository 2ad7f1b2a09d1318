"""The engine and the SDK, broken on purpose where no queue's worker ends an activity: local ones, and those completed
from elsewhere.

See `mutations.py`.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.engine.core import decide as decide_module
from perdure.engine.core import inputs as i
from perdure.engine.core.decisions import activities, elsewhere
from perdure.engine.core.transition import Transition
from perdure.errors import NotFound
from perdure.model.requests import HeartbeatAttempt, SettleAttempt
from perdure.model.state import PendingActivity
from perdure.model.tasks import WorkflowTask
from perdure.sdk.worker.workflows import WorkflowTasks
from perdure.sdk.workflow.local import LocalFuture, Locals
from perdure.sdk.workflow.runtime import WorkflowRun
from tests.simulation.mutations import Mutation, Patch


def begin_before_the_input_is_stored(patch: Patch) -> None:
    wait = WorkflowTasks._wait_for_locals

    def wait_for_nothing(self: WorkflowTasks, run: WorkflowRun, task: WorkflowTask) -> Any:
        answer = wait(self, run, task)
        waits = self._open.get(task.run.run_id)
        if answer is None and waits is not None:
            waits.stored = True
            self._begin_locals(waits)
        return answer

    patch.setattr(WorkflowTasks, "_wait_for_locals", wait_for_nothing)


def forget_local_attempts(patch: Patch) -> None:
    try_later = Locals._try_later

    def forgetful(self: Locals, future: LocalFuture, *rest: Any) -> None:
        try_later(self, future, *rest)
        future.call = replace(future.call, attempt=1)

    patch.setattr(Locals, "_try_later", forgetful)


def count_local_backoffs_from_the_task(patch: Patch) -> None:
    try_later = Locals._try_later

    def too_early(self: Locals, *rest: Any) -> None:
        elapsed, self.ledger.elapsed = self.ledger.elapsed, 0
        try_later(self, *rest)
        self.ledger.elapsed = elapsed

    patch.setattr(Locals, "_try_later", too_early)


def lose_what_goes_on_elsewhere(patch: Patch) -> None:
    def workers_lost(tx: Transition, lost: i.WorkersLost) -> None:
        for activity in list(tx.state.activities.values()):
            if activity.status == "started" and not lost.alive(activity.worker, activity.started_at):
                activities.lose(tx, activity, f"its worker {activity.worker} is gone")

    patch.setitem(decide_module.DECISIONS, i.WorkersLost, workers_lost)


def take_the_token_of_another_attempt(patch: Patch) -> None:
    def running(tx: Transition, request: SettleAttempt | HeartbeatAttempt) -> PendingActivity:
        for activity in tx.state.activities.values():
            names = request.activity_id, request.scheduled_event_id
            if activity.status == "started" and names in ((activity.event.activity_id, 0), ("", activity.event.id)):
                return activity
        raise NotFound("no attempt is running")

    patch.setattr(elsewhere, "_running", running)


WORKER_MUTATIONS = [
    Mutation(
        "begin local activities before their input is on disk",
        "1: what has an effect is on disk",
        begin_before_the_input_is_stored,
    ),
    Mutation("forget the attempts of local activities", "3: a retry count survives", forget_local_attempts),
    Mutation("count a local backoff from its task", "3: a backoff is kept", count_local_backoffs_from_the_task),
    Mutation("lose what goes on elsewhere with its worker", "2: an attempt runs once", lose_what_goes_on_elsewhere, 92),
    Mutation("take the token of another attempt", "2: an attempt ends once", take_the_token_of_another_attempt),
]
