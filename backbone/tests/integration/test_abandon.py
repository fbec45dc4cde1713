"""A link that is given up while its answers arrive takes nothing with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pulsar_broker import Standalone

TESTS = Path(__file__).resolve().parents[1]


def test_a_worker_that_abandons_a_busy_link_goes_on(broker: Standalone, channel: str) -> None:
    # in a process of its own: if it stands still for good, no timeout within it would fire
    done = subprocess.run(
        [sys.executable, str(TESTS / "abandoner.py"), broker.url, channel, "60"],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5
