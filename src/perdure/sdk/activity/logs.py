"""`activity.logger`: log lines of an attempt, which tell whose they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Final, cast

from perdure.sdk.activity.context import ActivityContext

_LOGGER: Final = logging.getLogger("perdure.activity")
OUTSIDE: Final = logging.LoggerAdapter(_LOGGER, {})
"""Where no attempt runs."""


class ActivityLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger of one attempt: records carry `workflow_id`, `run_id`, `activity_id`, `activity_type`, `attempt`."""

    def __init__(self, attempt: ActivityContext) -> None:
        task = attempt.task
        super().__init__(
            _LOGGER,
            {
                "workflow_id": task.token.run.workflow_id,
                "run_id": task.token.run.run_id,
                "activity_id": task.activity_id,
                "activity_type": task.activity_type,
                "attempt": task.token.attempt,
            },
        )

    def process(self, msg: object, kwargs: MutableMapping[str, object]) -> tuple[object, MutableMapping[str, object]]:
        own = cast("Mapping[str, object]", kwargs.get("extra") or {})
        kwargs["extra"] = {**(self.extra or {}), **own}
        return msg, kwargs
