"""Pydantic models as arguments, results, messages and memories, in every size."""

from __future__ import annotations

from pydantic import BaseModel, PositiveInt

from perdure import ApplicationError, activity, workflow
from perdure.model.payloads import Payload
from perdure.model.requests import StartWorkflow
from perdure.sdk.client.client import Client
from tests.integration.engines import failing_task


class Machine(BaseModel):
    name: str
    cores: PositiveInt = 1


class Fleet(BaseModel):
    machines: list[Machine]


@activity(name="models.grow")
async def grow(fleet: Fleet, by: Machine) -> Fleet:
    return Fleet(machines=[*fleet.machines, by])


@workflow(name="models.keeper")
class Keeper:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.over = False

    async def run(self) -> Fleet | Machine:
        await workflow.wait_until(lambda: self.over)
        return self.fleet

    @workflow.update
    async def add(self, machine: Machine) -> Fleet:
        self.fleet = await grow(self.fleet, machine)
        return self.fleet

    @add.validator
    def _(self, machine: Machine) -> None:
        if machine.cores > 64:
            raise ApplicationError("too many cores")

    @workflow.query
    def largest(self) -> Machine | None:
        return max(self.fleet.machines, key=lambda machine: machine.cores, default=None)

    @workflow.signal
    def end(self, last: Machine) -> None:
        self.fleet.machines.append(last)
        self.over = True


async def test_models_go_everywhere(client: Client) -> None:
    handle = await client.start(Keeper(Fleet(machines=[])), id="keeper")
    assert await handle.query(Keeper.largest) is None
    assert await handle.update(Keeper.add, Machine(name="a", cores=2)) == Fleet(machines=[Machine(name="a", cores=2)])
    assert await handle.query(Keeper.largest) == Machine(name="a", cores=2)
    await handle.signal(Keeper.end, Machine(name="b"))
    names = ["a", "b"]
    result = await handle.result()
    assert isinstance(result, Fleet) and [machine.name for machine in result.machines] == names


@workflow(name="models.typed")
async def typed(machine: Machine) -> int:
    return machine.cores


async def test_a_mismatch_is_a_failure_of_the_task_and_names_the_field(client: Client) -> None:
    wrong = (Payload(b'{"name":"a","cores":0}'),)
    await client.service.call(StartWorkflow("default", "typed", "models.typed", "default", wrong, "r"))
    failure, _, _ = await failing_task(client.get("typed"))
    assert "argument 'machine' of workflow models.typed doesn't fit `Machine`" in failure
    assert "greater than 0 at `$.cores`" in failure
