"""`workflow.external`: another workflow, as seen from inside a workflow."""

from __future__ import annotations

from typing import Final, overload

from typing_extensions import ParamSpec

from perdure.model.commands import RequestCancelExternalWorkflow, SignalExternalWorkflow
from perdure.sdk.options import name as checked_name
from perdure.sdk.options import optional_text
from perdure.sdk.workflow.context import require
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.handlers import Signal
from perdure.sdk.workflow.sending import message_of

P = ParamSpec("P")


class ExternalHandle:
    """Another workflow, to be signalled or cancelled from a workflow. Made by `workflow.external`.

    Both are durable: what was sent arrives, once, whatever happens meanwhile. Both raise `NotFound` where there is no
    such workflow, and `NotRunning` where it is closed.
    """

    def __init__(self, id: str, run_id: str | None, definition: WorkflowDefinition | None) -> None:
        self.id: Final = checked_name(id, "id")
        self.run_id: Final = optional_text(run_id, "run_id") or None
        """The one run that is meant; None: the latest."""
        self._definition = definition

    @overload
    async def signal(self, signal: Signal[P], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    async def signal(self, signal: str, /, *args: object) -> None: ...
    async def signal(self, signal: object, /, *args: object, **kwargs: object) -> None:
        """Send a signal. When this returns, the other workflow has it.

        Args:
            signal: the handler, such as `Onboarding.approve`; or the signal's name.

        Raises:
            NotFound: there is no such workflow; `NotRunning` where it is closed.
            TypeError: the handler is not of this workflow, or doesn't take these arguments.
            EncodeError, PayloadTooLarge: an argument can't be stored.
        """
        context = require("signal() of workflow.external()")
        name, input, _ = message_of("signal", signal, args, kwargs, self._definition)
        await context.send(SignalExternalWorkflow(self.id, self.run_id or "", checked_name(name, "signal"), input))

    async def cancel(self) -> None:
        """Ask the workflow to stop. When this returns, it was asked; it may clean up for long.

        Raises:
            NotFound: there is no such workflow; `NotRunning` where it is closed.
        """
        await require("cancel() of workflow.external()").send(RequestCancelExternalWorkflow(self.id, self.run_id or ""))

    def __repr__(self) -> str:
        return f"<ExternalHandle {self.id!r}>"
