"""What a person does about a workflow or one of its activities, beside letting what is held go on."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final, cast

from perdure.durations import Duration, optional_microseconds
from perdure.model.requests import (
    PauseActivity,
    PauseWorkflow,
    Reply,
    Request,
    ResetActivity,
    ResumeWorkflow,
    UnpauseActivity,
    UpdateActivityOptions,
)
from perdure.sdk.options import optional_name, text
from perdure.sdk.retry import RetryPolicy, optional_policy

if TYPE_CHECKING:
    from perdure.sdk.client.client import Client


class Interventions:
    """Pauses, resets and other options: a part of `WorkflowHandle`.

    All of it stands in the journal with who, when and why; `WorkflowHandle.describe` shows it.
    """

    def __init__(self, client: Client, id: str, messages_to: str) -> None:
        self.id: Final = id
        self._client = client
        self._messages_to = messages_to

    @abstractmethod
    def _new_request_id(self) -> str: ...

    @abstractmethod
    async def _call(self, request: Request[Reply]) -> Reply: ...

    # --- The workflow -----------------------------------------------------------------------------------
    async def pause(self, reason: str = "") -> None:
        """Stop the workflow for a while: its code is given nothing, and no attempts of its activities are started.

        Messages are taken, attempts that run go on, and timers fire; the code hears of all that after `resume`.
        Timeouts count on, except for how long an activity may wait for a worker. Pausing again changes nothing.

        Args:
            reason: why; it stands in the journal, with who and when.
        """
        client = self._client
        why = text(reason, "the reason")
        await self._call(
            PauseWorkflow(client.namespace, self.id, self._messages_to, why, client.identity, self._new_request_id())
        )

    async def resume(self, note: str = "") -> None:
        """Let a paused workflow go on. One that isn't paused is left as it is.

        Args:
            note: what was done meanwhile; it stands in the journal, with who and when.
        """
        client = self._client
        note = text(note, "the note")
        await self._call(
            ResumeWorkflow(client.namespace, self.id, self._messages_to, note, client.identity, self._new_request_id())
        )

    # --- One activity -----------------------------------------------------------------------------------
    async def pause_activity(self, activity_id: str, reason: str = "") -> None:
        """Start no more attempts of an activity, until `unpause_activity`. One that runs goes on.

        Args:
            activity_id: which one; `describe` tells them.
            reason: why; it stands in the journal, with who and when.

        Raises:
            NotFound: there is no such pending activity; the message tells those there are.
        """
        client, why = self._client, text(reason, "the reason")
        await self._call(
            PauseActivity(
                client.namespace,
                self.id,
                self._messages_to,
                _id(activity_id),
                why,
                client.identity,
                self._new_request_id(),
            )
        )

    async def unpause_activity(self, activity_id: str, note: str = "") -> None:
        """Let a paused activity go on where it was: its backoff and its count of attempts are kept.

        Args:
            activity_id: which one.
            note: what was done about it; it stands in the journal, with who and when.

        Raises:
            NotFound: there is no such pending activity.
        """
        client, note = self._client, text(note, "the note")
        await self._call(
            UnpauseActivity(
                client.namespace,
                self.id,
                self._messages_to,
                _id(activity_id),
                note,
                client.identity,
                self._new_request_id(),
            )
        )

    async def reset_activity(self, activity_id: str, *, keep_heartbeat: bool = False, note: str = "") -> None:
        """Let an activity's retry policy count from 1 again. One that backs off or is held is tried at once.

        A running attempt goes on, and counts as the first. The attempts keep their numbers: they are told apart by
        them. A paused activity stays paused.

        Args:
            activity_id: which one.
            keep_heartbeat: whether the next attempt still sees the last one's heartbeat details.
            note: why; it stands in the journal, with who and when.

        Raises:
            NotFound: there is no such pending activity.
        """
        client, note = self._client, text(note, "the note")
        if not isinstance(cast(object, keep_heartbeat), bool):
            raise TypeError(f"keep_heartbeat must be True or False, not {type(keep_heartbeat).__name__}")
        await self._call(
            ResetActivity(
                client.namespace,
                self.id,
                self._messages_to,
                _id(activity_id),
                keep_heartbeat,
                note,
                client.identity,
                self._new_request_id(),
            )
        )

    async def update_activity_options(
        self,
        activity_id: str,
        *,
        task_queue: str | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: Duration | None = None,
        schedule_to_close_timeout: Duration | None = None,
        schedule_to_start_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        note: str = "",
    ) -> None:
        """Give an activity other options from now on, those that are named. A timeout of 0 means none.

        A running attempt is measured by the new timeouts, too; the worker that runs it keeps those it was given. Where
        the activity backs off, the time of its next attempt stays.

        Args:
            activity_id: which one.
            task_queue: whose workers take the next attempt.
            retry_policy: replaces the whole policy.
            note: why; it stands in the journal, with who and when.

        Raises:
            NotFound: there is no such pending activity.
            InvalidRequest: no option is named.
            TypeError, ValueError: an option is not what it should be; the message names it.
        """
        client = self._client
        await self._call(
            UpdateActivityOptions(
                client.namespace,
                self.id,
                self._messages_to,
                _id(activity_id),
                text(note, "the note"),
                client.identity,
                optional_name(task_queue, "task_queue"),
                optional_policy(retry_policy),
                optional_microseconds(start_to_close_timeout, "start_to_close_timeout"),
                optional_microseconds(schedule_to_close_timeout, "schedule_to_close_timeout"),
                optional_microseconds(schedule_to_start_timeout, "schedule_to_start_timeout"),
                optional_microseconds(heartbeat_timeout, "heartbeat_timeout"),
                self._new_request_id(),
            )
        )


def _id(activity_id: object) -> str:
    return text(activity_id, "activity_id")
