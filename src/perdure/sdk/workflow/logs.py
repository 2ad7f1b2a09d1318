"""`workflow.logger`: log lines of a workflow, each once.

In a replay nothing is logged. What is logged in a live task is kept until the task's completion is on disk:
otherwise a task that is run again would log again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

_LOGGER: Final = logging.getLogger("perdure.workflow")


class WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger of one run. Records carry `workflow_id`, `run_id` and `workflow_type`.

    silent: nothing is logged. records: what waits to be handed to `logging`.
    """

    def __init__(self, facts: Mapping[str, object]) -> None:
        super().__init__(_LOGGER, facts)
        self.silent = False
        self.records: list[logging.LogRecord] = []

    def isEnabledFor(self, level: int) -> bool:
        return not self.silent and self.logger.isEnabledFor(level)

    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        exc_info: bool | tuple[object, ...] | BaseException | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        if not self.isEnabledFor(level):
            return
        # One level more: logging doesn't know that this method is part of it.
        file, line, function, stack = self.logger.findCaller(stack_info, stacklevel + 1)
        error: Any = exc_info or None
        if isinstance(error, BaseException):
            error = (type(error), error, error.__traceback__)
        elif error is True:
            error = sys.exc_info()
        facts = {**(self.extra or {}), **(extra or {})}
        record = self.logger.makeRecord(self.logger.name, level, file, line, msg, args, error, function, facts, stack)
        with suppress(Exception):  # what can't be formatted is logging's to complain about, as it always does
            # Formatted now: the arguments may have changed when the record leaves.
            record.msg, record.args = record.getMessage(), None
        self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        """The records that wait; they wait no more."""
        records, self.records = self.records, []
        return records
