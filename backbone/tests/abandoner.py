"""A program that makes links and abandons each one while its answers arrive and Python is busy.

`abandoner.py URI CHANNEL ROUNDS` prints the longest time, in seconds, that the event loop stood still in a round.
"""

from __future__ import annotations

import asyncio
import sys
import time

from opal_backbone.link import disposed, open_link
from opal_backbone.settings import Settings, load

BUSY = 0.05
"""Seconds of each round in which this program holds the interpreter's lock nearly all the time."""


async def round_of(settings: Settings) -> float:
    """Make one link, abandon it in the midst of its work, and return how long that took, in seconds."""
    link = await open_link(settings, None, (b"{}", {}))
    link.read(lambda _messages: None, lambda _reason: None)
    for _ in range(300):
        link.send(b"x" * 50, {"a": "b"}, lambda _reason, _id: None)
    await asyncio.sleep(0)
    began = time.monotonic()
    link.abandon()
    while time.monotonic() - began < BUSY:
        pass
    await asyncio.sleep(0)
    return time.monotonic() - began - BUSY


async def main() -> None:
    uri, channel, rounds = sys.argv[1:]
    settings = load({"OPAL_BROADCAST_URI": uri}, channel=channel)
    print(max([await round_of(settings) for _ in range(int(rounds))]))
    await disposed(10)


if __name__ == "__main__":
    asyncio.run(main())
