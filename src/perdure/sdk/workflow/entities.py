"""Entities: workflows that live as long as what they mirror.

Their history doesn't grow without end: in a quiet moment the run goes on as a new one, and nobody notices. The engine
sees a continue-as-new with the same input, whose header holds what survives.

::

    run → handlers, alarms … → idle(), quiet, and continue-as-new is suggested → roll_over
     ▲                                                                              │ attributes, alarms, random
     └───────────────────────── restored without __init__ ◀─────────────────────────┘ state, patches
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from perdure.clock import SECOND
from perdure.durations import microseconds
from perdure.model.commands import ContinueAsNew
from perdure.model.payloads import Payload
from perdure.sdk.converter import codec
from perdure.sdk.workflow.attributes import Attributes
from perdure.sdk.workflow.conditions import Conditions
from perdure.sdk.workflow.futures import ChildFuture
from perdure.sdk.workflow.ledger import Ledger
from perdure.sdk.workflow.loop import LoopTimer

_STATE: Final = "perdure.entity"
_ATTRIBUTE: Final = "perdure.entity."
"""Keys of the header: all but the attributes, and each of these, with its name behind it."""


class Memory(msgspec.Struct):
    """What survives a roll-over beside the attributes.

    alarms: when each rings, in microseconds since the epoch. random: of the run's generator, if it was used.
    """

    alarms: dict[str, int] = {}
    random: tuple[int, tuple[int, ...], float | None] | None = None
    patches: dict[str, bool] = {}


_memory: Final = codec(Memory)


class Host(Protocol):
    """What an entity needs of its run."""

    @property
    def main(self) -> asyncio.Future[object] | None:
        """The task that executes `run`."""
        ...

    @property
    def handled(self) -> int:
        """How many messages and alarms have been handled so far."""
        ...

    def microseconds(self) -> int:
        """The workflow's time."""
        ...

    def ring(self, name: str) -> None:
        """Have an alarm handled."""
        ...


class Entity:
    """The side of a run that makes it an entity.

    Args:
        attributes: of its class.
        alarm_names: the alarms that the class handles.
    """

    def __init__(
        self, attributes: Attributes, alarm_names: frozenset[str], host: Host, ledger: Ledger, conditions: Conditions
    ) -> None:
        self._attributes = attributes
        self._alarm_names = alarm_names
        self._host = host
        self._ledger = ledger
        self._conditions = conditions
        self._alarms: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._idle = False
        self._check_at = 0

    # --- What user code may ask for ---------------------------------------------------------------------
    async def idle(self, predicate: Callable[[], bool] | None) -> None:
        """Wait until the predicate holds; without one, until a message or an alarm was handled."""
        self._ledger.check("workflow.idle() can't be used")
        if asyncio.current_task() is not self._host.main:
            raise RuntimeError("workflow.idle() is for the entity's `run` itself, not for handlers and other tasks")
        before = self._host.handled
        self._idle = True
        try:
            await self._conditions.wait(predicate or (lambda: self._host.handled != before), None)
        finally:
            self._idle = False

    def set_alarm(self, name: str, due: int) -> None:
        """Have a method called at a time, in microseconds since the epoch."""
        self._ledger.check("an alarm can't be set")
        if name not in self._alarm_names:
            known = ", ".join(sorted(self._alarm_names)) or "none"
            raise ValueError(f"there is no alarm {name!r}: decorate a method with @workflow.on_alarm; known: {known}")
        delay = max(due - self._host.microseconds(), 0) / SECOND
        microseconds(delay, f"the time until alarm {name!r}")
        self.cancel_alarm(name)
        self._alarms[name] = due, self._ledger.loop.call_later(delay, self._ring, name)

    def after(self, duration: int) -> int:
        """The time that comes so many microseconds from now."""
        return self._host.microseconds() + duration

    def cancel_alarm(self, name: str) -> bool:
        """Take an alarm back; whether it was set."""
        self._ledger.check("an alarm can't be cancelled")
        _, timer = self._alarms.pop(name, (0, None))
        if timer is not None:
            timer.cancel()
        return timer is not None

    def alarms(self) -> dict[str, int]:
        """When each alarm rings that is set, in microseconds since the epoch."""
        return {name: due for name, (due, _) in self._alarms.items()}

    def _ring(self, name: str) -> None:
        del self._alarms[name]
        self._host.ring(name)

    # --- Rolling over -----------------------------------------------------------------------------------
    @property
    def quiet(self) -> bool:
        """Whether nothing would be lost now: `run` idles, and nothing else runs or is to come, but alarms and children,
        which survive."""
        if not self._idle or self._ledger.loop.live_tasks() != [self._host.main]:
            return False
        alarms = {timer for _, timer in self._alarms.values()}
        return all(
            # A child that has not begun may not be ours at all: its id may be taken.
            (isinstance(subject, ChildFuture) and subject.run_id)
            or (isinstance(subject, LoopTimer) and subject in alarms)
            for subject in self._ledger.pending()
        )

    def check(self, target: object, length: int) -> None:
        """Raises EncodeError, PayloadTooLarge or TypeError where an attribute would not survive. All are looked at
        whenever the history has grown to twice its length, so a bug shows soon, and the cost is shared by many tasks;
        else only whether there are others, which costs little.

        length: events of the history.
        """
        if length < self._check_at:
            self._attributes.check_names(target)
        else:
            self._attributes.check(target)
            self._check_at = 2 * length

    def roll_over(self, target: object, memory: Memory, command: ContinueAsNew) -> ContinueAsNew:
        """The command to go on as a new run, with what survives."""
        self._attributes.check_names(target)
        header = dict(command.header or {})
        header |= {_ATTRIBUTE + name: payload for name, payload in self._attributes.encode(target).items()}
        memory.alarms = self.alarms()
        header[_STATE] = _memory.encode(memory, "what an entity remembers")
        return msgspec.structs.replace(command, header=header, keep_children=True)

    def restore(self, header: Mapping[str, Payload]) -> tuple[object, Memory]:
        """The object that the last run left, and what else there was. The alarms are set again."""
        payloads = {key[len(_ATTRIBUTE) :]: value for key, value in header.items() if key.startswith(_ATTRIBUTE)}
        target = self._attributes.restore(payloads)
        memory = _memory.decode(header[_STATE], "what an entity remembers")
        assert isinstance(memory, Memory)
        for name, due in memory.alarms.items():
            self.set_alarm(name, due)
        return target, memory


def is_continued(header: Mapping[str, Payload]) -> bool:
    """Whether a run goes on with what an entity's last run left."""
    return _STATE in header
