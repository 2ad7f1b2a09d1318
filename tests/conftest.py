"""What all tests share. `async def` tests run on an event loop of their own (pytest-asyncio, automatic mode)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code: no deadlines. In continuous
# integration the examples are the same in every run, so that a red build is red again.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
