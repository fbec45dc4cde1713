"""A connection is made again, whatever went wrong with the last one."""

from __future__ import annotations

from typing import Any

import pytest

from opal_backbone.core import Core
from opal_backbone.link import Link, open_link
from opal_backbone.metrics import Metrics
from opal_backbone.settings import load
from pulsar_broker import Standalone
from waiting import reach


async def _connects(broker: Standalone, channel: str) -> Core:
    core = Core(load({"OPAL_BROADCAST_URI": broker.url}, channel=channel), Metrics())
    core.attach(lambda _text: None)
    core.start()
    await reach(lambda: core.metrics.value("heartbeats_received") > 0)
    await core.stop()
    return core


async def test_after_an_attempt_that_ended_in_a_surprise(
    broker: Standalone, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    async def surprising(*arguments: Any) -> Link:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("can't start new thread")
        return await open_link(*arguments)

    monkeypatch.setattr("opal_backbone.core.open_link", surprising)
    core = await _connects(broker, channel)
    assert core.metrics.value("connect_failures") == 1


async def test_after_one_that_could_not_be_taken_up(
    broker: Standalone, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def read(link: Link, *arguments: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("can't start new thread")
        original(link, *arguments)

    original = Link.read
    monkeypatch.setattr(Link, "read", read)
    core = await _connects(broker, channel)
    assert core.metrics.value("connects") == 2
