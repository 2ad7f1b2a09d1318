"""The garbage collector rests while the engine works through a turn.

What a turn makes is mostly kept until its commit, and gone then. A collection in the middle would look at all of it,
find nothing, and do so again a few hundred objects later.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_rests() -> Generator[None]:
    """No collection begins by itself meanwhile."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
