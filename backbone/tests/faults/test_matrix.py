"""The fault matrix with the product's default settings: 10,000 events under each fault, none lost.

Each test appends what it saw to faults.md in the directory that FAULTS_REPORT names (the working directory by default).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from conftest import FleetMaker
from faults.conftest import Island
from fleet import AgentProcess, Fleet, Tally
from pulsar_broker import Standalone
from pulsar_cluster import Cluster

EVENTS = int(os.environ.get("FAULTS_EVENTS", "10000"))
AGENTS = 4
RATE = 25.0  # per agent and second
REPORT = Path(os.environ.get("FAULTS_REPORT", ".")) / "faults.md"


def report(fault: str, tallies: list[Tally]) -> None:
    if not REPORT.exists():
        REPORT.write_text(
            "| fault | events | delivered to each worker | lost | duplicates delivered | out of order | longest delay s"
            " | sent again |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        )
    delivered = ", ".join(map(str, sorted({t.delivered for t in tallies})))
    with REPORT.open("a") as file:
        file.write(
            f"| {fault} | {max(t.expected for t in tallies)} | {delivered} | {sum(t.lost for t in tallies)}"
            f" | {sum(t.duplicates for t in tallies)} | {sum(t.out_of_order for t in tallies)}"
            f" | {max(t.longest_delay for t in tallies):.1f} | {sum(t.retried for t in tallies)} |\n"
        )


def assert_lossless(fault: str, fleet: Fleet, agents: list[AgentProcess] | None = None, timeout: float = 240) -> None:
    arrived = fleet.wait_received(sum(fleet.published.values()), timeout, agents)
    tallies = fleet.tally(agents)
    report(fault, tallies)
    for tally in tallies:
        print(tally)
    assert arrived, tallies
    assert [tally.lost for tally in tallies] == [0] * len(tallies)
    assert [tally.out_of_order for tally in tallies] == [0] * len(tallies)
    assert [tally.gaps for tally in tallies] == [0] * len(tallies)


def begin(fleet: Fleet) -> None:
    fleet.publish(each=EVENTS // len(fleet.agents), rate=RATE)
    time.sleep(10)


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_broker_killed_and_back(broker: Standalone, make_fleet: FleetMaker, mode: str) -> None:
    fleet = make_fleet(broker.url, AGENTS, {"OPAL_BACKBONE_WHILE_AWAY": mode})
    begin(fleet)
    broker.kill()
    time.sleep(15)
    broker.start()
    broker.wait_healthy()
    fleet.wait_published()
    assert_lossless(f"broker killed with -9, back after 15 s and its own start ({mode})", fleet)


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_broker_frozen_for_a_minute(broker: Standalone, make_fleet: FleetMaker, mode: str) -> None:
    fleet = make_fleet(broker.url, AGENTS, {"OPAL_BACKBONE_WHILE_AWAY": mode})
    begin(fleet)
    broker.freeze()
    time.sleep(60)
    broker.thaw()
    fleet.wait_published()
    assert_lossless(f"broker frozen for 60 s ({mode})", fleet)


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_one_host_cut_off_for_a_minute(
    near_broker: Standalone, island: Island, channel: str, tmp_path: Path, mode: str
) -> None:
    settings = {"OPAL_BACKBONE_WHILE_AWAY": mode}
    fleet = Fleet(
        [AgentProcess(f"near{n}", near_broker.url, channel, tmp_path, settings) for n in range(2)]
        + [AgentProcess(f"far{n}", near_broker.url, channel, tmp_path, settings, island.prefix) for n in range(2)]
    )
    try:
        fleet.ready()
        begin(fleet)
        island.cut()
        time.sleep(60)
        island.heal()
        fleet.wait_published()
        assert_lossless(f"one of two hosts cut off for 60 s, packets dropped ({mode})", fleet)
    finally:
        island.heal()
        fleet.close()


def test_topic_moves_between_brokers(cluster: Cluster, make_fleet: FleetMaker, channel: str) -> None:
    fleet = make_fleet(cluster.url, AGENTS)
    begin(fleet)
    owners = [cluster.owner(channel)]
    for _ in range(8):
        cluster.move_topics()
        time.sleep(8)
        owners.append(cluster.owner(channel))
    fleet.wait_published()
    assert len(set(owners)) == 2, f"the topic never moved: {owners[0]}"
    assert_lossless("topic unloaded from its broker 8 times, with two brokers", fleet)


def test_one_broker_after_the_other_restarted(cluster: Cluster, make_fleet: FleetMaker) -> None:
    from pulsar_broker import wait_healthy

    fleet = make_fleet(cluster.url, AGENTS)
    begin(fleet)
    for process, web in zip(cluster.brokers, cluster.webs, strict=True):
        process.terminate()
        time.sleep(5)
        process.start()
        wait_healthy(web, 180, process)
        time.sleep(5)
    fleet.wait_published()
    assert_lossless("two brokers restarted one after the other", fleet)


@pytest.mark.parametrize(("killed", "what"), [(1, "worker"), (2, "host of two workers")])
def test_killed_and_replaced(broker: Standalone, make_fleet: FleetMaker, killed: int, what: str) -> None:
    fleet = make_fleet(broker.url, AGENTS)
    staying, victims = fleet.agents[:-killed], fleet.agents[-killed:]
    begin(fleet)
    time.sleep(5)
    for victim in victims:
        victim.kill()
    time.sleep(3)
    # A new life goes on where any of the others was told last: what only some were told, or later, shows as lost or
    # out of order.
    told = [event for agent in staying for event in agent.ask(do="report")["received"]]
    lives = Fleet(victims, {v.name: 1 + max(n for sender, n, *_ in told if sender == v.name) for v in victims})
    for victim in victims:
        victim.restart()
    lives.ready(60)
    alive_from = time.time()
    for victim in victims:
        first = lives.published[victim.name]
        Fleet([victim], {victim.name: first}).publish(each=EVENTS // AGENTS - first, rate=RATE)
    fleet.wait_published()
    assert_lossless(f"{what} killed with -9 and replaced (the others)", fleet, staying)
    # the replacements have everything that was published in their new life
    due = {(sender, n) for sender, n, sent, _ in staying[0].ask(do="report")["received"] if sent >= alive_from}
    assert len(due) > EVENTS // 2
    for victim in victims:
        assert due <= {(sender, n) for sender, n, *_ in victim.ask(do="report")["received"]}


def test_host_restarted(broker: Standalone, make_fleet: FleetMaker) -> None:
    fleet = make_fleet(broker.url, AGENTS)
    staying, host = Fleet(fleet.agents[:2]), Fleet(fleet.agents[2:])
    staying.publish(each=EVENTS // 4, rate=RATE)
    # as fast as possible, so that the stop finds a full buffer to publish
    host.publish(each=EVENTS // 4, rate=0)
    host.wait_published()
    for agent in host.agents:
        ended = agent.stop()
        assert ended["left"] == 0
        assert ended["seconds"] < 10
    for agent in host.agents:
        agent.restart()
    host.ready()
    staying.wait_published()
    staying.published.update(host.published)
    assert_lossless("one of two hosts restarted while its buffer was full (the other host)", staying)
