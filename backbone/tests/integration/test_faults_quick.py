"""Short versions of the fault matrix: nothing is lost, in any mode, and the fleet recovers by itself."""

from __future__ import annotations

import time

import pytest

from conftest import FleetMaker
from fleet import QUICK, Fleet
from pulsar_broker import Standalone

RATE = 30.0


def assert_lossless(fleet: Fleet, total: int, timeout: float = 60) -> None:
    arrived = fleet.wait_received(total, timeout)
    tallies = fleet.tally()
    for tally in tallies:
        print(tally)
    assert arrived, tallies
    assert [tally.lost for tally in tallies] == [0] * len(tallies)
    assert [tally.duplicates for tally in tallies] == [0] * len(tallies)
    assert [tally.out_of_order for tally in tallies] == [0] * len(tallies)


def test_healthy(broker: Standalone, make_fleet: FleetMaker) -> None:
    fleet = make_fleet(broker.url, settings=QUICK)
    fleet.publish(each=200, rate=RATE)
    fleet.wait_published()
    assert_lossless(fleet, 800)


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_broker_killed(broker: Standalone, make_fleet: FleetMaker, mode: str) -> None:
    fleet = make_fleet(broker.url, settings={**QUICK, "OPAL_BACKBONE_WHILE_AWAY": mode})
    fleet.publish(each=400, rate=RATE)
    time.sleep(2)
    broker.kill()
    time.sleep(1.5)
    first = [agent.ask(do="count")["received"] for agent in fleet.agents]
    time.sleep(2)
    second = [agent.ask(do="count")["received"] for agent in fleet.agents]
    # the difference between the modes: nobody gets anything, or each worker's own clients get its own events
    assert (first == second) if mode == "hold" else all(a < b for a, b in zip(first, second, strict=True))
    broker.start()
    broker.wait_healthy()
    fleet.wait_published()
    assert_lossless(fleet, 1600)


@pytest.mark.parametrize("mode", ["hold", pytest.param("local-first", marks=pytest.mark.slow)])
def test_broker_frozen(broker: Standalone, make_fleet: FleetMaker, mode: str) -> None:
    fleet = make_fleet(broker.url, settings={**QUICK, "OPAL_BACKBONE_WHILE_AWAY": mode})
    fleet.publish(each=600, rate=RATE)
    time.sleep(2)
    broker.freeze()
    time.sleep(15)
    broker.thaw()
    fleet.wait_published()
    assert_lossless(fleet, 2400)
