"""One activity for each kind of resource.

An activity runs at least once: a process may die after the cloud did its work and before anybody heard of
it. So each creating call carries an idempotency key that is the same for every attempt of the activity. The
cloud knows it again, and answers with the resource that it made the first time.
"""

from __future__ import annotations

import asyncio

from examples.provision.cloud import BadRequest, Cloud, QuotaExceeded, Resource
from examples.provision.spec import Database, Member, Network, Record, Subnet
from perdure import RetryPolicy, activity

RETRIES = RetryPolicy(
    initial_interval="500ms",
    backoff_coefficient=2.0,
    maximum_interval="3s",
    maximum_attempts=0,  # a cloud that is down comes back: never give up
    non_retryable=(BadRequest,),
    hold_on=(QuotaExceeded,),  # only a person can raise a quota: wait for one
)


def idempotency_key() -> str:
    """The same for each attempt of this activity, and different from any other's."""
    info = activity.info()
    return f"{info.workflow_id}/{info.activity_id}"


@activity(start_to_close_timeout="30s", retry_policy=RETRIES)
async def create_network(network: Network) -> Resource:
    """Make the private network."""
    fields: dict[str, object] = {"name": network.name, "cidr": network.cidr}
    return await Cloud().create("networks", fields, key=idempotency_key())


@activity(start_to_close_timeout="30s", retry_policy=RETRIES)
async def create_subnet(subnet: Subnet, network_id: str) -> Resource:
    """Make one range of addresses in the network."""
    fields: dict[str, object] = {
        "name": subnet.name, "network": network_id, "cidr": subnet.cidr, "zone": subnet.zone,
    }  # fmt: skip
    return await Cloud().create("subnets", fields, key=idempotency_key())


@activity(start_to_close_timeout="10m", heartbeat_timeout="10s", retry_policy=RETRIES)
async def create_database(name: str, database: Database, subnet_ids: list[str], primary_id: str = "") -> Resource:
    """Make a database, or a replica of the primary, and wait until it is ready."""
    cloud = Cloud()
    fields: dict[str, object] = {
        "name": name,
        "engine": database.engine,
        "storage_gb": database.storage_gb,
        "subnets": subnet_ids,
        "primary": primary_id,
    }
    created = await cloud.create("databases", fields, key=idempotency_key())
    while created.status != "ready":
        activity.heartbeat(created.id)  # if this process dies now, another one notices within 10 seconds
        await asyncio.sleep(0.25)
        created = await cloud.get("databases", created.id)
    return created


@activity(start_to_close_timeout="30s", retry_policy=RETRIES)
async def create_record(record: Record, network_id: str, targets: list[str]) -> Resource:
    """Give one or several databases a name in the network."""
    fields: dict[str, object] = {"name": record.name, "network": network_id, "targets": targets}
    return await Cloud().create("records", fields, key=idempotency_key())


@activity(start_to_close_timeout="30s", retry_policy=RETRIES)
async def invite_member(member: Member, network_id: str) -> Resource:
    """Give a person access to the network."""
    fields: dict[str, object] = {"name": member.email, "network": network_id, "role": member.role}
    return await Cloud().create("members", fields, key=idempotency_key())
