"""The exception tree. Each class says whether trying again can help (`retryable`).

::

    PerdureError
    ├── InvalidRequest           the request can't be carried out as it is; it changed nothing
    │   ├── PayloadTooLarge      a payload is over its limit
    │   ├── EncodeError          a value can't be turned into a payload
    │   ├── DecodeError          a payload doesn't fit the hinted type
    │   └── LimitExceeded        a named bound was reached
    ├── CodecError               a codec, its key or its library is missing, or what it is given is damaged
    ├── NotFound                 there is no such execution, activity or update
    │   └── NotRunning           there is one, but it is closed
    ├── WorkflowAlreadyStarted   the workflow id is taken
    ├── ScheduleExists           the schedule's id is taken
    ├── ScheduleChanged          somebody else has changed the schedule meanwhile
    ├── Unavailable              not now; the same request may be sent again   (retryable)
    ├── EngineStopped            the engine in this process was stopped
    ├── StoreError               the file or database can't be used
    │   ├── StoreLocked  StoreLost  StoreCorrupt  StoreForeign  StoreTooNew  StoreReadOnly
    │   └── StoreFull            no space left                                  (retryable)
    ├── QueryFailed              a query's handler could not answer
    ├── WorkflowFailed           how a run ended, where its own exception can't be raised
    │   └── WorkflowCancelled  WorkflowTerminated  WorkflowTimedOut
    ├── ActivityError            how an activity ended other than by its own exception
    │   └── ActivityTimedOut (also a TimeoutError)  WorkerLost  ActivityCancelled
    ├── ApplicationError         a failure whose class isn't known here, or raised on purpose
    ├── Hold                     raised by an activity: wait for a person
    ├── GuardError               workflow code did what can't be repeated
    └── NondeterminismError      the code and the recorded history disagree
    Evicted (BaseException)      thrown into a workflow that is being taken out of memory
    CompleteLater (BaseException) raised by an activity that is completed from elsewhere
"""

from __future__ import annotations

from typing import ClassVar, cast

from perdure.durations import Duration, optional_microseconds


class PerdureError(Exception):
    """Base of all that Perdure raises."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, without anybody changing anything."""


class InvalidRequest(PerdureError):
    """The request can't be carried out as it is. It changed nothing."""


class PayloadTooLarge(InvalidRequest):
    """An encoded value is over `limits.MAX_PAYLOAD`, or a request over `limits.MAX_MESSAGE`."""


class EncodeError(InvalidRequest):
    """A value can't be turned into a payload; the message names the part that can't."""


class DecodeError(InvalidRequest):
    """A payload doesn't fit the hinted type; the message names the field."""


class CodecError(PerdureError):
    """A payload can't be encoded or decoded by its codecs: the message says what is missing or damaged."""


class LimitExceeded(InvalidRequest):
    """A bound of `perdure.limits` was reached; the message names it."""


class NotFound(PerdureError):
    """There is no such execution, activity or update."""


class NotRunning(NotFound):
    """The execution exists but is closed, so it takes no more messages."""


class NotTaken(NotRunning):
    """The workflow ended before it could take an update: nothing of that was done."""


class WorkflowAlreadyStarted(PerdureError):
    """The workflow id is taken. `run_id` is the run that has it."""

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class ScheduleExists(PerdureError):
    """There is a schedule with that id."""


class ScheduleChanged(PerdureError):
    """The schedule is not what the change was made for: somebody else was faster. Look at it, and change it again."""


class Unavailable(PerdureError):
    """The engine can't take the request now. The same request may be sent again."""

    retryable = True


class EngineStopped(PerdureError):
    """The engine in this process was stopped. What was asked is on disk, or is as if it hadn't been."""


class StoreError(PerdureError):
    """The file or database can't be used."""


class StoreLocked(StoreError):
    """Another process has the file open. `pid` is that process, or 0 where it can't be told."""

    def __init__(self, message: str, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class StoreLost(StoreError):
    """The file was removed or replaced while it was open. Nothing is acknowledged any more."""


class StoreCorrupt(StoreError):
    """The file is damaged."""


class StoreForeign(StoreError):
    """The file is not one of Perdure's."""


class StoreTooNew(StoreError):
    """The file was written by a later version of Perdure."""


class StoreReadOnly(StoreError):
    """The file or its folder can't be written."""


class StoreFull(StoreError):
    """The disk is full. What was acknowledged is safe, and work goes on when there is space; what was asked for now is
    as if it hadn't been."""

    retryable = True


class QueryFailed(PerdureError):
    """A query could not be answered."""


class WorkflowFailed(PerdureError):
    """How a run ended, where its own exception can't be raised here."""


class WorkflowCancelled(WorkflowFailed):
    """The run was cancelled."""


class WorkflowTerminated(WorkflowFailed):
    """A person ended the run, without its code having a say."""


class WorkflowTimedOut(WorkflowFailed, TimeoutError):
    """The run took longer than its timeout."""


class ActivityError(PerdureError):
    """How an activity ended other than by its own exception."""


class ActivityTimedOut(ActivityError, TimeoutError):
    """An activity took longer than one of its timeouts.

    `timeout` is "start_to_close", "schedule_to_start", "schedule_to_close" or "heartbeat".
    """

    def __init__(self, message: str, timeout: str = "") -> None:
        super().__init__(message)
        self.timeout = timeout


class WorkerLost(ActivityError):
    """The worker that ran the activity is gone, and no attempt is left."""


class ActivityCancelled(ActivityError):
    """The activity was cancelled from outside its workflow."""


class ProcessFailed(PerdureError):
    """A program that an activity has run did not end well.

    Args:
        message: what happened, with the end of its output.
        returncode: its exit code; negative: the signal that ended it.
        output: the end of what it wrote to stderr, or else to stdout.
    """

    def __init__(self, message: str, returncode: int = 0, output: str = "") -> None:
        super().__init__(message)
        self.returncode = returncode
        self.output = output


class ApplicationError(PerdureError):
    """A failure to be seen by others, raised on purpose or standing for a class that isn't known here.

    Args:
        message: what went wrong.
        details: values that go with it; they are encoded like arguments.
        type: the name that retry policies match; by default "ApplicationError".
        non_retryable: fails the activity at once, whatever its policy.
        next_retry_delay: duration until the next attempt, instead of the policy's backoff.

    Raises:
        TypeError, ValueError: an option is not what it should be.

    Raised in a workflow, it fails the workflow (any other exception is a bug, and is retried).
    """

    def __init__(
        self,
        message: str = "",
        *details: object,
        type: str = "ApplicationError",
        non_retryable: bool = False,
        next_retry_delay: Duration | None = None,
    ) -> None:
        if not isinstance(cast(object, type), str):
            raise TypeError(f"type must be text, not {type.__class__.__name__}")
        optional_microseconds(next_retry_delay, "next_retry_delay")
        super().__init__(message, *details)
        self.message = message
        self.details = details
        self.type = type
        self.non_retryable = non_retryable
        self.next_retry_delay = next_retry_delay

    def __str__(self) -> str:
        return self.message if self.type == "ApplicationError" else f"{self.type}: {self.message}"


class Hold(PerdureError):
    """Raised by an activity that can't go on without a person. It waits until it is released.

    Args:
        reason: what the person should know or do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CompleteLater(BaseException):
    """Raised by an activity whose attempt goes on elsewhere. Its outcome is reported by `Client.activity`.

    Not an `Exception`, so that an activity's own `except Exception` can't swallow it.
    """


class GuardError(PerdureError):
    """Workflow code did, or would do, what can't be repeated when it is replayed, such as opening a file. Or it
    computed or was blocked for too long.

    `line` is the line that does, as "file:line".
    """

    def __init__(self, message: str, line: str = "") -> None:
        super().__init__(message)
        self.line = line


class NondeterminismError(PerdureError):
    """The workflow's code does something else than its recorded history says.

    `line` is the line that does, as "file:line"; "" where no line does what the history says.
    """

    def __init__(self, message: str, line: str = "") -> None:
        super().__init__(message)
        self.line = line


class Evicted(BaseException):
    """Thrown into the coroutines of a workflow that is being taken out of memory.

    Not an `Exception`, so that a workflow's own `except Exception` can't swallow it.
    """
