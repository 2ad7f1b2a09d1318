"""`workflow.patched`: which branch a run takes where its code has changed while it runs.

A run that comes to a patch for the first time takes the new branch, and records a marker; a replay takes it where the
history has the marker, and else the old one, which is what was done then.

::

    patched("id")          live: True, and the marker · replay: whether the history has the marker
    deprecate_patch("id")  live: the marker, deprecated · replay: nothing, whatever the history has
    (no call)              fits a history with a deprecated marker, not one with a plain marker
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

from perdure.errors import NondeterminismError
from perdure.model import events as e
from perdure.model.commands import Command, RecordMarker
from perdure.model.payloads import Payload
from perdure.sdk.converter import encode, stored_json
from perdure.sdk.options import name
from perdure.sdk.workflow.source import user_line

PATCH: Final = "core_patch"
_DATA: Final = "patch-data"
"""The marker's name and the key of its details: those of Temporal's SDKs."""

_Use = Literal["patched", "deprecate_patch"]


class Patch(msgspec.Struct, frozen=True):
    """What a patch's marker says."""

    id: str
    deprecated: bool = False


_decode: Final = msgspec.json.Decoder(Patch).decode


class Issuer(Protocol):
    """What patches need of the run's ledger."""

    def check(self, what: str) -> None:
        """Raises where `what` may not be done now."""
        ...

    def issue(self, command: Command) -> None:
        """Ask for something."""
        ...


class Patches:
    """The patches of one run.

    Args:
        ledger: takes the markers.
    """

    __slots__ = ("_ledger", "_marked", "_uses", "decided")

    def __init__(self, ledger: Issuer) -> None:
        self._ledger = ledger
        self._marked: frozenset[str] = frozenset()  # which the history has, as far as it was seen
        self._uses: dict[str, tuple[_Use, str]] = {}  # how the code first used each, and at which line
        self.decided: dict[str, bool] = {}
        """Which branch was taken, by patch; for the whole run, whatever comes later in its history."""

    def recorded(self, asked: Iterable[e.HistoryEvent]) -> None:
        """A workflow task that recorded these events is about to be replayed."""
        for event in asked:
            if type(event) is e.MarkerRecorded and event.marker_name == PATCH:
                self._marked |= {patch_of(event).id}

    def patched(self, id: str, *, replaying: bool) -> bool:
        """Whether the new branch is to be taken."""
        taken = self.decided.get(id)
        if taken is None or self._uses.get(id, ("",))[0] != "patched":
            self._use(id, "patched")
            if taken is None:
                self._ledger.check("workflow.patched() can't be used")
                taken = self.decided[id] = not replaying or id in self._marked
                if taken:
                    self._ledger.issue(_marker(id, deprecated=False))
        return taken

    def deprecate(self, id: str, *, replaying: bool) -> None:
        """The new branch is the only one left."""
        if id not in self.decided or self._uses.get(id, ("",))[0] != "deprecate_patch":
            self._use(id, "deprecate_patch")
            if id not in self.decided:
                self._ledger.check("workflow.deprecate_patch() can't be used")
                self.decided[id] = True
                if not replaying or id in self._marked:
                    self._ledger.issue(_marker(id, deprecated=True))

    def _use(self, id: str, use: _Use) -> None:
        """Raises TypeError or ValueError for what is no id, or where the same id is used in two ways."""
        name(id, "a patch's id")
        known, line = self._uses.setdefault(id, (use, user_line()))
        if known != use:
            raise ValueError(
                f"patch {id!r} is used in two ways: workflow.{known}() at {line}, and workflow.{use}() at "
                f"{user_line()}. Ask for it with patched() as long as there are two branches; when the old one is "
                f"gone, replace all its patched() by deprecate_patch(). A later change needs an id of its own"
            )


def patch_of(marker: RecordMarker | e.MarkerRecorded) -> Patch:
    """What a patch's marker says. Raises NondeterminismError where it says nothing, CodecError without its codecs."""
    try:
        return _decode(stored_json(marker.details[_DATA], "a patch's marker"))
    except (KeyError, msgspec.MsgspecError) as error:
        raise NondeterminismError(f"the history has a marker {PATCH!r} that names no patch: {error!r}") from None


def is_optional(event: e.MarkerRecorded, issued: Iterable[Command]) -> bool:
    """Whether a replay that doesn't ask for a marker is right all the same: that of a deprecated patch."""
    if event.marker_name != PATCH or not (patch := patch_of(event)).deprecated:
        return False
    return not any(
        isinstance(command, RecordMarker) and command.marker_name == PATCH and patch_of(command).id == patch.id
        for command in issued
    )


def _marker(id: str, *, deprecated: bool) -> RecordMarker:
    details: dict[str, Payload] = {_DATA: encode(Patch(id, deprecated), "a patch's marker")}
    return RecordMarker(PATCH, details)
