"""A connection that is up and of no use is made anew, whatever the client library thinks of it, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fleet import QUICK
from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.reading import TopicReader
from opal_backbone.settings import load
from pulsar_broker import Standalone
from waiting import until

SEEN_WITHIN = 25.0
"""Seconds in which a fault must be seen and overcome. The client library by itself sees it after 30 at the earliest."""
EVENTS = 50


class Forwarder:
    """A way to the broker that may go on taking what is sent over its connections, and carry none of it."""

    def __init__(self, broker: Standalone) -> None:
        self._broker = broker
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        # how many of them, counted from the first, are of no use any more
        self._swallowed = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        return f"pulsar://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self) -> None:
        """Carry nothing over the connections that there are, and leave them open; new ones are as good as ever."""
        self._swallowed = self.connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        there, back = await asyncio.open_connection("127.0.0.1", self._broker.port)
        self._writers += [writer, back]
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(number, source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if number > self._swallowed:
                    target.write(data)
                    await target.drain()
        # neither side learns of the other's end either
        if number > self._swallowed:
            target.close()

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def forwarder(broker: Standalone) -> AsyncIterator[Forwarder]:
    one = Forwarder(broker)
    await one.start()
    yield one
    await one.stop()


class Worker:
    """A core, and what its subscriber got: the numbers of events, and END where the stream ended."""

    def __init__(self, uri: str, channel: str) -> None:
        self.core = Core(load({"OPAL_BROADCAST_URI": uri, **QUICK}, channel=channel), Metrics())
        self.got: list[Any] = []
        self._next = 0

    async def start(self) -> None:
        self.core.attach(lambda text: self.got.append("END" if text is None else json.loads(text)["data"]))
        self.core.start()
        await self.core.ready(30)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.core.publish(wire.notification_payload("test", ["t"], self._next))
            self._next += 1


async def _seen(condition: Callable[[], bool]) -> bool:
    return await until(condition, SEEN_WITHIN)


@contextlib.asynccontextmanager
async def _two(uri: str, other_uri: str, channel: str) -> AsyncIterator[tuple[Worker, Worker]]:
    """Connect two workers that have heard from each other, one of which has connected once."""
    workers = Worker(uri, channel), Worker(other_uri, channel)
    try:
        for worker in workers:
            await worker.start()
        for worker in workers:
            worker.publish(1)
        assert await _seen(lambda: all(worker.got == [0] for worker in workers))
        assert workers[0].core.metrics.value("connects") == 1
        yield workers
    finally:
        await asyncio.gather(*(worker.core.stop() for worker in workers))


@pytest.mark.parametrize("publishing", [False, True])
async def test_a_half_open_connection_is_made_anew_and_nothing_is_lost(
    broker: Standalone, channel: str, forwarder: Forwarder, publishing: bool
) -> None:
    """What is sent over it is taken and reaches nobody: neither what the worker publishes nor its heartbeats."""
    async with _two(forwarder.url, broker.url, channel) as (cut, other):
        before = forwarder.connections
        assert before
        forwarder.swallow()
        other.publish(EVENTS)
        if publishing:
            cut.publish(EVENTS)
        assert await _seen(lambda: len(cut.got) > EVENTS), cut.core.state()
        assert forwarder.connections > before
        # after all that waited for it, so anything that was to come before it is missing for good
        for worker in (cut, other):
            worker.publish(1)
        sent = EVENTS + 2 if publishing else 2
        assert await _seen(lambda: len(cut.got) >= EVENTS + 2 and len(other.got) >= sent), cut.core.state()
        assert cut.got == list(range(EVENTS + 2))
        assert other.got == list(range(sent))
        assert not cut.core.unhealthy()
        assert not cut.core.away()
        assert cut.core.metrics.value("gaps") == 0
        assert cut.core.metrics.value("connects") == 2


async def test_a_connection_that_hands_over_no_messages_is_made_anew_and_nothing_is_lost(
    broker: Standalone, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker acknowledges what the worker publishes, heartbeats too, and the client library has it connected."""
    deaf: list[TopicReader] = []
    take = TopicReader.next

    def take_unless_deaf(self: TopicReader, milliseconds: int) -> tuple[str, Any] | None:
        answer = take(self, milliseconds)
        return None if self in deaf else answer

    monkeypatch.setattr(TopicReader, "next", take_unless_deaf)
    async with _two(broker.url, broker.url, channel) as (worker, other):
        core, first = worker.core, worker.core._link
        assert first is not None
        acknowledged = core.metrics.value("heartbeats_sent")
        deaf.append(first._reader)
        began = time.monotonic()
        other.publish(EVENTS)
        assert await _seen(lambda: core._link is not first), core.state()
        # not before it is sure: others are silent for as long as a heartbeat's interval
        assert time.monotonic() - began > core.settings.deaf_after - 2 * core.settings.heartbeat_interval
        assert core.metrics.value("heartbeats_sent") > acknowledged
        assert await _seen(lambda: len(worker.got) > EVENTS), core.state()
        other.publish(1)
        assert await _seen(lambda: len(worker.got) >= EVENTS + 2), core.state()
        assert worker.got == list(range(EVENTS + 2))
        assert not core.unhealthy()
        assert core.metrics.value("gaps") == 0
        assert core.metrics.value("connects") == 2
