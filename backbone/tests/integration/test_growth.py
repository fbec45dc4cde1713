"""Nothing grows with the number of events."""

from __future__ import annotations

import os

import pytest

from conftest import FleetMaker
from fleet import QUICK
from pulsar_broker import Standalone

EVENTS = int(os.environ.get("GROWTH_EVENTS", "50000"))


@pytest.mark.slow
def test_descriptors_threads_and_memory_do_not_grow(broker: Standalone, make_fleet: FleetMaker) -> None:
    fleet = make_fleet(broker.url, 1, {**QUICK, "AGENT_LOG": "WARNING"})
    (agent,) = fleet.agents
    # as many before, since memory is as much as so many waiting events once took
    fleet.publish(each=EVENTS, rate=0)
    fleet.wait_published()
    assert fleet.wait_received(EVENTS, 120)
    agent.ask(do="forget")
    before = agent.ask(do="usage")
    fleet.publish(each=EVENTS, rate=0)
    fleet.wait_published()
    assert fleet.wait_received(EVENTS, 300)
    # the broker's acknowledgements come on their own way, and may be later than the events
    assert fleet.wait_acknowledged(60)
    assert agent.ask(do="count")["state"]["counters"]["gaps"] == 0
    agent.ask(do="forget")
    after = agent.ask(do="usage")
    print(f"{EVENTS} events: {before} -> {after}")
    assert after["descriptors"] <= before["descriptors"] + 2
    assert after["threads"] <= before["threads"] + 2
    assert after["tasks"] <= before["tasks"] + 2
    # the allocator's own waste; the agent's list of received events was as long as this many entries a moment ago
    assert after["resident"] <= before["resident"] + 20 * 1024 * 1024
