"""A link that is given up while its answers arrive, or while it is made, takes nothing with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.settings import load
from pulsar_broker import Standalone

TESTS = Path(__file__).resolve().parents[1]


def test_a_worker_that_abandons_a_busy_link_goes_on(broker: Standalone, channel: str) -> None:
    # in a process of its own: if it stands still for good, no timeout within it would fire
    done = subprocess.run(
        [sys.executable, str(TESTS / "abandoner.py"), broker.url, channel, "60"],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5


async def test_a_stop_at_any_moment_of_connecting_ends(broker: Standalone, channel: str) -> None:
    settings = load({"OPAL_BROADCAST_URI": broker.url}, channel=channel)

    async def stop_after(seconds: float) -> None:
        core = Core(settings, Metrics())
        core.start()
        await asyncio.sleep(seconds)
        async with asyncio.timeout(5):
            await core.stop()

    began = time.monotonic()
    core = Core(settings, Metrics())
    core.start()
    await core.ready(30)
    takes = time.monotonic() - began
    await core.stop()
    for part in range(60):
        await stop_after(part / 50 * takes)
