"""The workflow: what is made, and in which order.

It reads like a script that nothing ever goes wrong for. Retries, waiting for the rate limit, the hold on the
quota and carrying on after a crash are not in it.
"""

from __future__ import annotations

import asyncio

import msgspec

from examples.provision.activities import create_database, create_network, create_record, create_subnet, invite_member
from examples.provision.cloud import BadRequest, Resource
from examples.provision.spec import Database, Specification, Subnet
from perdure import workflow


class Environment(msgspec.Struct, frozen=True):
    """What was made. `databases` are the primary, then its replicas."""

    name: str
    network: Resource
    subnets: list[Resource]
    databases: list[Resource]
    records: list[Resource]
    members: list[Resource]

    def resources(self) -> list[Resource]:
        """Everything there is in it."""
        return [self.network, *self.subnets, *self.databases, *self.records, *self.members]


@workflow(failure_exceptions=(BadRequest,))
async def provision(spec: Specification) -> Environment:
    """Make an environment: the network, then what goes into it, then names for the databases."""
    network = await create_network(spec.network)
    (subnets, databases), members = await asyncio.gather(
        _subnets_and_databases(spec.subnets, spec.database, network.id),
        asyncio.gather(*(invite_member(member, network.id) for member in spec.members)),
    )
    targets = {"primary": [databases[0].id], "replicas": [replica.id for replica in databases[1:]]}
    records = await asyncio.gather(*(create_record(record, network.id, targets[record.target]) for record in spec.dns))
    return Environment(spec.environment, network, subnets, databases, records, members)


async def _subnets_and_databases(
    subnets: tuple[Subnet, ...], database: Database, network_id: str
) -> tuple[list[Resource], list[Resource]]:
    """The subnets, the primary in them, and then its replicas."""
    places = await asyncio.gather(*(create_subnet(subnet, network_id) for subnet in subnets))
    place_ids = [place.id for place in places]
    primary = await create_database(database.name, database, place_ids)
    replicas = await asyncio.gather(
        *(
            create_database(f"{database.name}-replica-{number}", database, place_ids, primary.id)
            for number in range(1, database.replicas + 1)
        )
    )
    return places, [primary, *replicas]
