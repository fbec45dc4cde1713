"""OPAL-server workers under measurement, and what publishes to them and listens to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil

from pulsar_broker import free_ports

HERE = Path(__file__).resolve().parents[1]
CHANNEL = "broadcast"
TOPIC = "policy_data"
_REASON = re.compile(r'"reason": ?"([^"]+)"')


class Workers:
    """OPAL-server processes of one worker each, so that the one that publishes and those that receive are known."""

    def __init__(self, app: str, uri: str, count: int, directory: Path) -> None:
        """Start them; `uri` is empty for a worker without a backbone."""
        self.ports = free_ports(count)
        self.processes = []
        for number, port in enumerate(self.ports):
            home = directory / f"worker{number}"
            home.mkdir(parents=True)
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith("OPAL_")},
                "PYTHONPATH": str(HERE / "src"),
                "OPAL_REPO_WATCHER_ENABLED": "false",
                "OPAL_LOG_LEVEL": "WARNING",
                "OPAL_LEADER_LOCK_FILE_PATH": str(home / "lock"),
                "OPAL_AUTH_JWKS_STATIC_DIR": str(home / "jwks"),
                "OPAL_CLIENT_LOAD_LIMIT_NOTATION": "100000/second",
            }
            if uri:
                environment |= {"OPAL_BROADCAST_URI": uri, "OPAL_BROADCAST_CHANNEL_NAME": CHANNEL}
            command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
            with (home / "log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen([*command], cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
                )

    async def wait(self, timeout: float) -> None:
        """Wait until all are healthy, at most `timeout` seconds.

        Raises:
            TimeoutError: one is not.
        """
        deadline = time.monotonic() + timeout
        async with aiohttp.ClientSession() as session:
            for port in self.ports:
                while True:
                    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                        url = f"http://127.0.0.1:{port}/healthcheck"
                        async with session.get(url, timeout=aiohttp.ClientTimeout(5)) as answer:
                            if answer.status == 200:
                                break
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"worker on port {port} did not start")
                    await asyncio.sleep(0.3)

    def processor_seconds(self) -> list[float]:
        """Return how long each worker has kept a processor busy, in seconds."""
        used = [psutil.Process(process.pid).cpu_times() for process in self.processes]
        return [times.user + times.system for times in used]

    def stop(self) -> None:
        """End them at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(10)


@contextlib.contextmanager
def workers(app: str, uri: str, count: int, directory: Path) -> Iterator[Workers]:
    """Run `count` workers while this lasts."""
    fleet = Workers(app, uri, count, directory)
    try:
        yield fleet
    finally:
        fleet.stop()


class Subscriber:
    """A subscriber of OPAL's websocket which costs as little as it can, so that the servers are what is measured.

    It speaks the protocol of fastapi-websocket-rpc: it answers every call, as OPAL's own client does, and the server
    waits for that.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Take over an open socket; use `subscribe`."""
        self.arrivals: dict[str, float] = {}
        """Event's name -> when it arrived, in seconds since the epoch."""
        self.ready = asyncio.Event()
        self._socket = socket
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for frame in self._socket:
            if not isinstance(frame.data, str):
                continue
            now = time.time()
            name = _REASON.search(frame.data)
            if name:
                self.arrivals.setdefault(name[1], now)
            message = json.loads(frame.data)
            request = message.get("request")
            if request is None:
                self.ready.set()
                continue
            await self._answer(request)

    async def _answer(self, request: dict[str, object]) -> None:
        result = "bench" if request["method"] == "_get_channel_id_" else "None"
        await self._socket.send_str(
            json.dumps({"response": {"result": result, "result_type": "str", "call_id": request["call_id"]}})
        )

    async def close(self) -> None:
        """Stop listening."""
        self._listener.cancel()
        await self._socket.close()


async def subscribe(session: aiohttp.ClientSession, port: int) -> Subscriber:
    """Subscribe to data updates of the worker on `port`, and wait until it has said that it knows."""
    socket = await session.ws_connect(f"ws://127.0.0.1:{port}/ws", autoping=True, compress=0)
    subscriber = Subscriber(socket)
    call = {"request": {"method": "subscribe", "arguments": {"topics": [TOPIC]}, "call_id": "1"}}
    await socket.send_str(json.dumps(call))
    await asyncio.wait_for(subscriber.ready.wait(), 60)
    return subscriber


async def publish(session: aiohttp.ClientSession, port: int, name: str) -> float:
    """Publish an event through the worker on `port`.

    Returns:
        When the call began, in seconds since the epoch.
    """
    entry = {"url": "", "topics": [TOPIC], "dst_path": "/x", "data": {"n": name}}
    sent = time.time()
    body = {"entries": [entry], "reason": name}
    async with session.post(f"http://127.0.0.1:{port}/data/config", json=body) as answer:
        answer.raise_for_status()
    return sent
