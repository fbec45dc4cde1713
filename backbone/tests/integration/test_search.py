"""An event that the client library or a broker does not hand over is found by reading the topic again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.link import Link
from opal_backbone.metrics import Metrics
from opal_backbone.reading import Received
from opal_backbone.settings import load
from pulsar_broker import Standalone

QUICK = {"OPAL_BACKBONE_GAP_GRACE": "0.5", "OPAL_BACKBONE_HEARTBEAT_INTERVAL": "1", "OPAL_BACKBONE_DEAF_AFTER": "5"}


class ForgetfulCore(Core):
    """Never gets the messages of some numbers the first time, or ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.forget: set[int] = set()
        self.for_good = False

    def _handle(self, message: Received, *, again: bool) -> None:
        stamp = wire.read_stamp(message.properties)
        if stamp is not None and stamp.kind == "event" and stamp.number in self.forget:
            if not self.for_good:
                self.forget.discard(stamp.number)
            return
        super()._handle(message, again=again)


async def run(
    broker: Standalone, channel: str, forget: set[int], *, for_good: bool
) -> tuple[list[Any], dict[str, Any]]:
    settings = load({"OPAL_BROADCAST_URI": broker.url, **QUICK}, channel=channel)
    sender, receiver = Core(settings, Metrics()), ForgetfulCore(settings, Metrics())
    receiver.forget, receiver.for_good = forget, for_good
    got: list[Any] = []

    def stream(text: str | None) -> None:
        got.append(json.loads(text)["data"] if text is not None else "END")

    for core in (sender, receiver):
        core.start()
        await core.ready(30)
    receiver.attach(stream)
    sender.attach(lambda _text: None)
    for number in range(1, 21):
        sender.publish(wire.notification_payload("sender", ["t"], number))
        await asyncio.sleep(0.01)
    expected = 21 if for_good else 20
    for _ in range(300):
        if len(got) >= expected:
            break
        await asyncio.sleep(0.1)
    state = receiver.state()["counters"]
    await sender.stop()
    await receiver.stop()
    return got, state


async def test_what_was_not_handed_over_is_found(broker: Standalone, channel: str) -> None:
    got, counters = await run(broker, channel, {5, 6, 12}, for_good=False)
    assert sorted(got) == list(range(1, 21))
    assert counters["searches"] == 1
    assert counters["gaps"] == 0


async def test_what_is_not_in_the_topic_either_is_a_gap(broker: Standalone, channel: str) -> None:
    got, counters = await run(broker, channel, {5}, for_good=True)
    assert got[-1] == "END"
    assert sorted(got[:-1]) == [number for number in range(1, 21) if number != 5]
    assert counters["searches"] == 1
    assert counters["gaps"] == 1
    assert counters["missed"] == 1


async def test_a_first_event_of_ones_own_that_was_held_and_is_not_handed_over_is_found(
    broker: Standalone, channel: str
) -> None:
    core = ForgetfulCore(load({"OPAL_BROADCAST_URI": broker.url, **QUICK}, channel=channel), Metrics())
    core.forget = {1}
    got: list[str | None] = []

    def stream(text: str | None) -> None:
        got.append(text)
        core.deferred_delivered()

    core.attach(stream)
    core.start()
    await core.ready(30)
    core.publish(wire.notification_payload("own", ["t"], 1), echo=True)
    async with asyncio.timeout(20):
        while core.has_deferred:
            await asyncio.sleep(0.1)
    assert len(got) == 1
    assert core.metrics.value("searches") == 1
    assert core.metrics.value("gaps") == 0
    await core.stop()


class RecordingCore(Core):
    """Remembers what its connections handed to it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.taken: list[tuple[Link, list[Received]]] = []

    def _take(self, link: Link, messages: list[Received]) -> None:
        self.taken.append((link, messages))
        super()._take(link, messages)


async def test_a_connection_that_is_let_go_moves_no_place(broker: Standalone, channel: str) -> None:
    core = RecordingCore(load({"OPAL_BROADCAST_URI": broker.url, **QUICK}, channel=channel), Metrics())
    core.start()
    await core.ready(30)
    core.attach(lambda _text: None)
    core.publish(wire.notification_payload("sender", ["t"], 1))
    async with asyncio.timeout(10):
        while core.metrics.value("received") < 1:
            await asyncio.sleep(0.01)
    link, messages = core.taken[-1]
    # where a search for something missing reads again from
    before = core._position = core.taken[0][1][0].position
    core._break(link, "a search begins")
    # in the same turn of the loop a listener comes, and what was under way arrives
    core.attach(lambda _text: None)
    core._go_on()
    core._take(link, messages)
    assert core._position == before
    await core.stop()
