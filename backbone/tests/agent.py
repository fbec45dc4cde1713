"""One worker of a fleet under test, in a process of its own: OPAL's real notifier, broadcaster and endpoint on a core.

Commands come as JSON lines on standard input, answers go as JSON lines to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

import psutil
from fastapi_websocket_pubsub.websocket_rpc_event_notifier import WebSocketRpcEventNotifier
from loguru import logger

from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.settings import load
from opal_backbone.upstream import FanoutBroadcaster, HoldingPubSubEndpoint

TOPIC = "fleet/test"
TOGETHER = 5
"""Events published in the same moment, so that entries of the topic hold one event and several."""


class Agent:
    """A worker: publishes numbered events and notes each one that its subscriber gets."""

    def __init__(self) -> None:
        self.settings = load()
        self.core = Core(self.settings, Metrics())
        self.notifier = WebSocketRpcEventNotifier()
        broadcaster = type("Broadcaster", (FanoutBroadcaster,), {"core": self.core})
        endpoint = type("Endpoint", (HoldingPubSubEndpoint,), {"core": self.core})
        self.broadcaster: Any = broadcaster(
            os.environ["OPAL_BROADCAST_URI"],
            notifier=self.notifier,
            channel=os.environ["OPAL_BROADCAST_CHANNEL_NAME"],
            reconnect_backoff_min=0.2,
            resync_settle_seconds=0.1,
        )
        self.endpoint: Any = endpoint(broadcaster=self.broadcaster, notifier=self.notifier)
        self.received: list[tuple[str, int, float, float]] = []
        self.resyncs = 0
        self.name = os.environ["AGENT_NAME"]
        self.publishing: asyncio.Task[None] | None = None
        self.longest_stall = 0.0

    async def start(self) -> None:
        async def note(_subscription: Any, data: Any) -> None:
            self.received.append((data["from"], data["n"], data["t"], time.time()))

        async def resynchronised() -> None:
            self.resyncs += 1

        self.broadcaster.set_reconnect_callback(resynchronised)
        await self.notifier.subscribe("subscriber", [TOPIC], note)
        self.core.start()
        self.context = self.broadcaster.get_context(listen=True, share=True)
        await self.context.__aenter__()
        self._watch = asyncio.create_task(self._watch_loop())

    async def _watch_loop(self) -> None:
        """Note the longest time that the event loop was kept from its work."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            self.longest_stall = max(self.longest_stall, time.monotonic() - before - 0.02)

    async def publish(self, first: int, count: int, rate: float, size: int) -> None:
        began = time.monotonic()
        filler = "x" * size
        for index in range(count):
            if rate:
                delay = began + (index - index % TOGETHER) / rate - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
            elif index % 50 == 0:
                await asyncio.sleep(0)
            data = {"from": self.name, "n": first + index, "t": time.time(), "x": filler}
            await self.endpoint.publish([TOPIC], data)

    def usage(self) -> dict[str, Any]:
        process = psutil.Process()
        return {
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "python_threads": threading.active_count(),
            "resident": process.memory_info().rss,
            "tasks": len(asyncio.all_tasks()),
        }

    async def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        what = command["do"]
        if what == "ready":
            deadline = time.monotonic() + command.get("timeout", 60)
            while time.monotonic() < deadline and (self.core.unhealthy() or not self.core.state()["listening"]):
                await asyncio.sleep(0.05)
            return {"ready": not self.core.unhealthy()}
        if what == "publish":
            self.publishing = asyncio.create_task(
                self.publish(command["first"], command["count"], command["rate"], command.get("size", 0))
            )
            return {}
        if what == "published":
            if self.publishing is not None:
                await self.publishing
            return {}
        if what == "count":
            return {"received": len(self.received), "state": self.core.state(), "resyncs": self.resyncs}
        if what == "report":
            return {
                "name": self.name,
                "received": self.received,
                "state": self.core.state(),
                "usage": self.usage(),
                "resyncs": self.resyncs,
                "stall": self.longest_stall,
                "tracked": self.broadcaster.backbone_gap_generation(),
            }
        if what == "forget":
            self.received.clear()
            self.longest_stall = 0.0
            return {}
        if what == "usage":
            return self.usage()
        if what == "raw":
            self.core.publish(command["payload"].encode())
            return {}
        raise ValueError(what)

    async def stop(self) -> int:
        left = await self.core.stop()
        await self.context.__aexit__(None, None, None)
        return left


def _flag(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main() -> None:
    logger.remove()
    logger.add(sys.stderr, level=os.environ.get("AGENT_LOG", "INFO"), format="{time:HH:mm:ss.SSS} {level} {message}")
    agent = Agent()
    await agent.start()
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, line)
        loop.call_soon_threadsafe(commands.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await commands.get()) is not None:
        command = json.loads(line)
        if command["do"] == "stop":
            began = time.monotonic()
            left = await agent.stop()
            _flag(json.dumps({"left": left, "seconds": time.monotonic() - began, "received": agent.received}))
            return
        _flag(json.dumps(await agent.answer(command)))


if __name__ == "__main__":
    asyncio.run(main())
