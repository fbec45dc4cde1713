"""Real gaps are told to OPAL, so that it replays and resynchronises; everything less is bridged without a word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path

import pytest

from conftest import FleetMaker
from fleet import QUICK, AgentProcess, Fleet
from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.outbox import BufferFullError
from opal_backbone.settings import load
from opal_backbone.spool import Kept, Spool
from pulsar_broker import Standalone, running
from waiting import reach


def test_events_that_went_with_their_topic_are_a_gap(broker: Standalone, make_fleet: FleetMaker, channel: str) -> None:
    """A worker stands still while events are published, and the topic is deleted before it has read them."""
    fleet = make_fleet(broker.url, 2, QUICK)
    fleet.publish(each=50, rate=0)
    assert fleet.wait_received(100, 30)
    still, other = fleet.agents
    still.process.send_signal(signal.SIGSTOP)
    try:
        # more than the client library has room for
        alone = Fleet([other], dict(fleet.published))
        alone.publish(each=3000, rate=0)
        alone.wait_published()
        assert alone.wait_acknowledged(60)
        broker.topic_admin("DELETE", f"persistent/public/default/{channel}?force=true")
        time.sleep(2)
    finally:
        still.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not still.ask(do="count")["resyncs"]:
        time.sleep(0.3)
    answer = still.ask(do="count")
    assert answer["state"]["counters"]["gaps"] >= 1, answer["state"]
    assert answer["resyncs"] >= 1
    # and life goes on
    before = answer["received"]
    Fleet([other], {other.name: 4000}).publish(each=20, rate=0)
    assert Fleet([still]).wait_received(before + 20, 30)


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_refused_events_are_replayed_by_opal_and_clients_resynchronised(
    broker: Standalone, make_fleet: FleetMaker, mode: str
) -> None:
    settings = {**QUICK, "OPAL_BACKBONE_BUFFER_EVENTS": "50", "OPAL_BACKBONE_WHILE_AWAY": mode}
    fleet = make_fleet(broker.url, 2, settings)
    broker.freeze()
    try:
        fleet.publish(each=200, rate=50)
        fleet.wait_published()
        state = fleet.agents[0].ask(do="count")["state"]
        assert state["waiting"] == 50
        assert state["counters"]["refused"] == 150
    finally:
        broker.thaw()
    assert fleet.wait_received(400, 60)
    tallies = fleet.tally()
    assert [tally.lost for tally in tallies] == [0, 0]
    assert all(tally.gaps >= 1 and tally.resyncs >= 1 for tally in tallies)


async def test_refused_events_are_told_when_somebody_listens(broker: Standalone, channel: str) -> None:
    """A worker starts while the broker is away, and OPAL begins to listen only after the broker is back."""
    environ = {"OPAL_BROADCAST_URI": broker.url, **QUICK, "OPAL_BACKBONE_BUFFER_EVENTS": "5"}
    core = Core(load(environ, channel=channel), Metrics())
    broker.freeze()
    try:
        core.start()
        for number in range(10):
            with contextlib.suppress(BufferFullError):
                core.publish(wire.notification_payload("test", ["t"], number))
        await asyncio.sleep(2)
    finally:
        broker.thaw()
    await core.ready(30)
    await reach(lambda: core.metrics.value("published") == 5)
    await asyncio.sleep(1)
    ended: list[str | None] = []
    core.attach(ended.append)
    await reach(lambda: None in ended, 5)
    assert core.metrics.value("refused") == 5
    await core.stop()


async def test_an_event_larger_than_the_buffer_is_no_gap_without_end(broker: Standalone, channel: str) -> None:
    environ = {"OPAL_BROADCAST_URI": broker.url, **QUICK, "OPAL_BACKBONE_BUFFER_BYTES": "1024"}
    core = Core(load(environ, channel=channel), Metrics())
    core.attach(lambda _text: None)
    core.start()
    await core.ready(30)
    core.publish(wire.notification_payload("test", ["t"], "x" * 5000))
    await reach(lambda: core.metrics.value("published") == 1)
    await asyncio.sleep(1)
    assert core.metrics.value("gaps") == 0
    await core.stop()


def test_a_worker_that_stood_still_misses_nothing(broker: Standalone, make_fleet: FleetMaker) -> None:
    fleet = make_fleet(broker.url, 2, QUICK)
    still, other = fleet.agents
    still.process.send_signal(signal.SIGSTOP)
    try:
        Fleet([other]).publish(each=300, rate=50)
        time.sleep(10)
    finally:
        still.process.send_signal(signal.SIGCONT)
    assert fleet.wait_received(300, 40)
    assert still.ask(do="count")["state"]["counters"]["gaps"] == 0


def test_malformed_messages_are_skipped_and_foreign_ones_taken(
    broker: Standalone, make_fleet: FleetMaker, channel: str
) -> None:
    import _pulsar
    import pulsar

    fleet = make_fleet(broker.url, 1, QUICK)
    (agent,) = fleet.agents
    client = pulsar.Client(broker.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    producer = client.create_producer(channel)
    for garbage in (b"", b"\xff\xfe", b"{", b"[1]", b'{"notifier_id": "x"}', b'{"notifier_id": "x"}', b"\x00" * 1000):
        producer.send(garbage)
    producer.send(b"{}", properties={"opal-backbone-publisher": "liar"})
    # pulsar-client's own producer takes text only, other clients send what they are given
    builder = _pulsar.MessageBuilder()
    builder.content(b"{}")
    builder.property("name", b"\xff")
    producer._producer.send(builder.build())
    # a foreign publisher that batches, as pulsar-client's asyncio producer does by default
    batching = client.create_producer(channel, batching_enabled=True, batching_max_publish_delay_ms=50)
    for number in range(20):
        body = f'{{"notifier_id": "foreign", "topics": ["fleet/test"], "data": {{"from": "f", "n": {number}, "t": 0}}}}'
        batching.send_async(body.encode(), lambda _result, _id: None)
    batching.flush()
    assert fleet.wait_received(20, 20)
    state = agent.ask(do="count")["state"]
    assert state["counters"]["malformed"] == 9
    assert state["counters"]["delivered"] == 20
    text = agent.log.read_text()
    assert text.count("skipped (no topics") == 1
    assert "not UTF-8" in text
    assert "bad stamp" in text
    client.close()


@pytest.mark.parametrize("mode", ["hold", "local-first"])
def test_what_a_stop_could_not_publish_is_published_by_the_next_start(
    broker: Standalone, channel: str, tmp_path: Path, mode: str
) -> None:
    settings = {
        **QUICK,
        "OPAL_BACKBONE_SPOOL_DIR": str(tmp_path / "spool"),
        "OPAL_BACKBONE_STOP_TIMEOUT": "2",
        "OPAL_BACKBONE_WHILE_AWAY": mode,
    }
    fleet = Fleet([AgentProcess(f"agent{n}", broker.url, channel, tmp_path, settings) for n in range(2)])
    try:
        fleet.ready()
        stopping, staying = fleet.agents
        broker.freeze()
        try:
            host = Fleet([stopping])
            host.publish(each=100, rate=0)
            host.wait_published()
            ended = stopping.stop()
            assert ended["left"] == 100
            assert ended["seconds"] < 10
            assert len(list((tmp_path / "spool").glob("*.batch"))) == 1
        finally:
            broker.thaw()
        stopping.restart()
        host.ready()
        staying_only = Fleet([staying])
        assert staying_only.wait_received(100, 60)
        staying_only.published = host.published
        (tally,) = staying_only.tally()
        assert (tally.lost, tally.out_of_order) == (0, 0)
        assert list((tmp_path / "spool").iterdir()) == []
    finally:
        fleet.close()


def _files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_stops_during_an_outage_keep_each_event_once(broker: Standalone, channel: str, tmp_path: Path) -> None:
    """Also where a later life of the worker may hold fewer events than an earlier one left behind."""
    spool = tmp_path / "spool"

    def life(events: int) -> Core:
        environ = {
            "OPAL_BROADCAST_URI": broker.url,
            "OPAL_BACKBONE_SPOOL_DIR": str(spool),
            "OPAL_BACKBONE_STOP_TIMEOUT": "1",
            "OPAL_BACKBONE_BUFFER_EVENTS": str(events),
        }
        return Core(load(environ, channel=channel), Metrics())

    def kept() -> int:
        return sum(len(path.read_text().splitlines()) for path in spool.iterdir())

    first = life(1000)
    first.start()
    await first.ready(30)
    broker.freeze()
    try:
        for number in range(300):
            first.publish(wire.notification_payload("test", ["t"], number))
        assert await first.stop() == 300
        for _ in range(3):
            again = life(100)
            again.start()
            await asyncio.sleep(0.5)
            assert again.state()["waiting"] == 100
            await again.stop()
            assert kept() == 300
            assert len(list(spool.iterdir())) == 1
    finally:
        broker.thaw()
    got: list[int] = []
    receiver, last = Core(load({"OPAL_BROADCAST_URI": broker.url}, channel=channel), Metrics()), life(100)
    receiver.attach(lambda text: got.append(json.loads(text or "null")["data"]))
    receiver.start()
    await receiver.ready(30)
    last.start()
    # its own events take turns with them, and never leave it idle
    async with asyncio.timeout(60):
        while _files(spool):
            with contextlib.suppress(BufferFullError):
                last.publish(wire.notification_payload("test", ["t"], -1))
            await asyncio.sleep(0.0005)
    await reach(lambda: len([number for number in got if number >= 0]) >= 300, 40)
    await receiver.stop()
    await last.stop()
    assert [number for number in got if number >= 0] == list(range(300))


async def test_a_kept_event_that_no_broker_takes_hides_none_of_the_same_number(
    broker: Standalone, channel: str, tmp_path: Path
) -> None:
    too_large = wire.notification_payload("test", ["t"], "x" * (5 * 1024 * 1024))
    Spool(str(tmp_path)).save([Kept(too_large, time.time(), "one that is no more", 1)])
    environ = {"OPAL_BROADCAST_URI": broker.url, "OPAL_BACKBONE_SPOOL_DIR": str(tmp_path)}
    core = Core(load(environ, channel=channel), Metrics())
    got: list[str | None] = []
    core.attach(got.append)
    core.start()
    core.publish(wire.notification_payload("test", ["t"], "held back"), echo=True)
    await reach(lambda: bool(got))
    assert core.metrics.value("given_up") == 1
    assert not _files(tmp_path)
    await core.stop()


@pytest.mark.slow
def test_a_position_that_retention_has_taken_is_a_gap(channel: str, tmp_path: Path) -> None:
    """A broker that keeps nothing: what passes while a worker is away is gone, and the worker is told."""
    keeps_nothing = {
        "defaultRetentionTimeInMinutes": "0",
        "defaultRetentionSizeInMB": "0",
        "managedLedgerMaxEntriesPerLedger": "20",
        "managedLedgerMinLedgerRolloverTimeMinutes": "0",
        "retentionCheckIntervalInSeconds": "2",
        # lets the broker see soon that a worker which stands still is gone
        "keepAliveIntervalSeconds": "5",
    }
    with running(tmp_path / "pulsar", settings=keeps_nothing) as broker:
        fleet = Fleet([AgentProcess(f"agent{n}", broker.url, channel, tmp_path, QUICK) for n in range(2)])
        try:
            fleet.ready()
            away, other = fleet.agents
            away.process.send_signal(signal.SIGSTOP)
            time.sleep(15)  # longer than the broker keeps a silent connection
            # more than the client library had room for
            Fleet([other]).publish(each=1500, rate=150)
            time.sleep(20)
            away.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + 40
            while time.monotonic() < deadline and not away.ask(do="count")["resyncs"]:
                time.sleep(0.3)
            answer = away.ask(do="count")
            assert answer["state"]["counters"]["gaps"] >= 1, answer
            assert answer["resyncs"] >= 1
        finally:
            fleet.close()
