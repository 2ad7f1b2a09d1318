"""How a child's report finds the run that has its parent's place now."""

from __future__ import annotations

import pytest

from perdure.engine.core.decisions.messages import DONE
from perdure.engine.core.decisions.outbox import Elsewhere
from perdure.engine.core.inputs import ChildReported, OutboxAnswered, OutboxUndelivered
from perdure.engine.node.delivery import deliver
from perdure.engine.storage.api import ChainKey
from perdure.errors import EngineStopped, NotFound, PerdureError, StoreError
from perdure.model import records as r
from perdure.model.events import ParentRef
from perdure.model.requests import Request
from tests.engine.core.harness import Run

REPORT = r.OutboxReport(ParentRef("default", "parent", "first-run", 5), "child-run", None, None)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (DONE, ["first-run"]),
        (Elsewhere(), ["first-run", ""]),
        (NotFound("its retention is over"), ["first-run", ""]),
    ],
)
async def test_a_report_follows_the_chain(reply: object, told: list[str]) -> None:
    asked: list[tuple[str, object]] = []

    async def tell(chain: ChainKey, run_id: str, input: object) -> object:
        assert chain == ChainKey("default", "parent")
        asked.append((run_id, input))
        if run_id != "first-run":
            return DONE
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call(request: Request[object]) -> object:
        raise AssertionError(f"nobody asks for {request}")

    answer = await deliver(Run.begin().execution, 1, REPORT, call, tell)
    assert answer == OutboxAnswered(1, "", "")
    assert [run_id for run_id, _ in asked] == told
    assert {input for _, input in asked} == {ChildReported("first-run", 5, None, None, "child-run")}


async def deliver_into(trouble: PerdureError) -> OutboxAnswered | OutboxUndelivered:
    async def tell(chain: ChainKey, run_id: str, input: object) -> object:
        raise trouble

    async def call(request: Request[object]) -> object:
        raise trouble

    return await deliver(Run.begin().execution, 1, REPORT, call, tell)


async def test_an_engine_that_stops_has_not_tried() -> None:
    with pytest.raises(EngineStopped):
        await deliver_into(EngineStopped("it stops"))  # each deploy would make the next try later
    assert await deliver_into(StoreError("the disk is full")) == OutboxUndelivered(1, "the disk is full")
