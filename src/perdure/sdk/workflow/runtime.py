"""One workflow run, live in memory: a workflow task goes in, what the code asks for comes out.

::

    activate(task):  read the events → for each recorded task: run it again, match what it asks for with the
                     history → run the open task → completion
    query(task):     the same without an open task → answer
    evict():         throw Evicted into what still waits

One path serves a whole history and the few events since the last task: there the first recorded task is the one
that this run has just done, so that only the ids of its events are taken over.

A task's events apply in their order. After each, the loop runs until idle, then conditions are looked at; updates
follow. All of this is frozen: recorded histories depend on it.
"""

from __future__ import annotations

import logging
import platform
import random
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from operator import itemgetter
from typing import Any, ClassVar, Final, NoReturn, cast

from msgspec.structs import replace

from perdure.clock import SECOND, to_datetime
from perdure.errors import GuardError, NotFound
from perdure.model import events as e
from perdure.model import flags
from perdure.model.commands import (
    CancelWorkflow,
    Command,
    CompleteWorkflow,
    ContinueAsNew,
    FailWorkflow,
    RejectUpdate,
)
from perdure.model.payloads import NULL, Payload
from perdure.model.tasks import (
    START,
    Position,
    QueryAnswer,
    QueryTask,
    RunRef,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.converter import hand_on_room
from perdure.sdk.failures import ExceptionResolver, failure_of
from perdure.sdk.interceptors import NO_CHAINS, WorkflowChains, own_headers
from perdure.sdk.workflow import determinism
from perdure.sdk.workflow.activation import Activation
from perdure.sdk.workflow.asking import Asking
from perdure.sdk.workflow.conditions import Conditions
from perdure.sdk.workflow.context import OpenSagas, WorkflowInfo
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.endings import (
    ChangedByReader,
    ContinueAsNewRequested,
    continue_with,
    end_sagas,
    is_failure,
    located,
    main_code,
    tear_down,
    told_end,
)
from perdure.sdk.workflow.entities import Entity, Memory, is_continued
from perdure.sdk.workflow.facts import info_of
from perdure.sdk.workflow.interception import intercepted_main
from perdure.sdk.workflow.ledger import EVICTED, Ledger
from perdure.sdk.workflow.local import LOCAL, LocalOutcome
from perdure.sdk.workflow.logs import WorkflowLogger
from perdure.sdk.workflow.loop import LoopTask
from perdure.sdk.workflow.matching import Issued, Scene, in_order, match
from perdure.sdk.workflow.messages import Messages
from perdure.sdk.workflow.patches import Patches
from perdure.sdk.workflow.queries import STACK_TRACE, stack_trace
from perdure.sdk.workflow.replay import HistoryReader, RecordedTask
from perdure.sdk.workflow.resolutions import RESOLVE

Answer = WorkflowTaskCompletion | WorkflowTaskFailure
PYTHON: Final = ".".join(platform.python_version_tuple()[:2])


class WorkflowRun(Asking):
    """The live copy of one run. It implements `context.WorkflowContext` for the code that it runs.

    Args:
        ref: which run.
        definitions: the workflows that may be run, by name.
        chains: what interceptors have for workflows.

    Attributes:
        position: how far the history was seen: `activate` takes the task whose `previous` this is.
        closed: the code has ended; queries are still answered.
        broken: the code and its history are of no use any more: evict the run.
        logger: what the code logs with.
        flags: behaviours in force in the workflow task that runs (`model.flags`).
        locals: the local activities that it waits for.
    """

    __slots__ = (
        "_bug", "_cancel_requested", "_cancel_unheard", "_chains", "_closing", "_conditions", "_context",
        "_definition", "_definitions", "_ending", "_entity", "_facts", "_history_bytes", "_history_length", "_logger",
        "_loop", "_main", "_messages", "_open_task", "_patches", "_random", "_reader", "_resolver", "_rolls_over",
        "_run_id", "_sent", "_started", "_successor", "_target", "_time", "broken", "closed", "flags", "logger",
        "position", "ref", "sagas",
    )  # fmt: skip

    def __init__(
        self, ref: RunRef, definitions: Mapping[str, WorkflowDefinition], chains: WorkflowChains = NO_CHAINS
    ) -> None:
        determinism.install()
        self.ref = ref
        self.position: Position = START
        self.closed = self.broken = False
        facts = {"workflow_id": ref.workflow_id, "run_id": ref.run_id, "workflow_type": ""}
        self._facts = facts
        self._logger = WorkflowLogger(facts)
        self.logger: logging.LoggerAdapter[logging.Logger] = self._logger
        self._definitions, self._chains = definitions, chains
        self._resolver = ExceptionResolver()
        super().__init__(Ledger(ref), chains)
        self._loop = self._ledger.loop
        self._loop.logger = self._logger
        self._conditions = Conditions(self._loop)
        self._patches = Patches(self._ledger)
        self._reader = HistoryReader()
        self._context = Context()
        hand_on_room(self._context)
        self._sent: list[Issued] | None = None  # what the last live task asked for, until its events are seen
        self._ending: tuple[Command, Callable[[], ContinueAsNew] | None] | None = None  # once no saga is open
        self._closing: Command | None = None
        self.sagas: OpenSagas = {}
        self._successor: Callable[[], ContinueAsNew] | None = None
        self._cancel_requested = self._cancel_unheard = self._rolls_over = False
        self._bug: BaseException | None = None
        self._main: LoopTask[object] | None = None
        self._random: random.Random | None = None
        self._run_id = ""  # whose code this is at present: of a reset one, first the run that wrote its first part
        self._entity: Entity | None = None
        self._target: object = None
        self.flags: tuple[int, ...] = ()
        self._open_task: WorkflowTask | None = None
        self._time = self._history_length = 0
        self._history_bytes = 0
        # Set by the first event.
        self._started: e.WorkflowExecutionStarted
        self._definition: WorkflowDefinition
        self._messages: Messages | None = None

    # --- What the worker calls --------------------------------------------------------------------------
    def activate(self, task: WorkflowTask) -> Answer | None:
        """Run the workflow's code on a task's news, after what this copy has not seen of the history.

        `task.previous` must be `position`. What goes wrong is the answer, not an exception; then the run is
        `broken`. Only KeyboardInterrupt passes through, and breaks it too. None: the code waits for `locals`, which are
        to be run; their outcomes are for `resume`.
        """
        if self.broken or self.closed or task.previous != self.position:
            raise RuntimeError(f"run {self.ref.run_id} can't take this task: it is broken, closed or elsewhere")
        self._open_task = task
        return self._step(task, lambda: self._begin_live(task))

    def resume(self, seq: int, outcome: LocalOutcome, elapsed: int) -> Answer | None:
        """Go on with a task when a local activity has an outcome, so many microseconds after the task began."""
        task = self._open

        def resolve() -> None:
            time = max(self._time, task.time + elapsed)
            if self._closing is None and self.locals.happened(seq, outcome, time, self._resolver):
                self._settle()

        return self._step(task, resolve)

    def report(self) -> Answer | None:
        """Answer a task although local activities run on: another one is to follow."""
        return self._step(self._open, lambda: None, more=True)

    @property
    def started(self) -> e.WorkflowExecutionStarted:
        """The first event."""
        return self._started

    @property
    def _open(self) -> WorkflowTask:
        assert self._open_task is not None
        return self._open_task

    def _step(self, task: WorkflowTask, work: Callable[[], None], *, more: bool = False) -> Answer | None:
        try:
            with Activation(self, self._loop):
                work()
                if self._ledger.displaced:
                    self.check_order()
                if self.locals.pending and self._closing is None and not more:
                    return None
                issued = self._finish()
            self._sent = [item for item in issued if type(item[0]) is not RejectUpdate] if task.updates else issued
            self._open_task = None  # which holds its events
        except KeyboardInterrupt:
            self.broken = True
            raise
        except BaseException as error:  # SystemExit, too: one workflow's code can't end them all
            self.broken = True
            failure = located(failure_of(error), error, getattr(self, "_definition", None))
            return WorkflowTaskFailure(self.ref, task.attempt, task.position, failure, task.given)
        self.position = task.position
        commands, exceptions, logs = tuple(map(itemgetter(0), issued)), self._resolver.take(), self._logger
        return WorkflowTaskCompletion(
            self.ref, task.attempt, task.position, commands, PYTHON, flags.CURRENT, exceptions, bool(logs.records),
            task.given, more and not self.closed,
        )  # fmt: skip

    def query(self, task: QueryTask) -> QueryAnswer:
        """Answer a question about the workflow's state.

        The run is at `task.position`, or is new and `task.events` bring it there. What goes wrong is the
        answer; `broken` tells whether the run is of use after it.
        """
        if self.broken or (task.position != self.position and not (task.events and self.position == START)):
            raise RuntimeError(f"run {self.ref.run_id} can't answer: it is broken or elsewhere")
        result, failure = None, None
        records, self._logger.records = self._logger.records, []
        try:
            with Activation(self, self._loop):
                self._bring_to(task)
                self._begin([], task.time, replaying=False)
                result = self._answer(task)
        except KeyboardInterrupt:
            self.broken = True
            raise
        except BaseException as error:
            self.broken = self.broken or isinstance(error, ChangedByReader)
            failure = failure_of(error)
        # A query commits nothing that its own log lines could wait for.
        said, self._logger.records = self._logger.records, records
        for record in said:
            logging.getLogger(record.name).handle(record)
        return QueryAnswer(self.ref, task.query_id, result, failure)

    def evict(self) -> None:
        """Take the run out of memory: `finally` blocks run now, on this thread, and can't ask for anything.

        Every run must be evicted before it is dropped. A second call does nothing.
        """
        if self._ledger.refusal == EVICTED:
            return
        self.broken = True
        self._ledger.refusal = EVICTED
        self._loop.silent = self._logger.silent = True
        self._logger.records.clear()
        self._loop.clear()
        try:
            if self._loop.live_tasks():  # else no code of it is left
                with (
                    suppress(GuardError),
                    Activation(self, self._loop),
                ):  # a `finally` that never waits was told of, and ended
                    tear_down(self._loop)
        finally:
            self._ledger.release()
            self.locals.release()
            self._messages = self._main = self._sent = self._entity = self._target = None

    def take_log_records(self) -> list[logging.LogRecord]:
        """What the code has logged since the last call. It may be handed to `logging` when the task's
        completion is on disk (`logging.getLogger(record.name).handle(record)`)."""
        return self._logger.take()

    # --- Workflow tasks ---------------------------------------------------------------------------------
    def _catch_up(self, events: Sequence[e.HistoryEvent]) -> None:
        for recorded in self._reader.read(events):
            asked = recorded.asked
            sent, self._sent = self._sent, None
            if sent is not None and in_order(sent, asked):
                self._ledger.bind(zip(sent, asked, strict=True))
                continue
            issued = self._replay(recorded) if sent is None else sent
            matched = match(issued, asked, Scene(self.ref.workflow_id, recorded.time, self.locals.asked))
            for change in matched.changed:
                self._ledger.displaced.take(change)
            self._ledger.bind(matched.pairs)

    def _replay(self, recorded: RecordedTask) -> list[Issued]:
        """Run a recorded task again; what the code asks for."""
        if recorded.completed.flags != self.flags:
            flags.require_known(recorded.completed.flags)
            self.flags = recorded.completed.flags
        self._patches.recorded(recorded.asked)
        # As it was then, whatever is suggested today.
        self._rolls_over = bool(recorded.asked) and type(recorded.asked[-1]) is e.WorkflowExecutionContinuedAsNew
        self._resolver.replay(recorded.completed.exceptions)
        self._history_length, self._history_bytes = recorded.history_length, recorded.history_bytes
        self._begin(recorded.news, recorded.time, replaying=True)
        self._tell(recorded.news)
        for event in recorded.asked:
            if isinstance(event, e.WorkflowExecutionUpdateAccepted):
                self._listener().accept(event.update_id, event.name, event.input, event.header)
                self._settle()
            elif isinstance(event, e.MarkerRecorded) and event.marker_name == LOCAL:
                self.locals.replay(event.details, self._resolver)
                self._settle()
        return self._finish()

    def _move_time(self, time: int) -> None:
        """A local activity took its time."""
        self._ledger.elapsed += time - self._time
        self._time = time
        self._set_clock()

    def _begin_live(self, task: WorkflowTask) -> None:
        self._catch_up(task.events)
        self.flags = flags.CURRENT
        news = self._reader.take_news()
        self._resolver.take()  # what a replay has met, its history records
        self._history_length, self._history_bytes = task.position.event_id, task.history_bytes
        self._begin(news, task.time, replaying=False)
        self._tell(news)
        for update in task.updates:
            # The next run takes it, where there is one. One that is rejected changes nothing: no history knows of it.
            if self._successor is None and self._listener().admit(update):
                self._settle()

    def _begin(self, news: list[e.HistoryEvent], time: int, *, replaying: bool) -> None:
        self._time = time
        self._logger.silent = replaying
        self._ledger.begin(news, replaying=replaying)
        if self._messages is not None:
            self._set_clock()

    def _set_clock(self) -> None:
        self._loop.clock = (self._time - self._started.time) / SECOND

    def _tell(self, news: Sequence[e.HistoryEvent]) -> None:
        for event in news:
            if self._closing is not None and not isinstance(event, e.WorkflowExecutionSignaled):
                self._cancel_unheard = self._cancel_unheard or isinstance(event, e.WorkflowExecutionCancelRequested)
                continue  # the code has ended; but a message that was taken is heard, if only by its handler
            if self._successor is not None:
                self._listener().leave(cast("e.WorkflowExecutionSignaled", event))
                continue
            resolve = RESOLVE.get(type(event))
            if resolve is None:
                self._apply[type(event)](self, event)
            elif resolve(self._ledger, self._resolver, event) is False:
                continue
            self._settle()

    def _settle(self) -> None:
        """Let everything run that can, and see whether the run has ended."""
        self._loop.run_until_idle()
        self._conditions.settle()
        if self._bug is not None:
            raise self._bug
        main = self._main
        if main is not None and self._ending is None and main.done():
            self._main_done(main)
        if self._ending is not None and self._closing is None:
            goes_on = self._ending[1] is not None
            if self.sagas and end_sagas(self.sagas, main, self.logger, self.ref.workflow_id, goes_on=goes_on):
                self._settle()
            elif goes_on or not self.sagas:
                self._closing, self._successor = self._ending

    def _finish(self) -> list[Issued]:
        """The end of a workflow task: what was asked for."""
        self._loop.prune()
        if self._entity is not None and self._closing is None:
            self._end_entity_task(self._entity)
        issued = self._ledger.collect()
        if self._closing is not None:
            self._listener().warn(issued, going_on=self._successor is not None)
            if isinstance(self._closing, CompleteWorkflow) and self._main is not None:
                self._closing = CompleteWorkflow(self._definition.signature.encode_result(self._main.result()))
            elif self._successor is not None:
                signals = self._listener().take_unused()
                # Its input is encoded last, too.
                missed = self._cancel_requested and self._main is not None and self._main.missed
                self._closing = replace(self._successor(), signals=signals, pass_cancel=self._cancel_unheard or missed)
            issued.append((self._closing, None, ""))
            self.closed = True
            self.locals.give_up()
        return issued

    def _end_entity_task(self, entity: Entity) -> None:
        entity.check(self._target, self._history_length)
        if (self._rolls_over if self._loop.replaying else self.info().continue_as_new_suggested) and (
            entity.quiet and not self.locals.pending
        ):
            self._successor = self._roll_over
            self._closing = ContinueAsNew(self._started.workflow_type, "", ())  # made when all else is settled

    def _roll_over(self) -> ContinueAsNew:
        state = None if self._random is None else self._random.getstate()
        memory = Memory(random=state, patches=self._patches.decided)
        header = own_headers(self._started.header)
        command = ContinueAsNew(self._started.workflow_type, "", self._started.input, header=header)
        return self.entity.roll_over(self._target, memory, command)

    # --- The end of the run -----------------------------------------------------------------------------
    @property
    def closing(self) -> bool:
        """Whether the code has ended, but for what sagas undo."""
        return self._ending is not None

    def _main_done(self, main: LoopTask[object]) -> None:
        if main.cancelled():
            if not self._cancel_requested:
                raise RuntimeError("the workflow cancelled its own main task, though nobody asked it to stop")
            self._ending = CancelWorkflow(), None
        elif (error := main.exception()) is not None:
            self.end_with(error)
        else:
            self._ending = CompleteWorkflow(NULL), None  # the result is encoded last, when handlers have had their say

    def end_with(self, error: BaseException) -> None:
        """The code has raised: end the run with it where it is an outcome; raise it where it is a bug."""
        error = told_end(error)
        if isinstance(error, ContinueAsNewRequested):
            ending = error.command(), error.command
        elif self.is_failure(error):
            ending = FailWorkflow(failure_of(error)), None
        else:
            raise error
        self._ending = self._ending or ending

    def report_bug(self, error: BaseException) -> None:
        self._bug = self._bug or error

    def is_failure(self, error: BaseException, also: tuple[type[BaseException], ...] = ()) -> bool:
        """Whether an exception is an outcome, not a bug; those of `also` are, too."""
        return is_failure(self._definition, error, also)

    # --- Queries ----------------------------------------------------------------------------------------
    def _bring_to(self, task: QueryTask) -> None:
        if task.position != self.position:
            try:
                self._catch_up(task.events)
            except BaseException:
                self.broken = True
                raise
            self.position = task.position

    def _answer(self, task: QueryTask) -> Payload:
        if task.name == STACK_TRACE:
            return stack_trace(self._loop)
        return self._listener().query(task.name, task.input, task.header)

    def _listener(self) -> Messages:
        if self._messages is None:
            raise NotFound("the workflow has not begun: its first workflow task is not completed yet")
        return self._messages

    # --- Events -----------------------------------------------------------------------------------------
    def _begin_run(self, event: e.WorkflowExecutionStarted) -> None:
        definition = self._definitions.get(event.workflow_type)
        if definition is None:
            known = ", ".join(sorted(self._definitions)) or "none"
            raise NotFound(f"this worker has no workflow {event.workflow_type!r}; it has {known}")
        self._started, self._definition = event, definition
        if event.original_run_id:
            self._loop.reseed(zlib.crc32(event.original_run_id.encode()))
        self._run_id = self._run_id or event.original_run_id or self.ref.run_id
        self._set_clock()
        self._facts["workflow_type"] = definition.name
        if not definition.is_async:
            self._ledger.make_plain()
        args, kwargs = definition.signature.decode(event.input)
        if definition.attributes is not None:
            alarms = frozenset(name for kind, name in definition.handlers if kind == "alarm")
            self._entity = Entity(definition.attributes, alarms, self, self._ledger, self._conditions)
        target: object = None
        if event.header is not None and is_continued(event.header):
            target = self._context.run(self._restore, event.header)
        elif definition.is_class:
            try:
                target = self._context.run(definition.make, *args, **kwargs)
            except Exception as error:
                self.end_with(error)
        self._target = target
        self._messages = Messages(self, definition, target, self._ledger, self._context, self._logger, self._chains)
        if self._ending is None:
            around = self._chains.execute
            code = (
                main_code(definition, target, args, kwargs)
                if around is None
                else intercepted_main(around, definition, target, args, kwargs, event.header)
            )
            self._main = self._loop.create_task(code, name=definition.name, context=self._context.copy())

    def _restore(self, header: Mapping[str, Payload]) -> object:
        target, memory = self.entity.restore(header)
        self._patches.decided = memory.patches
        if memory.random is not None and self._random is None:  # else the run was reset to its very first task
            self._random = random.Random(0)
            self._random.setstate(memory.random)
        return target

    def _reset(self, event: e.WorkflowTaskFailed) -> None:
        self._run_id, self._random = event.new_run_id, random.Random(event.new_run_id)

    def _signaled(self, event: e.WorkflowExecutionSignaled) -> None:
        self._listener().signal(event)

    def _cancel(self, event: e.WorkflowExecutionCancelRequested) -> None:
        self._cancel_requested = True
        if self._main is not None:
            self._main.cancel(event.reason or None)

    _apply: ClassVar[dict[type[Any], Callable[[Any, Any], None]]] = {
        e.WorkflowExecutionStarted: _begin_run,
        e.WorkflowTaskFailed: _reset,
        e.WorkflowExecutionSignaled: _signaled,
        e.WorkflowExecutionCancelRequested: _cancel,
    }
    """What each of `replay.NEWS` does that is not in `resolutions.RESOLVE`; and a failed task is news where the run was
    reset to it."""

    # --- entities.Host ----------------------------------------------------------------------------------
    @property
    def main(self) -> LoopTask[object] | None:
        return self._main

    @property
    def handled(self) -> int:
        return self._listener().handled

    def microseconds(self) -> int:
        return self._time

    def ring(self, name: str) -> None:
        self._listener().ring(name)

    # --- context.WorkflowContext ------------------------------------------------------------------------
    async def wait_until(self, predicate: Callable[[], bool], timeout: int | None) -> None:
        self._ledger.check("workflow.wait_until can't be used")
        await self._conditions.wait(predicate, timeout)

    def all_handlers_finished(self) -> bool:
        return not self._listener().unfinished

    async def receive(self, name: str, type: object, timeout: int | None) -> object:
        self._ledger.check("workflow.receive can't be used")
        return await self._listener().receive(name, type, timeout)

    def info(self) -> WorkflowInfo:
        length, size = self._history_length, self._history_bytes
        return info_of(self.ref, self._run_id, self._started, length, size, is_replaying=self._loop.replaying)

    def last_result(self) -> Payload | None:
        return self._started.last_completion_result

    def now(self) -> datetime:
        return to_datetime(self._time)

    def time(self) -> float:
        return self._time / SECOND

    def random(self) -> random.Random:
        self._ledger.check("the workflow's random numbers can't be used")
        if self._random is None:
            self._random = random.Random(self._run_id)
        return self._random

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random().getrandbits(128), version=4)

    def patched(self, id: str) -> bool:
        return self._patches.patched(id, replaying=self._loop.replaying)

    def deprecate_patch(self, id: str) -> None:
        self._patches.deprecate(id, replaying=self._loop.replaying)

    @property
    def entity(self) -> Entity:
        if self._entity is None:
            raise RuntimeError(
                f"workflow {self._started.workflow_type} is no entity: decorate a class with @workflow(entity=True)"
            )
        return self._entity

    def continue_as_new(
        self, definition: WorkflowDefinition, args: Sequence[object], kwargs: dict[str, object]
    ) -> NoReturn:
        self._ledger.check("workflow.continue_as_new can't be used")
        header = own_headers(self._started.header)
        if self._outbound is not None:
            self._outbound.continue_as_new(definition, args, kwargs, header)
        continue_with(definition, args, kwargs, header)
