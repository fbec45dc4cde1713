# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A short-lived service that holds one OPAL subscription on every worker of its host.

It runs as the service's own user, in a directory of its own that systemd removes with it, and is
asked over the socket ``control`` in there: ``{"do": "report"}`` answers when every worker is covered
or the time for that is up; ``{"do": "collect", "updates": {topic: number}, "seconds": n}`` answers when
every subscription has had that many updates of every topic or the time is up, and ends the service.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.policyfleet.opal.plugins.module_utils import verify_workers as processes
from ansible_collections.policyfleet.opal.plugins.module_utils.verify_raw_events import RawEvents, number_of
from ansible_collections.policyfleet.opal.plugins.module_utils.verify_subscriber import Subscriber

ACCEPT_SECONDS = 0.5
"""How long a connection may wait to be accepted before another one is tried, in seconds."""

CONNECTIONS_AT_ONCE = 16
"""How many connections are opened together at most, so that workers which race for them each get some."""

CANARY_SECONDS = 0.25
"""Time between the first two rounds of canaries, in seconds; it doubles from round to round."""

CANARY_SENDERS = 2
"""How many workers send canaries: one reaches all others, the second reaches the first."""

LATE_SECONDS = 0.3
"""How long a second copy of an event is waited for once everything has arrived, in seconds."""

LONGEST_ANSWER = 64 * 1024 * 1024
"""The most that goes through the control socket at once, in bytes."""


def forget(link: socket.socket) -> None:
    """Drop a connection that is not needed, without leaving it to linger in the kernel's tables."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


class Listener:
    """The subscriptions of one host, and what they received."""

    def __init__(self, ask: dict[str, Any]) -> None:
        """Take what to do, as the module wrote it."""
        self.ask = ask
        self.workers: dict[int, dict[str, Any]] = {}
        self.subscribers: dict[int, Subscriber] = {}
        self.deliveries: dict[int, dict[str, list[tuple[int, float]]]] = {}
        self.problem = ""
        self.raw: RawEvents | None = None
        self.listening = asyncio.Event()
        self.ended = asyncio.Event()
        self._arrived = asyncio.Event()

    def on_event(self, pid: int, topic: str, data: Any, now: float) -> None:
        """Note an event that a worker delivered."""
        if topic == self.ask["canary"]:
            # A worker's own canary does not come back to it: this one came over the backbone.
            self.workers[pid]["ready"] = True
        else:
            self.deliveries[pid].setdefault(topic, []).append((number_of(data), now))
        self._arrived.set()

    async def listen(self) -> None:
        """Cover every worker, and see that each hears the backbone."""
        try:
            if self.ask["pulsar_uri"]:
                settings = processes.environment(self.ask["main_pid"])
                self.raw = RawEvents(self.ask["pulsar_uri"], self.ask["channel"], self.ask["prefix"], settings)
                self.raw.start()
            for pid in processes.workers(self.ask["main_pid"], self.ask["port"]):
                self.workers[pid] = {"covered": False, "ready": False, "note": ""}
                self.deliveries[pid] = {}
            await self.cover()
            await self.settle()
            await self.wait_for_raw()
        except PermissionError as problem:
            self.problem = f"the service's processes cannot be looked into: {problem}"
        except Exception as problem:  # told to the operator instead of ending without a word
            self.problem = f"{type(problem).__name__}: {problem}"
        finally:
            self.listening.set()

    def uncovered(self) -> list[int]:
        """Return the workers without a subscription that may still get one."""
        missing = [pid for pid, worker in self.workers.items() if not worker["covered"]]
        return [pid for pid in missing if processes.state(pid) not in processes.STOPPED]

    async def cover(self) -> None:
        """Open connections until each worker has accepted one, or the time is up."""
        until = time.monotonic() + self.ask["cover_seconds"]
        while self.uncovered() and time.monotonic() < until:
            links = self.connect(min(CONNECTIONS_AT_ONCE, 2 * len(self.uncovered()) + 1))
            holders = await self.holders_of(links)
            chosen: dict[int, socket.socket] = {}
            for link in links:
                pid = holders.get(link.getsockname()[:2], 0)
                if pid in chosen or pid not in self.workers or self.workers[pid]["covered"]:
                    forget(link)
                else:
                    chosen[pid] = link
            await asyncio.gather(*(self.subscribe(pid, link) for pid, link in chosen.items()))
            if not links:
                await asyncio.sleep(0.2)
        for pid, worker in self.workers.items():
            if not worker["covered"]:
                words = processes.state_in_words(processes.state(pid))
                worker["note"] = worker["note"] or f"it is {words} and accepted no connection"

    def connect(self, number: int) -> list[socket.socket]:
        """Open some connections; none where the port does not take them."""
        links = []
        try:
            for _ in range(number):
                links.append(socket.create_connection((self.ask["address"], self.ask["port"]), timeout=2))
            self.problem = ""
        except OSError as problem:
            self.problem = f"port {self.ask['port']} does not take connections: {problem}"
        return links

    async def holders_of(self, links: list[socket.socket]) -> dict[processes.Address, int]:
        """Return the worker that accepted each connection, by our end's address, as far as one did in time."""
        if not links:
            return {}
        server, clients = links[0].getpeername()[:2], {link.getsockname()[:2] for link in links}
        until = time.monotonic() + ACCEPT_SECONDS
        while True:
            inodes = processes.accepted(server, clients)
            pids = processes.owners(inodes.values(), self.workers)
            if len(pids) == len(links) or time.monotonic() > until:
                return {client: pids[inode] for client, inode in inodes.items() if inode in pids}
            await asyncio.sleep(0.002)

    async def subscribe(self, pid: int, connection: socket.socket) -> None:
        """Subscribe over a connection that a worker has accepted."""
        self.workers[pid]["covered"] = True
        subscriber = self.subscribers[pid] = Subscriber(pid, self.on_event)
        topics = [self.ask["canary"], *self.ask["topics"]]
        host = f"{self.ask['host_header']}:{self.ask['port']}"
        try:
            connection.setblocking(False)
            await subscriber.open(connection, host, self.ask["client_token"], topics, self.ask["cover_seconds"])
        except Exception as problem:  # whatever went wrong, this worker has no subscription
            del self.subscribers[pid]
            words = str(problem) or "no answer in time"
            if "HTTP 403" in words:
                words += "; set verify_client_token to a token of the type 'client'"
            self.workers[pid]["note"] = f"it accepted a connection, but the subscription failed: {words}"

    def all_ready(self) -> bool:
        """Tell whether every subscribed worker has heard the backbone."""
        return all(self.workers[pid]["ready"] for pid in self.subscribers)

    async def settle(self) -> None:
        """Send canaries through the workers until each has heard one over the backbone, or the time is up."""
        until = time.monotonic() + self.ask["settle_seconds"]
        pause = CANARY_SECONDS
        while time.monotonic() < until:
            if self.all_ready():
                return
            for subscriber in list(self.subscribers.values())[:CANARY_SENDERS]:
                try:
                    await subscriber.publish(self.ask["canary"], {"from_pid": subscriber.pid})
                except Exception as problem:  # a worker that went away is told of by its closed connection
                    self.workers[subscriber.pid]["note"] = f"no canary could be sent through it: {problem}"
            patience = min(pause, until - time.monotonic())
            await self.wait_for_arrival(patience, self.all_ready)
            pause *= 2

    async def wait_for_raw(self) -> None:
        """Wait until the reader beside OPAL is in place; its calls end by themselves."""
        while self.raw and not self.raw.ready.is_set():
            await asyncio.sleep(0.05)

    async def wait_for_arrival(self, seconds: float, done: Callable[[], bool]) -> None:
        """Wait until a condition holds that arrivals bring about, or the time is up."""
        until = time.monotonic() + seconds
        while not done() and time.monotonic() < until:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                return

    def complete(self, updates: dict[str, int]) -> bool:
        """Tell whether every open subscription has had all updates of every topic, and Pulsar's reader as well."""
        heard = [self.deliveries[pid] for pid, subscriber in self.subscribers.items() if not subscriber.closed]
        if self.raw and not self.raw.problem:
            heard.append(
                {topic: [(number, 0.0) for number in numbers] for topic, numbers in self.raw.numbers().items()}
            )
        return all(
            len({number for number, _at in found.get(topic, [])}) >= wanted
            for found in heard
            for topic, wanted in updates.items()
        )

    async def collect(self, updates: dict[str, int], seconds: float) -> None:
        """Wait until everything has arrived, or the time is up."""
        until = time.monotonic() + seconds
        while not self.complete(updates) and time.monotonic() < until:
            await self.wait_for_arrival(min(0.25, until - time.monotonic()), lambda: self.complete(updates))
        await asyncio.sleep(LATE_SECONDS)

    def as_data(self) -> dict[str, Any]:
        """Return everything that is known."""
        workers = []
        for pid, worker in self.workers.items():
            subscriber = self.subscribers.get(pid)
            workers.append(
                {
                    "pid": pid,
                    "state": processes.state_in_words(processes.state(pid)),
                    "covered": subscriber is not None,
                    "ready": worker["ready"],
                    "note": worker["note"],
                    "closed": subscriber.closed if subscriber else "",
                    "deliveries": self.deliveries[pid],
                }
            )
        return {"workers": workers, "problem": self.problem, "raw": self.raw.as_data() if self.raw else None}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question of the module."""
        question = json.loads(await reader.readline())
        await self.listening.wait()
        if question["do"] == "collect":
            await self.collect(question["updates"], question["seconds"])
        writer.write(json.dumps(self.as_data()).encode() + b"\n")
        await writer.drain()
        writer.close()
        if question["do"] == "collect":
            self.ended.set()


async def run(directory: str) -> None:
    """Listen until the deliveries have been collected; systemd ends it where nobody does."""
    path = os.path.join(directory, "ask.json")
    with open(path, encoding="utf-8") as handle:
        ask = json.load(handle)
    os.unlink(path)  # it may hold a token
    listener = Listener(ask)
    control = os.path.join(directory, "control")
    server = await asyncio.start_unix_server(listener.serve, control, limit=LONGEST_ANSWER)
    listening = asyncio.create_task(listener.listen())
    # At the deadline systemd asks it to end; then, too, it takes its leave of the workers.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, listener.ended.set)
    await listener.ended.wait()
    server.close()
    listening.cancel()
    if listener.raw:
        listener.raw.end()
    await asyncio.gather(*(subscriber.close() for subscriber in listener.subscribers.values()), return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
    # Threads of Pulsar's client may still wait for a broker that is away.
    os._exit(0)
