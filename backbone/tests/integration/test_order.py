"""What is read comes in the topic's order, however the threads of the client library take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opal_backbone.settings import load
from pulsar_broker import Standalone

TESTS = Path(__file__).resolve().parents[1]
FLOODS, LOTS, EACH, RATE = 3, 1000, 3, 300
"""How many publishers, lots of each, messages in a lot, and lots a second of each."""
TOTAL = FLOODS * LOTS * EACH


@pytest.fixture(scope="module")
def late_unlock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that has threads take turns in ways that are rare otherwise."""
    library = tmp_path_factory.mktemp("late") / "late_unlock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, TESTS / "late_unlock.c", "-ldl"], check=True)
    return library


def _follow(broker: Standalone, channel: str, late_unlock: Path, how: str) -> dict[str, Any]:
    log = late_unlock.with_name(f"{how}.log")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}",
        "LD_PRELOAD": str(late_unlock),
    }
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(TESTS / "follower.py"), broker.url, channel, str(TOTAL), how],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as follower,
    ):

        def said() -> str:
            assert follower.stdout is not None
            line = follower.stdout.readline()
            assert line, f"the follower ended with {follower.wait(60)}: {log.read_text()[-2000:]}"
            return line

        assert said() == "reading\n"
        topic = load({"OPAL_BROADCAST_URI": broker.url}, channel=channel).topic
        arguments = [broker.url, topic, str(LOTS), str(EACH), str(RATE)]
        floods = [subprocess.Popen([sys.executable, str(TESTS / "flood.py"), *arguments]) for _ in range(FLOODS)]
        assert [flood.wait(120) for flood in floods] == [0] * FLOODS
        found: dict[str, Any] = json.loads(said())
    return found


def test_no_message_overtakes_another(broker: Standalone, channel: str, late_unlock: Path) -> None:
    assert _follow(broker, channel, late_unlock, "ours") == {"came": TOTAL, "overtaken": 0}


def test_the_client_librarys_asynchronous_read_lets_messages_overtake(
    broker: Standalone, channel: str, late_unlock: Path
) -> None:
    """Shows that the test above would see it. Where this fails, the library was mended, and our reader may use it."""
    assert _follow(broker, channel, late_unlock, "library")["overtaken"] > 0
