"""What is measured: latency at a quiet pace, and the rate that is sustained when publishers do not wait."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import aiohttp

from bench.opal import Subscriber, Workers, publish, subscribe

CALLERS = 8
WARM = 500
"""Events before any is measured: a broker in service is warm, and a JVM takes some hundred events to get there."""
WARM_PAUSE = 0.02
"""Seconds between those: closer ones may share an entry of the topic, and its broker would have done little."""


@dataclass
class Load:
    """`events` published at `rate` a second, then `burst` as fast as `CALLERS` callers can."""

    events: int
    rate: float
    burst: int


@dataclass
class Result:
    """One row. Latencies are milliseconds, rates events per second, processor times milliseconds per event."""

    backbone: str
    receivers: int
    delivered: int = 0
    expected: int = 0
    p50: float = float("nan")
    p99: float = float("nan")
    sustained: float = 0.0
    sustained_delivered: int = 0
    sustained_expected: int = 0
    # of the worker that publishes and of each one that receives, while the burst lasted
    publisher_ms: float = field(default=float("nan"))
    receiver_ms: float = field(default=float("nan"))

    # lowest and highest of several rounds
    lowest: float = 0.0
    highest: float = 0.0

    def note_latencies(self, milliseconds: list[float]) -> None:
        """Take the paced events' latencies."""
        self.delivered = len(milliseconds)
        if len(milliseconds) > 1:
            cuts = statistics.quantiles(milliseconds, n=100)
            self.p50, self.p99 = cuts[49], cuts[98]

    def note_burst(self, delivered: int, seconds: float) -> None:
        """Take how many deliveries the burst made, and from its first publish call to its last delivery."""
        self.sustained_delivered = delivered
        self.sustained = delivered / self.receivers / seconds if seconds > 0 else 0.0
        self.lowest = self.highest = self.sustained


def over_rounds(rounds: list[Result]) -> Result:
    """Put the rounds of one backbone together: sums of deliveries, medians of everything else."""
    result = Result(rounds[0].backbone, rounds[0].receivers)
    for name in ("delivered", "expected", "sustained_delivered", "sustained_expected"):
        setattr(result, name, sum(getattr(each, name) for each in rounds))
    for name in ("p50", "p99", "sustained", "publisher_ms", "receiver_ms"):
        setattr(result, name, statistics.median(getattr(each, name) for each in rounds))
    result.lowest = min(each.sustained for each in rounds)
    result.highest = max(each.sustained for each in rounds)
    return result


async def _settled(subscribers: list[Subscriber], prefix: str, count: int, timeout: float) -> int:
    """Wait until all have all; return how many deliveries there were."""
    deadline = time.monotonic() + timeout
    last, last_change = -1, time.monotonic()
    while True:
        now = sum(sum(name.startswith(prefix) for name in each.arrivals) for each in subscribers)
        if now != last:
            last, last_change = now, time.monotonic()
        # a backbone that loses events would keep us here until the end
        if now == count * len(subscribers) or time.monotonic() > deadline or time.monotonic() - last_change > 8:
            return now
        await asyncio.sleep(0.1)


async def through_opal(name: str, fleet: Workers, receivers: int, load: Load) -> Result:
    """Publish through the first worker, and listen with one subscriber each to `receivers` others.

    A fleet of one worker has all its subscribers on the worker that publishes: OPAL's own path in memory.
    """
    await fleet.wait(900)
    publisher = fleet.ports[0]
    ports = fleet.ports[1:] or [publisher] * receivers
    result = Result(name, receivers, expected=load.events * receivers, sustained_expected=load.burst * receivers)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        subscribers = [await subscribe(session, port) for port in ports]
        await asyncio.sleep(3)  # backends that connect on the first client
        for number in range(WARM):
            await publish(session, publisher, f"warm{number}")
            await asyncio.sleep(WARM_PAUSE)
        await _settled(subscribers, "warm", WARM, 180)
        await asyncio.sleep(2)
        sent = {}
        due = time.monotonic()
        for number in range(load.events):
            sent[f"paced{number}"] = await publish(session, publisher, f"paced{number}")
            due += 1 / load.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await _settled(subscribers, "paced", load.events, 60)
        result.note_latencies(
            [(s.arrivals[key] - when) * 1000 for s in subscribers for key, when in sent.items() if key in s.arrivals]
        )
        before = fleet.processor_seconds()
        began = time.time()
        numbers = iter(range(load.burst))

        async def caller() -> None:
            for number in numbers:
                await publish(session, publisher, f"burst{number}")

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        delivered = await _settled(subscribers, "burst", load.burst, 180)
        ends = [when for s in subscribers for key, when in s.arrivals.items() if key.startswith("burst")]
        result.note_burst(delivered, max(ends, default=began) - began)
        used = [after - first for after, first in zip(fleet.processor_seconds(), before, strict=True)]
        result.publisher_ms = used[0] / load.burst * 1000
        if used[1:]:
            result.receiver_ms = statistics.mean(used[1:]) / load.burst * 1000
        for subscriber in subscribers:
            await subscriber.close()
    return result
