"""Local activities of a worker: attempts that no task queue knows of, with retries and timeouts of their own.

An attempt runs as any other does, on an executor of its own. Its outcome, or that it is to be tried again after a
longer time, is told to the workflow's code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from perdure.clock import SECOND
from perdure.limits import LOCAL_ACTIVITY_BACKOFF, LOCAL_ACTIVITY_TIMEOUT, MAX_DURATION
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy, backoff, matches
from perdure.model.tasks import (
    ActivityCompletion,
    ActivityDetached,
    ActivityFailure,
    ActivityHeartbeat,
    ActivityTask,
    ActivityToken,
    CancelActivity,
    FromWorker,
    RunRef,
)
from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.activity.executor import ActivityExecutor
from perdure.sdk.activity.outcomes import Outcome
from perdure.sdk.interceptors import Chain
from perdure.sdk.workflow.local import LocalCall, LocalOutcome

_log: Final = logging.getLogger(__name__)
TIMED_OUT: Final = ("perdure.errors.ActivityTimedOut", "perdure.errors.ActivityError", "builtins.TimeoutError")


@dataclass(slots=True)
class _Local:
    """One that runs, or waits for its next attempt."""

    ref: RunRef
    call: LocalCall
    workflow_type: str
    attempt: int
    began: float
    last_failure: Failure | None
    cancelled: bool = False
    timer: asyncio.TimerHandle | None = None
    token: ActivityToken | None = None  # of the attempt that runs


class LocalActivities:
    """Runs them. Used on one loop.

    Args:
        activities: the definitions that the worker has.
        slots, processes, around: as of `ActivityExecutor`.
        ended: told the run's id, which one, and what has become of it.
    """

    def __init__(
        self,
        activities: Mapping[str, ActivityDefinition],
        ended: Callable[[str, int, LocalOutcome], None],
        *,
        slots: int,
        processes: int | None = None,
        around: Chain | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ActivityExecutor(activities, self._said, slots=slots, processes=processes, around=around)
        self._tell = ended
        self._locals: dict[tuple[str, int], _Local] = {}
        self._running: dict[ActivityToken, _Local] = {}
        self._number = 0  # of the last attempt: one that is begun again after an eviction is another

    def start(self, ref: RunRef, workflow_type: str, call: LocalCall) -> None:
        """Begin one."""
        local = _Local(ref, call, workflow_type, call.attempt, self._loop.time(), call.last_failure)
        self._locals[ref.run_id, call.seq] = local
        if call.cancelled:  # told soon, as any other outcome is: not while its run is being looked after
            local.timer = self._loop.call_later(0, self._end, local, LocalOutcome(attempt=local.attempt))
        else:
            self._begin(local)

    def cancel(self, run_id: str, seq: int) -> None:
        """One is not wanted any more."""
        local = self._locals.get((run_id, seq))
        if local is None:
            return
        local.cancelled = True
        if local.token is None:  # it waits for its next attempt
            self._end(local, LocalOutcome(attempt=local.attempt))
        else:
            self._executor.cancel(CancelActivity(local.token, "cancel_requested"))

    def drop(self, run_id: str) -> None:
        """Nobody is there who could hear of those of a run."""
        for key, local in [*self._locals.items()]:
            if key[0] == run_id:
                del self._locals[key]
                self._stop_timer(local)
                self._let_go(local, "closed")

    async def stop(self) -> None:
        """Let go of all."""
        for run_id, _ in [*self._locals]:
            self.drop(run_id)
        await self._executor.stop()

    # --- Attempts ---------------------------------------------------------------------------------------
    def _begin(self, local: _Local) -> None:
        call, options = local.call, local.call.options
        timeout = min(options.start_to_close_timeout or LOCAL_ACTIVITY_TIMEOUT, LOCAL_ACTIVITY_TIMEOUT)
        self._number += 1
        local.token = token = ActivityToken(local.ref, -self._number, local.attempt)
        self._running[token] = local
        local.timer = self._loop.call_later(timeout / SECOND, self._timed_out, local)
        self._executor.start(
            ActivityTask(
                token,
                f"local-{call.seq}",
                call.activity_type,
                local.workflow_type,
                "",
                call.input,
                0,
                0,
                timeout,
                last_failure=local.last_failure,
                header=call.header,
            )
        )

    def _said(self, message: FromWorker) -> None:
        if isinstance(message, ActivityHeartbeat) or not isinstance(message, Outcome):
            return
        local = self._running.pop(message.token, None)
        if local is None:
            return  # it timed out, or nobody waits for it
        local.token = None
        if isinstance(message, ActivityCompletion):
            self._end(local, LocalOutcome(message.result, None, local.attempt))
        elif isinstance(message, ActivityFailure):
            self._failed(local, message.failure)
        elif isinstance(message, ActivityDetached):
            name = local.call.activity_type
            text = f"what runs locally can't be completed later; call {name}(…), not {name}.local(…)"
            self._failed(local, Failure(text, ("CompleteLater",), non_retryable=True))
        elif local.cancelled:  # it has stopped since it was told to
            self._end(local, LocalOutcome(attempt=local.attempt))

    def _timed_out(self, local: _Local) -> None:
        what = f"local activity {local.call.activity_type}, attempt {local.attempt}"
        failure = Failure(
            f"{what}: start_to_close timeout", ("start_to_close", *TIMED_OUT), "timeout", cause=local.last_failure
        )
        self._let_go(local, "timed_out")
        self._failed(local, failure)

    def _let_go(self, local: _Local, reason: str) -> None:
        """Whatever comes of the attempt that runs, nobody will hear of it."""
        if local.token is not None:
            token, local.token = local.token, None
            del self._running[token]
            self._executor.cancel(CancelActivity(token, reason))

    def _failed(self, local: _Local, failure: Failure) -> None:
        """An attempt has failed: another one here, another one later, or the end."""
        self._stop_timer(local)
        delay = self._next_delay(local, failure)
        if delay < 0 or failure.is_news(local.last_failure, local.attempt):
            self._log(local, failure, delay)
        if delay < 0:
            self._end(local, LocalOutcome(None, failure, local.attempt))
        elif delay > LOCAL_ACTIVITY_BACKOFF:
            self._end(local, LocalOutcome(None, failure, local.attempt, delay))
        else:
            local.last_failure = failure
            local.attempt += 1
            local.timer = self._loop.call_later(delay / SECOND, self._begin, local)

    def _log(self, local: _Local, failure: Failure, delay: int) -> None:
        _log.warning(
            "workflow %r: attempt %d of local activity %s failed: %s; %s",
            local.ref.workflow_id, local.attempt, local.call.activity_type, failure.located,
            "not tried again" if delay < 0 else f"tried again in {delay / SECOND:.3g} s",
        )  # fmt: skip

    def _next_delay(self, local: _Local, failure: Failure) -> int:
        """Microseconds until the next attempt; -1: there is none."""
        policy: RetryPolicy = local.call.options.retry_policy
        if local.cancelled or failure.kind == "hold" or failure.non_retryable:
            return -1
        if matches(policy.non_retryable, failure):
            return -1
        if policy.maximum_attempts and local.attempt >= policy.maximum_attempts:
            return -1
        delay = (
            min(failure.next_retry_delay, MAX_DURATION)
            if failure.next_retry_delay >= 0
            else backoff(policy, local.attempt, f"{local.ref.run_id}/{local.call.seq}/{local.attempt}")
        )
        limit = local.call.options.schedule_to_close_timeout
        if limit and (self._loop.time() - local.began) * SECOND + delay >= limit:
            return -1
        return delay

    def _stop_timer(self, local: _Local) -> None:
        if local.timer is not None:
            local.timer.cancel()
            local.timer = None

    def _end(self, local: _Local, outcome: LocalOutcome) -> None:
        self._stop_timer(local)
        del self._locals[local.ref.run_id, local.call.seq]
        self._tell(local.ref.run_id, local.call.seq, outcome)
