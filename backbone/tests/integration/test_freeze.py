"""OPAL's freeze means what OPAL means by it, and costs no event: held for the whole fleet, and topics are exempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent import TOPIC, Agent
from fleet import QUICK
from pulsar_broker import Standalone
from waiting import until

EVENTS = 100


@pytest.fixture
async def workers(
    broker: Standalone, channel: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Agent, Agent]]:
    """Two workers, in this process, that listen."""
    where = {"OPAL_BROADCAST_URI": broker.url, "OPAL_BROADCAST_CHANNEL_NAME": channel}
    for name, value in {**QUICK, **where, "AGENT_NAME": "agent"}.items():
        monkeypatch.setenv(name, value)
    one, two = Agent(), Agent()
    for agent in (one, two):
        await agent.start()
    for agent in (one, two):
        assert (await agent.answer({"do": "ready"}))["ready"]
    yield one, two
    for agent in (one, two):
        await agent.stop()


async def _listen(agent: Agent, topic: str) -> list[Any]:
    got: list[Any] = []

    async def note(_subscription: Any, data: Any) -> None:
        got.append(data)

    await agent.notifier.subscribe("listener", [topic], note)
    return got


def _numbers(agent: Agent) -> list[int]:
    return [number for _, number, *_ in agent.received]


async def test_what_is_published_in_opals_gap_is_held_and_reaches_everybody_once(
    workers: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is well; OPAL's reader has been told of a gap, and does not listen again yet."""
    one, two = workers
    await one.publish(0, EVENTS, 0, 0)
    assert await until(lambda: len(two.received) == EVENTS and not one.core.has_deferred)

    listen_again = asyncio.Event()
    monkeypatch.setattr(one.core, "ready", lambda _timeout: listen_again.wait())
    one.core._gap("the test wants it so")
    assert await until(one.broadcaster.is_in_backbone_gap)
    await one.publish(EVENTS, EVENTS, 0, 0)
    # the broker has them, and so have the others
    assert await until(lambda: len(two.received) == 2 * EVENTS and not one.core.away())
    assert one.broadcaster.is_in_backbone_gap()
    assert _numbers(one) == list(range(EVENTS))

    # what is published while they are on their way overtakes none of them
    listen_again.set()
    number = 2 * EVENTS
    while one.core.has_deferred and number < 5 * EVENTS:
        await one.publish(number, 1, 0, 0)
        number += 1
        await asyncio.sleep(0.02)
    await one.publish(number, EVENTS, 0, 0)
    number += EVENTS
    assert await until(lambda: len(one.received) >= number and len(two.received) >= number)
    assert await until(lambda: one.resyncs > 0)
    await asyncio.sleep(0.5)  # for repetitions to show themselves
    assert _numbers(one) == list(range(number))
    assert _numbers(two) == list(range(number))
    assert (one.resyncs, two.resyncs) == (1, 0)


async def test_the_first_that_is_not_held_overtakes_none_that_was(
    workers: tuple[Agent, Agent], broker: Standalone
) -> None:
    one, _ = workers
    broker.freeze()
    try:
        assert await until(lambda: bool(one.core.away()))
        await one.publish(0, 1, 0, 0)
        assert one.core.has_deferred
    finally:
        broker.thaw()
    # looked at in every turn of the loop, to be there in the very turn in which holding ends
    assert await until(lambda: not one.core.has_deferred, 60, every=0)
    await one.endpoint.publish([TOPIC], {"from": "agent", "n": 1, "t": 0})
    assert one.core.metrics.value("deferred") == 1
    assert await until(lambda: len(one.received) == 2)
    assert _numbers(one) == [0, 1]


async def test_an_exempt_topic_is_not_held_while_the_broker_is_away(
    workers: tuple[Agent, Agent], broker: Standalone
) -> None:
    one, two = workers
    exempt, exempt_of_two = await _listen(one, "__keepalive"), await _listen(two, "__keepalive")
    broker.freeze()
    try:
        assert await until(lambda: bool(one.core.away()))
        await one.publish(0, 1, 0, 0)
        await one.endpoint.publish(["__keepalive"], "exempt")
        await one.endpoint.publish("__keepalive", "exempt too")
        # before anything else has its turn on the loop, and long before the broker is back
        assert exempt == ["exempt", "exempt too"]
        assert one.core.metrics.value("deferred") == 1
        assert one.received == []
    finally:
        broker.thaw()
    assert await until(lambda: bool(one.received and two.received) and len(exempt_of_two) >= 2)
    await asyncio.sleep(0.5)  # for repetitions to show themselves
    assert (_numbers(one), _numbers(two)) == ([0], [0])
    assert exempt == exempt_of_two == ["exempt", "exempt too"]


async def test_a_topic_among_others_that_are_exempt_is_held_with_them(
    workers: tuple[Agent, Agent], broker: Standalone
) -> None:
    """As OPAL does: an event is exempt only if all of its topics are."""
    one, two = workers
    exempt = await _listen(one, "__keepalive")
    broker.freeze()
    try:
        assert await until(lambda: bool(one.core.away()))
        await one.endpoint.publish(["__keepalive", TOPIC], {"from": "agent", "n": 0, "t": 0})
        assert one.core.metrics.value("deferred") == 2
        assert (exempt, one.received) == ([], [])
    finally:
        broker.thaw()
    assert await until(lambda: bool(exempt and one.received and two.received))
    await asyncio.sleep(0.5)  # for repetitions to show themselves
    assert len(exempt) == 1
    assert (_numbers(one), _numbers(two)) == ([0], [0])
