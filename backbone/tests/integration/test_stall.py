"""Publishing waits for nothing while a broker stands still: the event loop goes on, and no thread waits instead."""

from __future__ import annotations

import time

import psutil
import pytest

from conftest import FleetMaker
from fleet import QUICK, Fleet
from pulsar_broker import Standalone

RATE = 100.0
"""Events per second of each worker."""
LEAST = 200
"""Events of each worker during the freeze, at least: fewer than half of those that are due."""
LONGEST_STALL = 1.0
"""Seconds; a call that waits for the broker would last for the rest of the freeze."""
MORE_THREADS = 2
"""How many may come for reasons of their own: the client library makes some when it first needs them."""


def _threads(fleet: Fleet) -> list[int]:
    # asked of the system: a worker that stands still would not answer
    return [psutil.Process(agent.process.pid).num_threads() for agent in fleet.agents]


def _publish_while_frozen(broker: Standalone, fleet: Fleet, seconds: float) -> tuple[list[int], list[int]]:
    """Have workers publish while the broker stands still; return their threads before, and the most of them."""
    fleet.publish(each=50, rate=0)
    assert fleet.wait_received(100, 30)
    for agent in fleet.agents:
        agent.ask(do="forget")
    before = most = _threads(fleet)
    broker.freeze()
    frozen = time.time()
    try:
        fleet.publish(each=round(RATE * seconds), rate=RATE)
        while time.time() - frozen < seconds:
            most = [max(pair) for pair in zip(most, _threads(fleet), strict=True)]
            time.sleep(0.1)
    finally:
        thawed = time.time()
        broker.thaw()
    fleet.wait_published()
    reports = [agent.ask(do="report") for agent in fleet.agents]
    print(f"threads {before} -> {most}, longest stalls {[report['stall'] for report in reports]}")
    assert fleet.wait_received(sum(fleet.published.values()) - 100, 60)
    for agent, report in zip(fleet.agents, reports, strict=True):
        assert report["stall"] < LONGEST_STALL
        meanwhile = [sent for sender, _, sent, _ in agent.ask(do="report")["received"] if sender == agent.name]
        assert sum(frozen < sent < thawed for sent in meanwhile) >= LEAST
    return before, most


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_while_a_connection_stands_still(broker: Standalone, make_fleet: FleetMaker, mode: str) -> None:
    """The freeze is shorter than the time after which the connection is made anew."""
    patient = {"OPAL_BACKBONE_ACK_TIMEOUT": "60", "OPAL_BACKBONE_DEAF_AFTER": "60"}
    fleet = make_fleet(broker.url, 2, {**QUICK, **patient, "OPAL_BACKBONE_WHILE_AWAY": mode})
    before, most = _publish_while_frozen(broker, fleet, 5)
    assert all(b <= a + MORE_THREADS for a, b in zip(before, most, strict=True))
    assert [agent.ask(do="count")["state"]["counters"]["connects"] for agent in fleet.agents] == [1, 1]


def test_while_connections_are_made_and_given_up(broker: Standalone, make_fleet: FleetMaker) -> None:
    """The freeze is long enough for several attempts, each with a client of its own, which takes its threads along."""
    hasty = {"OPAL_BACKBONE_ACK_TIMEOUT": "2", "OPAL_BACKBONE_OPERATION_TIMEOUT": "2"}
    fleet = make_fleet(broker.url, 2, {**QUICK, **hasty})
    before, most = _publish_while_frozen(broker, fleet, 12)
    print([agent.ask(do="count")["state"]["counters"]["connect_failures"] for agent in fleet.agents])
    assert all(b <= a + MORE_THREADS for a, b in zip(before, most, strict=True))
