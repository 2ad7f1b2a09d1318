"""An executor by itself: functions become activities, and a node only listens."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TypeVar

import msgspec

from perdure.clock import SECOND
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.tasks import ActivityTask, ActivityToken, FromWorker, RunRef
from perdure.sdk.activity.context import ActivityContext, current
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.activity.executor import ActivityExecutor
from perdure.sdk.signatures import Signature

RUN = RunRef("default", "wf", "run-1")
M = TypeVar("M", bound=FromWorker)


class Node:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[FromWorker] = []
        self._arrived = asyncio.Event()

    def send(self, message: FromWorker) -> None:
        self.messages.append(message)
        self._arrived.set()

    async def message(self, type: type[M]) -> M:
        """The first message of a type; waits for it."""
        while True:
            for message in self.messages:
                if isinstance(message, type):
                    return message
            await self.count(len(self.messages) + 1)

    async def count(self, messages: int) -> None:
        """Wait for that many messages."""
        while len(self.messages) < messages:
            self._arrived.clear()
            await self._arrived.wait()


class Bench:
    """An executor, the node that it talks to, and functions to be run as activities."""

    def __init__(self, slots: int = 10) -> None:
        self.node = Node()
        self.definitions: dict[str, ActivityDefinition] = {}
        self.executor = ActivityExecutor(self.definitions, self.node.send, slots=slots)
        self._tasks = 0

    def task(
        self,
        function: Callable[..., object] | str,
        *args: object,
        heartbeat_timeout: int = 0,
        heartbeat_details: tuple[Payload, ...] = (),
        last_failure: Failure | None = None,
    ) -> ActivityTask:
        """A task for a function, which becomes an activity; or for an activity of that name."""
        if isinstance(function, str):
            name = function
        else:
            name = function.__name__
            is_async = inspect.iscoroutinefunction(function)
            signature = Signature(function, f"activity {name}")
            self.definitions[name] = ActivityDefinition(name, function, is_async, signature, ActivityOptions())
        self._tasks += 1
        return ActivityTask(
            ActivityToken(RUN, self._tasks, 1),
            f"a{self._tasks}",
            name,
            "flow",
            "default",
            tuple(Payload(msgspec.json.encode(each)) for each in args),
            1_700_000_000 * SECOND,
            1_700_000_001 * SECOND,
            30 * SECOND,
            heartbeat_timeout,
            heartbeat_details,
            last_failure,
        )

    def start(self, function: Callable[..., object] | str, *args: object) -> ActivityToken:
        task = self.task(function, *args)
        self.executor.start(task)
        return task.token


def context() -> ActivityContext:
    """The attempt that calls this."""
    found = current()
    assert found is not None
    return found
