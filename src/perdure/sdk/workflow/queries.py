"""Queries that every workflow answers."""

from __future__ import annotations

from perdure.model.payloads import Payload
from perdure.sdk.converter import encode
from perdure.sdk.workflow.loop import DeterministicLoop
from perdure.sdk.workflow.source import awaited_lines

STACK_TRACE = "__stack_trace"
"""Name of the query that tells where each task of the workflow waits."""


def stack_trace(loop: DeterministicLoop) -> Payload:
    """Where each task waits, as text."""
    lines = [(task.get_name(), awaited_lines(task.get_coro())) for task in loop.live_tasks()]
    blocks = ["\n".join([f"{name}:", *map(str, waits)]) for name, waits in lines]
    return encode("\n\n".join(blocks) or "no task is running", "the stack trace")
