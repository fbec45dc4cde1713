"""Waiting for something to become true, on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 20, every: float = 0.05) -> bool:
    """Wait at most so many seconds until a condition holds; tell whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():  # never asked again once it holds: it need not last
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(every)
    return True


async def reach(condition: Callable[[], bool], seconds: float = 20, every: float = 0.05) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not after so many seconds.
    """
    if not await until(condition, seconds, every):
        raise TimeoutError(f"not reached within {seconds:g} s")
