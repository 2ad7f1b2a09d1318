"""What a run's code asks others for: a part of `runtime.WorkflowRun`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.sdk.activity.definition import ActivityDefinition, ActivityOptions
from perdure.sdk.interceptors import WorkflowChains
from perdure.sdk.workflow.children import ChildTerms
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.futures import ActivityFuture, AnswerFuture, ChildFuture
from perdure.sdk.workflow.interception import Outbound
from perdure.sdk.workflow.ledger import Ledger
from perdure.sdk.workflow.local import LocalFuture, Locals
from perdure.sdk.workflow.saga import for_activity, for_child, undoes


class Asking:
    """Activities, children and messages to other workflows, through interceptors where there are some."""

    __slots__ = ("_ledger", "_outbound", "locals")

    def __init__(self, ledger: Ledger, chains: WorkflowChains) -> None:
        self._ledger = ledger
        self.locals = Locals(ledger, self._move_time)
        self._outbound = None if chains.outbound is None else Outbound(chains.outbound, ledger)

    def check_order(self) -> None:
        """Raises NondeterminismError where something is asked for whose recorded place another call has taken."""
        self._ledger.check_order()
        self.locals.check_order()

    @abstractmethod
    def _move_time(self, time: int) -> None:
        """The workflow's time goes on within a task: a local activity took its time."""

    def start_activity(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> ActivityFuture:
        self._ledger.check("an activity can't be started")
        if self._outbound is not None:
            return self._outbound.activity(definition, for_activity(options), args, kwargs)
        return self._ledger.schedule(definition, for_activity(options), definition.signature.encode(args, kwargs))

    def start_local(
        self,
        definition: ActivityDefinition,
        options: ActivityOptions,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> LocalFuture | ActivityFuture:
        if undoes():
            return self.start_activity(definition, options, args, kwargs)
        self._ledger.check("a local activity can't be started")
        options = for_activity(options)
        if self._outbound is not None:
            return self._outbound.local(self.locals, definition, options, args, kwargs)
        return self.locals.start(definition, options, definition.signature.encode(args, kwargs))

    def start_child(
        self,
        definition: WorkflowDefinition,
        terms: ChildTerms,
        args: Sequence[object],
        kwargs: dict[str, object],
    ) -> ChildFuture:
        self._ledger.check("a child workflow can't be started")
        if self._outbound is not None:
            return self._outbound.child(definition, for_child(terms), args, kwargs)
        return self._ledger.start_child(definition, for_child(terms), definition.signature.encode(args, kwargs))

    def send(self, command: SignalExternalWorkflow | RequestCancelExternalWorkflow) -> AnswerFuture:
        self._ledger.check("nothing can be sent to other workflows")
        return self._ledger.send(command) if self._outbound is None else self._outbound.send(command)
