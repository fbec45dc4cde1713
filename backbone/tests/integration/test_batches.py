"""Events that are published close to each other share entries of the topic, and none is lost at an entry's seams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.link import Link, make_client, make_reader, open_link
from opal_backbone.metrics import Metrics
from opal_backbone.reading import Position, Received
from opal_backbone.settings import Settings, load
from pulsar_broker import Standalone
from waiting import reach

LARGEST = 5 * 1024 * 1024
"""Bytes of a message that a broker takes, by default."""


def _settings(broker: Standalone, channel: str) -> Settings:
    return load({"OPAL_BROADCAST_URI": broker.url}, channel=channel)


@contextlib.asynccontextmanager
async def _core(settings: Settings) -> AsyncIterator[Core]:
    core = Core(settings, Metrics())
    core.start()
    await core.ready(30)
    try:
        yield core
    finally:
        await core.stop()


async def _publish(settings: Settings, count: int, together: int, pause: float = 0, others: int = 0) -> float:
    """Publish numbers, so many in one moment and a pause after each such lot; return how many seconds it all took.

    So many other workers were heard of before.
    """
    loop = asyncio.get_running_loop()
    async with _core(settings) as core:
        for number in range(others):
            core._tracker.announce(f"worker{number}", 0, time.monotonic())
        await asyncio.sleep(0.5)  # the core looks around four times a second
        began = loop.time()
        for number in range(count):
            core.publish(_event(number))
            if pause and number % together == together - 1:
                await asyncio.sleep(pause)
        await reach(lambda: core.metrics.value("published") == count)
        return loop.time() - began


def _event(data: Any) -> bytes:
    return wire.notification_payload("test", ["t"], data)


async def _read(settings: Settings, start: Position | str, until: int) -> list[tuple[int, Received]]:
    """Read events from `start` on, up to the one that carries `until`; with what each carries."""
    link = Link(make_client(settings), asyncio.get_running_loop())
    await make_reader(link, settings, start)  # type: ignore[arg-type]
    found: list[tuple[int, Received]] = []
    while not found or found[-1][0] != until:
        message = await link.read_one(10)
        assert message is not None, f"nothing after {[number for number, _ in found]}"
        data = json.loads(message.payload)["data"]
        if isinstance(data, int):
            found.append((data, message))
    link.abandon()
    return found


async def test_many_events_take_few_entries_and_keep_their_order(broker: Standalone, channel: str) -> None:
    settings = _settings(broker, channel)
    await _publish(settings, 300, together=20, pause=0.001)
    found = await _read(settings, "earliest", 299)
    assert [number for number, _ in found] == list(range(300))
    entries = {message.position.key[:2] for _, message in found}
    assert len(entries) < 150, "events were not put together"
    keys = [message.position.key for _, message in found]
    assert keys == sorted(set(keys)), "two events have one place, or one out of order"


async def test_events_of_one_moment_are_one_entry(broker: Standalone, channel: str) -> None:
    settings = _settings(broker, channel)
    await _publish(settings, 100, together=100)
    found = await _read(settings, "earliest", 99)
    assert len({message.position.key[:2] for _, message in found}) == 1


@pytest.mark.parametrize(("others", "distance"), [(0, 0.04), (20, 0.1), (99, 0.2)])
async def test_entries_of_several_events_keep_a_distance(
    broker: Standalone, channel: str, others: int, distance: float
) -> None:
    settings = _settings(broker, channel)
    took = await _publish(settings, 400, together=2, pause=0.005, others=others)
    found = await _read(settings, "earliest", 399)
    assert [number for number, _ in found] == list(range(400))
    entries = Counter(message.position.key[:2] for _, message in found)
    assert sum(count > 1 for count in entries.values()) <= took / distance + 1


@pytest.mark.parametrize(("others", "distance"), [(0, 0.04), (39, 0.2), (99, 0.2)])
async def test_the_distance_suits_the_number_of_workers(
    broker: Standalone, channel: str, others: int, distance: float
) -> None:
    async with _core(_settings(broker, channel)) as core:
        for number in range(others):
            core._tracker.announce(f"worker{number}", 0, time.monotonic())
        await reach(lambda: core._link is not None and core._link._lot_distance == pytest.approx(distance), 2)


async def test_a_full_window_waits_for_nothing(broker: Standalone, channel: str) -> None:
    environ = {"OPAL_BROADCAST_URI": broker.url, "OPAL_BACKBONE_IN_FLIGHT": "4"}
    settings = load(environ, channel=channel)
    took = await _publish(settings, 400, together=400, others=99)
    assert [number for number, _ in await _read(settings, "earliest", 399)] == list(range(400))
    # at the distance of entries that may still grow, these hundred would take 20 s
    assert took < 10


async def test_an_event_alone_waits_for_nothing(broker: Standalone, channel: str) -> None:
    async with _core(_settings(broker, channel)) as core:
        loop = asyncio.get_running_loop()
        slow = []
        for number in range(1, 31):
            began = loop.time()
            core.publish(_event(number))
            await reach(
                lambda number=number: core.metrics.value("published") == number,  # type: ignore[misc]
                every=0.02,
            )
            slow.append(loop.time() - began)
            await asyncio.sleep(0.02)
        # that is, in the first or second look
        assert sorted(slow)[15] < 0.045


async def test_a_message_whose_publisher_waits_for_it_goes_out_at_once(broker: Standalone, channel: str) -> None:
    settings = _settings(broker, channel)
    loop = asyncio.get_running_loop()
    link = await open_link(settings, None, (b"{}", {}))
    took = []
    for _ in range(5):
        began = loop.time()
        await link.publish(b"{}", settings)
        took.append(loop.time() - began)
    await link.close(2)
    assert sorted(took)[2] < 0.5


async def test_a_topic_of_another_tenant_and_namespace(broker: Standalone, channel: str) -> None:
    broker.topic_admin("PUT", "tenants/acme", '{"allowedClusters": ["standalone"]}')
    broker.topic_admin("PUT", "namespaces/acme/authz", "{}")
    settings = _settings(broker, f"acme/authz/{channel}")
    await _publish(settings, 10, together=10)
    assert [number for number, _ in await _read(settings, "earliest", 9)] == list(range(10))
    assert f"persistent://acme/authz/{channel}" in broker.topic_admin("GET", "persistent/acme/authz")


async def test_reading_goes_on_in_the_middle_of_a_batch(broker: Standalone, channel: str) -> None:
    settings = _settings(broker, channel)
    await _publish(settings, 200, together=200)
    found = await _read(settings, "earliest", 199)
    inside = [
        (number, message)
        for (number, message), (_, after) in itertools.pairwise(found)
        if message.position.key[2] > 0 and after.position.key[:2] == message.position.key[:2]
    ]
    assert inside, "no event was inside a batch"
    for number, message in (inside[0], inside[len(inside) // 2], inside[-1]):
        again = await _read(settings, message.position, 199)
        # the last one taken comes first, so that it is known to be there still
        assert [each for each, _ in again] == list(range(number, 200))
        assert again[0][1].position.key == message.position.key
        link = await open_link(settings, message.position, (b"", {}))
        assert link.start.key == message.position.key
        link.abandon()


async def test_a_worker_that_reconnects_inside_a_batch_misses_and_repeats_nothing(
    broker: Standalone, channel: str
) -> None:
    settings = _settings(broker, channel)
    got: list[int] = []

    async with _core(settings) as sender, _core(settings) as receiver:

        def stream(text: str | None) -> None:
            assert text is not None, "there was a gap"
            got.append(json.loads(text)["data"])
            if len(got) % 97 == 0:  # wherever that is: the rest of what has been read already is thrown away
                assert receiver._link is not None
                receiver._link.pause()
                receiver._unread.clear()
                receiver._break(receiver._link, "the test wants a new connection")

        receiver.attach(stream)
        sender.attach(lambda _text: None)
        for number in range(400):
            sender.publish(_event(number))
        await reach(lambda: len(got) >= 400, 60)
        await asyncio.sleep(0.3)
        assert receiver.metrics.value("connects") == 5
        assert receiver.metrics.value("gaps") == 0
    assert got == list(range(400))


async def test_one_event_at_a_time_is_enough(broker: Standalone, channel: str) -> None:
    settings = load({"OPAL_BROADCAST_URI": broker.url, "OPAL_BACKBONE_IN_FLIGHT": "1"}, channel=channel)
    async with _core(settings) as core:
        for number in range(50):
            core.publish(_event(number))
        # well before the watchdog would make a new connection
        await reach(lambda: core.metrics.value("published") == 50, 5)
        assert core.metrics.value("connects") == 1
    found = await _read(settings, "earliest", 49)
    assert [number for number, _ in found] == list(range(50))


async def test_an_event_that_no_broker_takes_spoils_none_beside_it(broker: Standalone, channel: str) -> None:
    settings = _settings(broker, channel)
    async with _core(settings) as core:
        for number in range(5):
            core.publish(_event(number))
        core.publish(_event("x" * (LARGEST + 1)))
        for number in range(5, 10):
            core.publish(_event(number))
        await reach(lambda: core.metrics.value("published") + core.metrics.value("given_up") == 11)
        assert core.metrics.value("given_up") == 1
        assert core.metrics.value("connects") == 1
    found = await _read(settings, "earliest", 9)
    assert [number for number, _ in found] == list(range(10))
