"""Heartbeats go to every worker of the fleet: together they are few, and still enough to hear and to be complete."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.settings import load
from pulsar_broker import Standalone

WORKERS = 30
AT_FULL_RATE = 10
"""Workers that may all send heartbeats at the set interval."""
INTERVAL = 1.0
MEASURED = 15 * INTERVAL
"""Seconds over which heartbeats are counted. Workers that start together send theirs together for a while, every third
interval: a shorter time may hold one more such bunch than is due."""


@contextlib.asynccontextmanager
async def _fleet(broker: Standalone, channel: str) -> AsyncIterator[list[Core]]:
    """Connect workers that listen, and let them hear of each other."""
    settings = load(
        {"OPAL_BROADCAST_URI": broker.url, "OPAL_BACKBONE_HEARTBEAT_INTERVAL": str(INTERVAL)}, channel=channel
    )
    cores = [Core(settings, Metrics()) for _ in range(WORKERS)]
    for core in cores:
        core.attach(lambda _text: None)
        core.start()
    try:
        await asyncio.gather(*(core.ready(60) for core in cores))
        await asyncio.sleep(4 * INTERVAL)
        yield cores
    finally:
        await asyncio.gather(*(core.stop() for core in cores))


def _silence(core: Core) -> float:
    return float(core.state()["heard_age"])


async def test_a_large_fleet_sends_few_and_every_worker_keeps_hearing(broker: Standalone, channel: str) -> None:
    async with _fleet(broker, channel) as cores:
        heard = cores[0].metrics.value("heartbeats_received")
        began, longest = time.monotonic(), 0.0
        while time.monotonic() - began < MEASURED:
            await asyncio.sleep(0.1)
            longest = max(longest, *map(_silence, cores))
        rate = (cores[0].metrics.value("heartbeats_received") - heard) / (time.monotonic() - began)
    assert rate < 1.5 * AT_FULL_RATE / INTERVAL
    assert longest < 2 * INTERVAL


async def test_the_others_are_told_soon_of_what_was_the_last(broker: Standalone, channel: str) -> None:
    async with _fleet(broker, channel) as cores:
        sent = cores[0].metrics.value("heartbeats_sent")
        while cores[0].metrics.value("heartbeats_sent") == sent:  # so that none is under way
            await asyncio.sleep(0.02)
        sent = cores[0].metrics.value("heartbeats_sent")
        cores[0].publish(wire.notification_payload("test", ["t"], 1))
        began = time.monotonic()
        async with asyncio.timeout(2 * INTERVAL):
            while cores[0].metrics.value("heartbeats_sent") == sent:
                await asyncio.sleep(0.02)
        # not one that was due before
        assert time.monotonic() - began > INTERVAL / 2


async def test_they_are_told_once_more_because_that_may_be_missing_too(broker: Standalone, channel: str) -> None:
    async with _fleet(broker, channel) as cores:
        core, other = cores[:2]

        async def heartbeat() -> None:
            sent = core.metrics.value("heartbeats_sent")
            while core.metrics.value("heartbeats_sent") == sent:
                # there is always somebody to hear
                other.publish(wire.notification_payload("test", ["t"], 0))
                await asyncio.sleep(0.05)

        await heartbeat()  # so that none is under way
        for number in range(200):  # in a fleet as large as this twelve intervals lie between two heartbeats
            core._tracker.announce(f"worker{number}", 0, time.monotonic())
        core.publish(wire.notification_payload("test", ["t"], 1))
        async with asyncio.timeout(6 * INTERVAL):
            await heartbeat()
            await heartbeat()
        # a new connection has missed something, perhaps
        assert core._link is not None
        core._break(core._link, "the test wants it so")
        async with asyncio.timeout(6 * INTERVAL):
            await heartbeat()
            await heartbeat()


async def test_one_whom_the_others_have_left_alone_hears_itself(broker: Standalone, channel: str) -> None:
    async with _fleet(broker, channel) as cores:
        await asyncio.gather(*(core.stop() for core in cores[1:]))
        began, longest = time.monotonic(), 0.0
        while time.monotonic() - began < 6 * INTERVAL:
            await asyncio.sleep(0.05)
            longest = max(longest, _silence(cores[0]))
    assert longest < 2 * INTERVAL
