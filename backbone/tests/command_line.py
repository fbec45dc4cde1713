"""The command `opal-backbone` as tests run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command_line(uri: str, channel: str, *arguments: str) -> list[str]:
    """Return the command for a topic, as a list of its words."""
    return [str(Path(sys.executable).parent / "opal-backbone"), "--uri", uri, "--channel", channel, *arguments]


def run(
    uri: str, channel: str, *arguments: str, environment: dict[str, str] | None = None, timeout: float = 60
) -> tuple[int, str]:
    """Run it, at most `timeout` seconds; return its status, and what it said on both outputs."""
    done = subprocess.run(
        command_line(uri, channel, *arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
    )
    return done.returncode, done.stdout + done.stderr
