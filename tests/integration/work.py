"""Activities that the tests share."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from perdure import activity


class Gate:
    """Where an activity waits for the test, and the test for the activity.

    reached: an attempt is there. cancelled: one was cancelled while it waited. passed: how many went through.
    """

    _all: ClassVar[dict[str, Gate]] = {}

    def __init__(self) -> None:
        self.reached, self.cancelled, self._open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.passed = self.arrived = 0

    @classmethod
    def named(cls, name: str) -> Gate:
        """A new, closed gate under a name that activities know."""
        gate = cls._all[name] = cls()
        return gate

    @classmethod
    def find(cls, name: str) -> Gate:
        """The gate of a name."""
        return cls._all[name]

    def open(self) -> None:
        """Let all through, now and later."""
        self._open.set()

    async def pass_through(self) -> None:
        """Wait until it is open."""
        self.arrived += 1
        self.reached.set()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.passed += 1


@activity(name="work.echo")
async def echo(text: str) -> str:
    return text


@activity(name="work.wait_at")
async def wait_at(gate: str) -> str:
    await Gate.find(gate).pass_through()
    return gate
