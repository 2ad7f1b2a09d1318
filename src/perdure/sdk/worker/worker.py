"""The worker: attaches to a Service, and hands the node's messages to what answers them.

The same in every size. In embedded mode the node calls `receive` in its own turn, and a workflow task is answered
before `receive` returns: nothing here waits for the loop, except activities.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from perdure.ids import IdSource, RandomIds
from perdure.limits import (
    DEFAULT_CACHED_WORKFLOWS,
    DEFAULT_CONCURRENT_ACTIVITIES,
    MAX_ACTIVITY_PROCESSES,
    MAX_CACHED_WORKFLOWS,
    MAX_CONCURRENT_ACTIVITIES,
)
from perdure.model.requests import Service, WorkerLink
from perdure.model.tasks import (
    ActivityTask,
    CancelActivity,
    EvictWorkflow,
    FromWorker,
    InputStored,
    QueryTask,
    ToWorker,
    WorkerHello,
    WorkerLeaving,
    WorkerServes,
    WorkflowTask,
    WorkflowTaskAcknowledged,
)
from perdure.sdk.activity.api import definition_of as activity_definition
from perdure.sdk.activity.executor import ActivityExecutor
from perdure.sdk.activity.spawned import refuse_while_importing
from perdure.sdk.client.client import Client
from perdure.sdk.identity import identity
from perdure.sdk.interceptors import Interceptor, chain, checked, workflow_chains, workflow_hooks
from perdure.sdk.options import name, several, whole_number
from perdure.sdk.registry import REGISTRY, Registry
from perdure.sdk.worker.local import LocalActivities
from perdure.sdk.worker.workflows import WorkflowTasks
from perdure.sdk.workflow import determinism, scanning, stuck
from perdure.sdk.workflow.calls import definition_of as workflow_definition
from perdure.sdk.workflow.runtime import WorkflowRun

_log: Final = logging.getLogger(__name__)


class Worker:
    """Serves workflows and activities of one task queue, from `start` to `stop`, or in an `async with`. ::

        async with embedded("work.db") as client, Worker(client, task_queue="cpu", activities=[render]):
            ...

    Args:
        client: whose Service and namespace it serves; or a Service.
        task_queue: the queue that it takes its work from.
        max_concurrent_activities: how many activities run at once at most; of plain functions, 1,000.
        max_activity_processes: how many of them in processes (`@activity(executor="process")`) at most; by default as
            many as there are processors. They are started when they are needed, and end with the worker.
        max_cached_workflows: how many suspended workflows it keeps in memory; by default
            `limits.DEFAULT_CACHED_WORKFLOWS`. Any other is replayed when it goes on.
        workflows: functions and classes decorated with `@workflow`; by default all that have been imported, also
            later ones.
        activities: functions decorated with `@activity`; by default all, in the same way.
        build_id: names the version of the code.
        namespace: whose workflows it serves, where `client` is a Service.
        ids: where its own name comes from.
        interceptors: what is called around its activities and workflows; by default those of the client.

    Raises:
        TypeError: something in the lists is not decorated.
        TypeError, ValueError: an option is not what it should be.
    """

    def __init__(
        self,
        client: Client | Service,
        *,
        task_queue: str = "default",
        max_concurrent_activities: int = DEFAULT_CONCURRENT_ACTIVITIES,
        max_activity_processes: int | None = None,
        max_cached_workflows: int | None = None,
        workflows: Iterable[object] | None = None,
        activities: Iterable[object] | None = None,
        build_id: str = "",
        namespace: str = "default",
        ids: IdSource | None = None,
        interceptors: Sequence[Interceptor] | None = None,
    ) -> None:
        slots = whole_number(max_concurrent_activities, "max_concurrent_activities", 1, MAX_CONCURRENT_ACTIVITIES)
        if interceptors is None and isinstance(client, Client):
            interceptors = client.interceptors
        self._interceptors = checked(interceptors)
        self._processes = max_activity_processes
        if max_activity_processes is not None:
            whole_number(max_activity_processes, "max_activity_processes", 1, MAX_ACTIVITY_PROCESSES)
        self._cached = DEFAULT_CACHED_WORKFLOWS
        if max_cached_workflows is not None:
            self._cached = whole_number(max_cached_workflows, "max_cached_workflows", 1, MAX_CACHED_WORKFLOWS)
        if isinstance(client, Client):
            self._service, self._namespace = client.service, client.namespace
        else:
            self._service, self._namespace = client, namespace
        self._task_queue = name(task_queue, "task_queue")
        self._slots = slots
        self._build_id = "" if build_id == "" else name(build_id, "build_id")
        self._registry = _registry(workflows, activities)
        who = client.identity if isinstance(client, Client) else identity()
        self.instance: Final = f"{who}/{(ids or RandomIds()).new_id()[:12]}"
        """Names this worker in histories and descriptions: "pid@host/…"."""
        self._link: WorkerLink | None = None
        self._early: list[FromWorker] = []
        self._executor: ActivityExecutor | None = None
        self._tasks: WorkflowTasks | None = None
        self._stopping = False
        self._handlers: dict[type[ToWorker], Callable[[Any], None]] = {}
        self._loop: asyncio.AbstractEventLoop
        self._grows = workflows is None or activities is None  # it serves what is imported later, too

    async def start(self) -> None:
        """Attach to the Service. From now on work comes in.

        Raises GuardError where a workflow's code, or an interceptor's for workflows, has what can't be repeated in a
        replay; it names the line.
        """
        if self._executor is not None:
            raise RuntimeError("this worker was started already; make another one")
        refuse_while_importing("start a worker")
        determinism.install()
        stuck.let_signals_wake()
        for definition in self._registry.workflows.values():
            scanning.check(definition)
        for cls in map(type, self._interceptors):
            scanning.check_interceptor(cls, workflow_hooks(cls))
        around = chain(self._interceptors, "execute_activity")
        activities, slots, processes = self._registry.activities, self._slots, self._processes
        self._executor = executor = ActivityExecutor(
            activities, self._send, slots=slots, processes=processes, around=around
        )
        self._tasks = tasks = WorkflowTasks(
            self._registry.workflows,
            self._send,
            cached=self._cached,
            chains=workflow_chains(self._interceptors),
            locals=partial(LocalActivities, activities, slots=slots, processes=processes, around=around),
        )
        self._handlers = {
            WorkflowTask: tasks.activate,
            QueryTask: tasks.query,
            ActivityTask: executor.start,
            CancelActivity: executor.cancel,
            EvictWorkflow: tasks.evict,
            WorkflowTaskAcknowledged: tasks.acknowledged,
            InputStored: tasks.stored,
        }
        hello = WorkerHello(
            self._namespace,
            self.instance,
            (self._task_queue,),
            self._slots,
            self._build_id,
            tuple(self._registry.workflows),
            tuple(self._registry.activities),
        )
        try:
            self._link = await self._service.attach(hello, self.receive)
        except BaseException:
            self._executor = None
            self._handlers.clear()
            raise
        early, self._early = self._early, []
        for message in early:
            self._link.send(message)
        if self._grows:
            self._loop = asyncio.get_running_loop()
            REGISTRY.watchers.append(self._registry_grew)

    async def stop(self) -> None:
        """Cancel the activities that run, take no more work, and detach. What had no outcome runs again."""
        link, executor, tasks = self._link, self._executor, self._tasks
        if link is None or executor is None or tasks is None or self._stopping:
            return
        self._stopping = True
        if self._grows:
            REGISTRY.watchers.remove(self._registry_grew)
        link.send(WorkerLeaving())
        try:
            await executor.stop()
            await tasks.stop_locals()
        finally:
            self._handlers = {ActivityTask: executor.start}  # who refuses what is still on its way
            tasks.stop()
            await link.detach()

    def live_runs(self) -> list[WorkflowRun]:
        """The workflows that it holds in memory."""
        return [] if self._tasks is None else self._tasks.live_runs()

    def receive(self, message: ToWorker) -> None:
        """Take a message of the node. Called by it, in order; answers may be sent before this returns."""
        handler = self._handlers.get(type(message))
        if handler is None:  # on its way when the worker stopped
            return
        try:
            handler(message)
        except Exception:
            _log.exception("the worker could not take a %s", type(message).__name__)

    def _registry_grew(self) -> None:
        """Something was decorated, in whatever thread; what this worker serves may be what there is."""
        with suppress(RuntimeError):  # the loop was closed without a stop
            self._loop.call_soon_threadsafe(self._tell_types)

    def _tell_types(self) -> None:
        if not self._stopping:
            self._send(WorkerServes(tuple(self._registry.workflows), tuple(self._registry.activities)))

    def _send(self, message: FromWorker) -> None:
        if self._link is None:  # the node sends work before `attach` has returned
            self._early.append(message)
        else:
            self._link.send(message)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def _registry(workflows: Iterable[object] | None, activities: Iterable[object] | None) -> Registry:
    """What a worker serves. The process-wide tables themselves where no list is given: they may grow."""
    registry = Registry()
    registry.workflows, registry.activities = REGISTRY.workflows, REGISTRY.activities
    if workflows is not None:
        registry.workflows = {each.name: each for each in map(workflow_definition, several(workflows, "workflows"))}
    if activities is not None:
        registry.activities = {each.name: each for each in map(activity_definition, several(activities, "activities"))}
    return registry
