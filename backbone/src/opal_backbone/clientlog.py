"""What the client library has to say about its failures, once a minute each instead of several times a second.

The library logs to standard output, or calls Python for every debug message of every event, or writes to a file. It is
given a pipe for a file: its errors name causes (a refused connection, a certificate) that its results do not.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pulsar
from loguru import logger

_EVERY = 60.0
_LINE = re.compile(r"^\S+ \S+ (?P<level>[A-Z]+) +\[\d+\] (?P<where>\S+) \| (?P<text>.*)$")
_VARYING = re.compile(r"0x[0-9a-f]+|\d+")
_FRESH = 30.0
_HOLLOW = ("Error getting ", "Error Checking", "Failed to create")
"""Beginnings of what only says that something failed, which the caller knows, where the line before said why."""


_FAREWELL = "] Failed to close "
"""Part of what it says of a link that was given up because its broker does not answer: nobody needs to know."""


class ClientLog:
    """Reads the library's errors on a thread of its own; `last_error` is the most recent one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Open the pipe; `say` gets each kind of error at most once a minute."""
        self._say = say
        self._said: dict[str, float] = {}
        self._last = ("", float("-inf"))
        self._read, self._write = os.pipe()
        threading.Thread(target=self._follow, name="opal-backbone client log", daemon=True).start()

    def logger(self) -> Any:
        """Return what pulsar-client takes for a logger."""
        return pulsar.FileLogger(pulsar.LoggerLevel.Error, f"/proc/self/fd/{self._write}")

    def last_error(self) -> str:
        """Return the last error of the past half minute, or nothing."""
        text, when = self._last
        return text if time.monotonic() - when < _FRESH else ""

    def take(self, line: str) -> None:
        """Take one line of the library's."""
        match = _LINE.match(line)
        text = match["text"] if match else line.strip()
        if not text or _FAREWELL in text:
            return
        now = time.monotonic()
        if not text.startswith(_HOLLOW):
            self._last = (text, now)
        kind = _VARYING.sub("#", text)
        if now - self._said.get(kind, float("-inf")) > _EVERY:
            if len(self._said) > 1000:
                self._said.clear()
            self._said[kind] = now
            self._say(text)

    def _follow(self) -> None:
        with os.fdopen(self._read, errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(Exception):
                    self.take(line)


_instances: dict[int, ClientLog] = {}


def client_log() -> ClientLog:
    """Return the log of this process; the library takes the first one that it is given, for good."""
    pid = os.getpid()
    if pid not in _instances:
        _instances[pid] = ClientLog(lambda text: logger.warning(f"Backbone: Pulsar's client says: {text}"))
    return _instances[pid]
