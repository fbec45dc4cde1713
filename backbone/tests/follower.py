"""A program that follows a topic from its beginning, by our reader or by the library's own asynchronous read.

`follower.py URI CHANNEL COUNT ours|library` reads COUNT messages and prints, as JSON, how many came and how many of
them were overtaken by another. It wants `late_unlock.c` preloaded.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import sys
import time
from typing import Any

import _pulsar

from opal_backbone.link import Link, make_client, make_reader
from opal_backbone.reading import Position, Received
from opal_backbone.settings import load

ONE_IN = 20
"""Of how many unlockings of a mutex one is late."""
PATIENCE = 60
"""Seconds that the broker may take to make the reader, which is tried once, where a worker would try again; and seconds
without a message after which no more are waited for."""


async def main(uri: str, channel: str, count: int, how: str) -> None:
    loop = asyncio.get_running_loop()
    settings = load({"OPAL_BROADCAST_URI": uri, "OPAL_BACKBONE_OPERATION_TIMEOUT": str(PATIENCE)}, channel=channel)
    link = Link(make_client(settings), loop)
    await make_reader(link, settings, "earliest")
    seen: list[tuple[int, int, int]] = []

    def note(messages: list[Received]) -> None:
        seen.extend(message.position.key for message in messages)

    def ask() -> None:
        link._reader._reader.read_next_async(lambda *answer: loop.call_soon_threadsafe(take, *answer))

    def take(result: Any, message: Any) -> None:
        if result == _pulsar.Result.Ok:
            seen.append(Position(message.message_id()).key)
            ask()

    ctypes.CDLL(None).late_unlock(ONE_IN)
    if how == "ours":
        link.read(note, print)
    else:
        ask()
    print("reading", flush=True)
    before, since = 0, time.monotonic()
    while len(seen) < count and time.monotonic() - since < PATIENCE:
        if len(seen) > before:
            before, since = len(seen), time.monotonic()
        await asyncio.sleep(0.05)
    ctypes.CDLL(None).late_unlock(0)
    await link.close(2)
    print(json.dumps({"came": len(seen), "overtaken": sum(b <= a for a, b in itertools.pairwise(seen))}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
