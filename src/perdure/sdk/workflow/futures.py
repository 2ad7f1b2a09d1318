"""The live sides of what a run asks others for: futures that end when the history says so.

Cancelling one is asking for the end of what it stands for. Its cancellation type says who hears of what:

::

    try      the other side is asked; whoever waits sees CancelledError at once
    wait     the other side is asked; whoever waits goes on waiting, for how it really ends
    abandon  nobody is asked; whoever waits sees CancelledError at once
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from perdure.model.commands import Command, RequestCancelActivity, RequestCancelExternalWorkflow
from perdure.model.payloads import Payload
from perdure.sdk.activity.definition import CancellationType
from perdure.sdk.workflow.context import thread
from perdure.sdk.workflow.loop import LoopFuture
from perdure.sdk.workflow.plain import block

if TYPE_CHECKING:
    from perdure.sdk.workflow.ledger import Ledger

R = TypeVar("R")


class Cancellable(LoopFuture[object]):
    """What says, when it is cancelled, whether its own end is waited for."""

    __slots__ = ("cancellation",)

    cancellation: CancellationType

    def insist(self) -> None:
        """Who cancels it is to wait for its end, unless it is to be left alone."""
        if self.cancellation == "try":
            self.cancellation = "wait"


class Outcome(Cancellable):
    """The outcome of an activity or a child workflow.

    event_id: the event that records its beginning; 0 until there is one. name: its id in the history. dropped: it was
    cancelled before anybody heard of it. asked: its end was asked for, and is waited for.
    """

    __slots__ = ("_ledger", "_said", "asked", "decode", "dropped", "event_id", "name")

    def __init__(
        self, ledger: Ledger, name: str, decode: Callable[[Payload], object], cancellation: CancellationType
    ) -> None:
        super().__init__(ledger.loop)
        self._ledger = ledger
        self._said: object = None
        self.name = name
        self.decode = decode
        self.cancellation = cancellation
        self.event_id = 0
        self.dropped = False
        self.asked = False

    def cancel(self, msg: object = None) -> bool:
        if self.done():
            return False
        if self.asked:
            return True
        if self._ledger.cancel(self, self._request(), self.cancellation):
            return super().cancel(msg)
        self.asked, self._said = True, msg
        return True

    def stopped(self) -> None:
        """It has ended because its end was asked for here."""
        super().cancel(self._said)

    @abstractmethod
    def _request(self) -> Command:
        """The command that asks for its end."""


class ActivityFuture(Outcome):
    """The outcome of an activity."""

    __slots__ = ()

    def _request(self) -> Command:
        return RequestCancelActivity(self.name)


class ChildHandle(LoopFuture[R]):
    """A child workflow: await it for the result, cancel it to ask for its end."""

    __slots__ = ()

    @property
    @abstractmethod
    def id(self) -> str:
        """The child's workflow id, also where it was made up: for `workflow.external(handle.id)`."""


class ChildFuture(Outcome, ChildHandle[object]):
    """The outcome of a child workflow."""

    __slots__ = ("run_id",)

    def __init__(
        self, ledger: Ledger, name: str, decode: Callable[[Payload], object], cancellation: CancellationType
    ) -> None:
        super().__init__(ledger, name, decode, cancellation)
        self.run_id = ""

    @property
    def id(self) -> str:
        """The child's workflow id."""
        return self.name

    def _request(self) -> Command:
        return RequestCancelExternalWorkflow(self.name, self.run_id, self.event_id)


class PlainFuture(LoopFuture[object]):
    """What a plain workflow waits for by `result`."""

    __slots__ = ()

    def result(self) -> object:
        try:
            return block(self) if thread.plain and not self.done() else super().result()
        finally:
            del self  # whose error leads to this frame


class PlainActivityFuture(PlainFuture, ActivityFuture):
    """The same in a plain workflow."""

    __slots__ = ()


class PlainChildFuture(PlainFuture, ChildFuture):
    """The same in a plain workflow."""

    __slots__ = ()


class AnswerFuture(LoopFuture[None]):
    """Whether what was sent to another workflow has arrived. Whoever is cancelled doesn't wait for that."""

    __slots__ = ("_ledger", "dropped", "event_id", "name")

    def __init__(self, ledger: Ledger, name: str) -> None:
        super().__init__(ledger.loop)
        self._ledger = ledger
        self.name = name
        self.event_id = 0
        self.dropped = False

    def cancel(self, msg: object = None) -> bool:
        if self.done():
            return False
        self._ledger.forget(self)
        return super().cancel(msg)
