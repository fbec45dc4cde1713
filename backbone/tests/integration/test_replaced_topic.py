"""A topic that gives way to another of its name, with earlier places, while the connection lasts.

A whole cluster that is replaced ends the connection. So here messages of an earlier topic, real ones, are handed to a
core as if they came from its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.link import Link, make_reader, open_link
from opal_backbone.metrics import Metrics
from opal_backbone.reading import Received
from opal_backbone.settings import Settings, load
from pulsar_broker import Standalone


class Earlier:
    """A topic whose places are before those of the topics made after it."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self._settings = settings
        self._link = link

    async def put(self, stamp: wire.Stamp, payload: bytes) -> Received:
        """Publish a message, and return it as it is read."""
        await self._link.publish(payload, self._settings, stamp.properties())
        message = await self._link.read_one(10)
        assert message is not None
        return message


@pytest.fixture
async def topics(broker: Standalone, channel: str) -> AsyncIterator[tuple[Earlier, Core]]:
    """Make an earlier topic, and a core for a later one that has not been started."""
    environ = {"OPAL_BROADCAST_URI": broker.url, "OPAL_BACKBONE_HEARTBEAT_INTERVAL": "1"}
    settings = load(environ, channel=f"{channel}-early")
    link = await open_link(settings, None, (b"{}", {}))
    await make_reader(link, settings, "latest")
    core = Core(load(environ, channel=channel), Metrics())
    yield Earlier(settings, link), core
    await core.stop()
    await link.close(2)


async def test_it_is_noticed_although_others_are_heard_first(topics: tuple[Earlier, Core]) -> None:
    earlier, core = topics
    ended: list[bool] = []
    core.attach(lambda text: ended.append(text is None))
    core.start()
    await core.ready(30)
    for number in range(99):  # in a fleet as large as this a worker may be silent for long
        core._tracker.announce(f"worker{number}", 0, time.monotonic())
    async with asyncio.timeout(20):
        while core._silence(time.monotonic()) < 5:
            await asyncio.sleep(0.1)
    link = core._link
    assert link is not None

    other = wire.Stamp("worker1", 1, "event", time.time())
    event = await earlier.put(other, wire.notification_payload("test", ["t"], 1))
    assert event.position.key < core._high
    core._take(link, [event])
    assert ended == [False], "the event was not handed on"

    sent = core.metrics.value("heartbeats_sent")
    async with asyncio.timeout(3):
        while core.metrics.value("heartbeats_sent") == sent:  # long before the fleet's size would have it
            core._take(link, [event])  # there are others to hear
            await asyncio.sleep(0.02)
    assert core._ticker is not None
    core._ticker.cancel()  # no other one is awaited now
    own = wire.Stamp(core.publisher_id, 0, "heartbeat", core._heartbeat_sent)
    heartbeat = await earlier.put(own, wire.heartbeat_payload(core.publisher_id))
    # the real one has come by meanwhile, so that reading goes back once more
    core._take(link, [event, heartbeat])
    assert ended == [False, True]
    assert "the topic starts anew" in core.state()["last_gap"]["reason"]
    assert core._link is link


async def test_it_is_told_once_where_a_new_connection_shows_it(topics: tuple[Earlier, Core]) -> None:
    """The first message of a new connection is an earlier one, and then comes this worker's heartbeat."""
    earlier, core = topics
    core.attach(lambda _text: None)
    core.start()
    await core.ready(30)
    async with asyncio.timeout(20):
        while not core.metrics.value("heartbeats_received"):
            await asyncio.sleep(0.1)
    link = core._link
    assert link is not None
    assert core._ticker is not None
    core._ticker.cancel()
    other = wire.Stamp("worker1", 1, "event", time.time())
    own = wire.Stamp(core.publisher_id, 0, "heartbeat", core._heartbeat_sent)
    event = await earlier.put(other, wire.notification_payload("test", ["t"], 1))
    heartbeat = await earlier.put(own, wire.heartbeat_payload(core.publisher_id))
    core._position_checked = False
    core._take(link, [event])
    core.attach(lambda _text: None)
    core._process()
    core._take(link, [heartbeat])
    assert core.metrics.value("gaps") == 1
