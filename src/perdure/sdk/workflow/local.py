"""Local activities of one run: what its code has asked for, and what has come of it.

The worker runs them between two steps of the same workflow task. Each outcome is a marker, recorded with the task's
completion; a replay takes the outcomes from there, in their order, each followed by a run of the loop until it is idle:
as it was when they happened.

::

    start() → pending → taken by the worker → resolve(marker) → the future is done
                 ▲                               └─ a long backoff: a timer of the workflow ─┐
                 └───────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Hashable
from typing import Final

from msgspec import DecodeError, Struct, json
from msgspec.structs import replace

from perdure.clock import SECOND
from perdure.errors import NondeterminismError
from perdure.model.commands import RecordMarker
from perdure.model.failures import Failure
from perdure.model.payloads import NULL, Payload, Payloads
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.converter import stored_json, unordered
from perdure.sdk.failures import ExceptionResolver, exception_of
from perdure.sdk.workflow.displaced import WAY_OUT, Change
from perdure.sdk.workflow.futures import Cancellable, PlainFuture
from perdure.sdk.workflow.ledger import EVICTED, Header, Ledger
from perdure.sdk.workflow.matching import input_text
from perdure.sdk.workflow.source import user_line

LOCAL: Final = "core_local_activity"
"""The name of a local activity's marker, as Temporal's SDKs have it."""

_DATA, _RESULT, _FAILURE = "data", "result", "failure"


class LocalCall(Struct, frozen=True):
    """A local activity that is to be begun, or begun again after so many attempts. seq: which one it is, in this
    run. cancelled: its end was asked for before the worker has begun it; it is to end at once, as cancelled."""

    seq: int
    activity_type: str
    input: Payloads
    options: ActivityOptions
    header: Header
    attempt: int = 1
    last_failure: Failure | None = None
    cancelled: bool = False


class LocalOutcome(Struct, frozen=True):
    """What has become of one. At most one of result and failure is set; neither: it was cancelled. backoff:
    microseconds after which it is to be tried again, after `attempt`."""

    result: Payload | None = None
    failure: Failure | None = None
    attempt: int = 1
    backoff: int = 0


class _Data(Struct, frozen=True):
    """The part of a marker that says what it is of. time: the workflow's time when it happened."""

    seq: int
    activity_type: str
    digest: int
    attempt: int
    time: int
    backoff: int = 0
    cancelled: bool = False


class LocalFuture(PlainFuture, Cancellable):
    """The outcome of a local activity. step: of the code, that asked for it, or for its next attempt."""

    __slots__ = ("_locals", "asked", "call", "decode", "digest", "line", "step", "timer")

    def __init__(self, locals: Locals, call: LocalCall, decode: Callable[[Payload], object], line: str) -> None:
        super().__init__(locals.ledger.loop)
        self._locals = locals
        self.call = call
        self.decode = decode
        self.digest = _digest(call.input)
        self.line = line
        self.cancellation = call.options.cancellation_type
        self.asked = False
        self.step = locals.ledger.step
        self.timer: asyncio.TimerHandle | None = None

    @property
    def identity(self) -> Hashable:
        """What it is known by in a replay: its type and its input."""
        return LOCAL, self.call.activity_type, self.digest

    @property
    def shown(self) -> str:
        """Its input and its line, for people."""
        return input_text(self.call.input) + (f" at {self.line}" if self.line else "")

    def cancel(self, msg: object = None) -> bool:
        if self.done():
            return False
        if self.asked:
            return True
        if self._locals.cancel(self):
            return super().cancel(msg)
        self.asked = True
        return True

    def stopped(self) -> None:
        """It has ended because its end was asked for."""
        super().cancel()


class Locals:
    """The local activities of one run. pending: those that have no outcome and don't wait for a timer. waiting: those
    of them that the worker has not begun.

    Args:
        move_time: sets the workflow's time to that of an outcome, before anybody hears of it: timers count from there.
    """

    __slots__ = ("_count", "_move_time", "ledger", "pending", "unwanted", "waiting")

    def __init__(self, ledger: Ledger, move_time: Callable[[int], None]) -> None:
        self.ledger = ledger
        self._move_time = move_time
        self.pending: dict[int, LocalFuture] = {}
        self.waiting: dict[int, LocalFuture] = {}
        self.unwanted: list[int] = []  # those that the worker is to tell to stop
        self._count = 0

    def start(
        self, definition: ActivityDefinition, options: ActivityOptions, payloads: Payloads, header: Header = None
    ) -> LocalFuture:
        """Ask for one."""
        policy = options.retry_policy
        if policy.hold_on or policy.on_exhausted == "hold":
            raise ValueError(
                f"activity {definition.name}: its retry policy holds, and a local activity can't wait for a person: "
                f"give it another one, .options(retry_policy=…).local(…), or call it as an activity"
            )
        self._count += 1
        call = LocalCall(self._count, definition.name, payloads, options, header)
        future = LocalFuture(self, call, definition.signature.decode_result, user_line())
        self.pending[call.seq] = self.waiting[call.seq] = future
        return future

    def cancel(self, future: LocalFuture) -> bool:
        """One is not wanted any more. Whether that is its end here; False where its own end is waited for."""
        refusal = self.ledger.refusal
        if refusal:
            if refusal != EVICTED:
                self.ledger.check("nothing can be cancelled")
            return True
        if future.timer is not None:
            future.timer.cancel()
            return True
        how, seq = future.cancellation, future.call.seq
        if how != "abandon" and seq not in self.waiting:
            self.unwanted.append(seq)
        # Whether the worker has begun it, no history tells: in which step it was asked for, each replay finds again.
        if how == "wait" and future.step < self.ledger.step:
            return False
        self._forget(seq)
        return True

    # --- The worker -------------------------------------------------------------------------------------
    def take(self) -> list[LocalCall]:
        """Those that are to be begun."""
        taken, self.waiting = self.waiting.values(), {}
        return [replace(future.call, cancelled=True) if future.asked else future.call for future in taken]

    def give_up(self) -> None:
        """The run ends: nobody waits for them any more."""
        self.unwanted += self.pending
        self._clear()

    def release(self) -> None:
        """Let go of what leads back to the run, which is out of memory."""
        self._clear()
        self._move_time = _too_late

    def _forget(self, seq: int) -> None:
        del self.pending[seq]
        self.waiting.pop(seq, None)

    def _clear(self) -> None:
        self.pending.clear()
        self.waiting.clear()

    # --- Outcomes ---------------------------------------------------------------------------------------
    def happened(self, seq: int, outcome: LocalOutcome, time: int, resolver: ExceptionResolver) -> bool:
        """One has an outcome; whether anybody waits for that."""
        future = self.pending.get(seq)
        if future is None:
            return False
        cancelled = outcome.result is None and outcome.failure is None
        data = _Data(seq, future.call.activity_type, future.digest, outcome.attempt, time, outcome.backoff, cancelled)
        details = {_DATA: Payload(json.encode(data))}
        if outcome.result is not None:
            details[_RESULT] = outcome.result
        if outcome.failure is not None:
            details[_FAILURE] = Payload(json.encode(outcome.failure))
        self._resolve(future, data, details, resolver)
        return True

    def replay(self, details: dict[str, Payload], resolver: ExceptionResolver) -> None:
        """The history records an outcome.

        Raises NondeterminismError where the code has asked for no such local activity, CodecError without the codecs.
        """
        try:
            data = json.decode(stored_json(details[_DATA], "the marker of a local activity"), type=_Data)
        except (KeyError, DecodeError) as error:
            text = f"the history has the marker of a local activity that can't be read: {error}"
            raise NondeterminismError(text) from None
        self._resolve(self._recorded(data), data, details, resolver)

    def _recorded(self, data: _Data) -> LocalFuture:
        """The one whose outcome is recorded: that of its number; where the code has changed, another one of the same
        type and input; or, its input has changed, too, the only one of its type."""
        numbered = self.pending.get(data.seq)
        if numbered is not None and numbered.identity == (LOCAL, data.activity_type, data.digest):
            return numbered
        alike = [future for future in self.pending.values() if future.call.activity_type == data.activity_type]
        same = [future for future in alike if future.digest == data.digest]
        if same:
            return same[0]
        if len(alike) == 1:
            self._changed(data, alike[0])
            return alike[0]
        asked = [*self.asked(), *self.ledger.asked()] or ["nothing"]
        raise NondeterminismError(
            f"the workflow's code does something else than its history says\n"
            f"recorded, but the code doesn't ask for it:\n"
            f"  the outcome of local activity {data.activity_type} (number {data.seq})\n"
            f"asked for by the code, and without an outcome at this point:\n"
            + "".join(f"  {each}\n" for each in asked)
            + WAY_OUT,
            next((future.line for future in self.pending.values()), ""),
        )

    def asked(self) -> list[str]:
        """Those that have no outcome, for people."""
        return [f"local activity {x.call.activity_type}{x.shown}" for x in self.pending.values()]

    def _changed(self, data: _Data, future: LocalFuture) -> None:
        """The input of one is another than the recorded one, of which nothing but a checksum is recorded."""
        told = f"local activity {data.activity_type} (number {data.seq}) has another input now, {future.shown}"
        recorded = (LOCAL, data.activity_type, data.digest)
        self.ledger.displaced.take(Change(recorded, future.identity, told, future.line))

    def check_order(self) -> None:
        """Raises NondeterminismError where one has no outcome whose recorded place another call has taken."""
        for future in self.pending.values():
            self.ledger.displaced.check(future.identity)

    def _resolve(
        self, future: LocalFuture, data: _Data, details: dict[str, Payload], resolver: ExceptionResolver
    ) -> None:
        self.ledger.step += 1
        self._move_time(data.time)
        self.ledger.issue(RecordMarker(LOCAL, details))
        self._count = max(self._count, data.seq)
        self._forget(future.call.seq)
        encoded = details.get(_FAILURE)
        failure = None if encoded is None else json.decode(encoded.data, type=Failure)
        if data.backoff and not future.asked:
            self._try_later(future, data, failure)
        elif data.cancelled:
            future.stopped()
        elif failure is not None:
            future.set_exception(exception_of(failure, resolver, of="activity"))
        else:
            try:
                value = future.decode(details.get(_RESULT, NULL))
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(value)

    def _try_later(self, future: LocalFuture, data: _Data, failure: Failure | None) -> None:
        def again() -> None:
            future.timer, future.step = None, self.ledger.step
            self.pending[future.call.seq] = self.waiting[future.call.seq] = future

        call = future.call
        future.call = LocalCall(
            call.seq, call.activity_type, call.input, call.options, call.header, data.attempt + 1, failure
        )
        future.timer = self.ledger.loop.call_later(data.backoff / SECOND, again)


def _digest(payloads: Payloads) -> int:
    digest = 0
    for payload in payloads:
        digest = zlib.crc32(unordered(payload), digest)
    return digest


def _too_late(_: int) -> None:
    """The workflow's time does not move any more."""
