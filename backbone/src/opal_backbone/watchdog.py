"""Words to systemd: a worker that finds all workers of its host alive says so for the whole service."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from opal_backbone.settings import Settings

_STALE = 10.0
"""Seconds after which a worker that no longer writes its state counts as stuck."""


def is_wanted() -> bool:
    """Tell whether systemd watches this service; without `WatchdogSec` in the unit there is nobody to tell."""
    return bool(os.environ.get("WATCHDOG_USEC"))


def ping(states: list[dict[str, Any]], settings: Settings) -> None:
    """Reset systemd's watchdog, unless a worker of this host is stuck or deaf for too long."""
    for state in states:
        if state["age"] > _STALE:
            return
        if settings.restart_after and state["heard_age"] > settings.restart_after + _STALE:
            return
    notify("WATCHDOG=1")


def notify(message: str) -> None:
    """Send a message to systemd, if this runs under it. NotifyAccess=all lets a worker do so."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def is_gunicorn_worker() -> bool:
    """Tell whether the parent of this process is gunicorn's master."""
    with contextlib.suppress(OSError):
        return b"gunicorn" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    return False
