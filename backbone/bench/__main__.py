"""Measure delivery end to end through OPAL-server, side by side for several backbones.

`python -m bench` starts real brokers and real OPAL-server workers on loopback, publishes through the HTTP interface of
one worker, and notes when a websocket subscriber of each other worker has each event. Results go to standard output as
a Markdown table, and to an SVG chart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from fastapi_websocket_pubsub import PubSubClient

from bench import chart, services
from pulsar_broker import free_ports

HERE = Path(__file__).resolve().parents[1]
CHANNEL = "broadcast"
BACKBONES = {
    "this backend": (services.pulsar, "opal_backbone.server:app"),
    "upstream Pulsar": (services.pulsar, "opal_server.main:app"),
    "upstream Redis": (services.redis, "opal_server.main:app"),
    "upstream Postgres": (services.postgres, "opal_server.main:app"),
}


@dataclass
class Result:
    """One row. Latencies are milliseconds, rates events per second."""

    backbone: str
    workers: int
    delivered: int
    expected: int
    p50: float
    p99: float
    sustained: float
    sustained_delivered: int
    sustained_expected: int


class Workers:
    """OPAL-server processes of one worker each, so that the one that publishes and those that receive are known."""

    def __init__(self, app: str, uri: str, count: int, directory: Path) -> None:
        self.ports = free_ports(count)
        self.processes = []
        for number, port in enumerate(self.ports):
            home = directory / f"worker{number}"
            home.mkdir(parents=True)
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith("OPAL_")},
                "PYTHONPATH": str(HERE / "src"),
                "OPAL_BROADCAST_URI": uri,
                "OPAL_BROADCAST_CHANNEL_NAME": CHANNEL,
                "OPAL_REPO_WATCHER_ENABLED": "false",
                "OPAL_LOG_LEVEL": "WARNING",
                "OPAL_LEADER_LOCK_FILE_PATH": str(home / "lock"),
                "OPAL_AUTH_JWKS_STATIC_DIR": str(home / "jwks"),
                "OPAL_CLIENT_LOAD_LIMIT_NOTATION": "100000/second",
            }
            command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
            with (home / "log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen([*command], cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
                )

    async def wait(self, timeout: float) -> None:
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

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(10)


@contextlib.contextmanager
def workers(app: str, uri: str, count: int, directory: Path) -> Iterator[Workers]:
    fleet = Workers(app, uri, count, directory)
    try:
        yield fleet
    finally:
        fleet.stop()


async def subscribe(port: int, arrivals: dict[str, float]) -> PubSubClient:
    async def note(data: Any = None, topic: str = "") -> None:
        arrivals.setdefault(data["reason"], time.time())

    client = PubSubClient()
    client.subscribe("policy_data", note)
    client.start_client(f"ws://127.0.0.1:{port}/ws")
    await asyncio.wait_for(client.wait_until_ready(), 60)
    return client


async def publish(session: aiohttp.ClientSession, port: int, name: str) -> float:
    entry = {"url": "", "topics": ["policy_data"], "dst_path": "/x", "data": {"n": name}}
    sent = time.time()
    body = {"entries": [entry], "reason": name}
    async with session.post(f"http://127.0.0.1:{port}/data/config", json=body) as answer:
        answer.raise_for_status()
    return sent


async def settled(arrivals: list[dict[str, float]], prefix: str, count: int, timeout: float) -> int:
    """Wait until all have all; return how many deliveries there were."""
    deadline = time.monotonic() + timeout
    last, last_change = -1, time.monotonic()
    while True:
        now = sum(sum(name.startswith(prefix) for name in each) for each in arrivals)
        if now != last:
            last, last_change = now, time.monotonic()
        # a backbone that loses events would keep us here until the end
        if now == count * len(arrivals) or time.monotonic() > deadline or time.monotonic() - last_change > 8:
            return now
        await asyncio.sleep(0.1)


async def measure(name: str, fleet: Workers, events: int, rate: float, burst: int) -> Result:
    await fleet.wait(600)
    publisher, *receivers = fleet.ports
    arrivals: list[dict[str, float]] = [{} for _ in receivers]
    clients = [await subscribe(port, each) for port, each in zip(receivers, arrivals, strict=True)]
    await asyncio.sleep(3)  # backends that connect on the first client
    async with aiohttp.ClientSession() as session:
        for number in range(10):
            await publish(session, publisher, f"warm{number}")
        await asyncio.sleep(2)
        sent = {}
        for number in range(events):
            sent[f"paced{number}"] = await publish(session, publisher, f"paced{number}")
            await asyncio.sleep(max(0.0, 1 / rate))
        delivered = await settled(arrivals, "paced", events, 60)
        latencies = [(each[key] - when) * 1000 for each in arrivals for key, when in sent.items() if key in each]
        began = time.time()
        gate = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with gate:
                await publish(session, publisher, f"burst{number}")

        await asyncio.gather(*(one(number) for number in range(burst)))
        burst_delivered = await settled(arrivals, "burst", burst, 180)
        ends = [when for each in arrivals for key, when in each.items() if key.startswith("burst")]
        seconds = max(ends, default=began) - began
    for client in clients:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.disconnect(), 3)
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [float("nan")] * 99
    complete = burst_delivered / max(1, len(receivers))
    return Result(
        name,
        len(receivers),
        delivered,
        events * len(receivers),
        cuts[49],
        cuts[98],
        complete / seconds if seconds > 0 else 0.0,
        burst_delivered,
        burst * len(receivers),
    )


def floor(uri: str, events: int, rate: float, burst: int) -> Result:
    """Produce and read with pulsar-client alone."""
    import pulsar

    client = pulsar.Client(uri, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    arrivals: dict[bytes, float] = {}
    done = threading.Event()
    total = 10 + events + burst

    def note(_reader: Any, message: Any) -> None:
        arrivals[message.data()] = time.time()
        if len(arrivals) == total:
            done.set()

    reader = client.create_reader("floor", pulsar.MessageId.latest, reader_listener=note)
    producer = client.create_producer("floor", max_pending_messages=burst + 10)
    for number in range(10):
        producer.send(b"warm%d" % number)
    sent = {}
    for number in range(events):
        key = b"paced%d" % number
        sent[key] = time.time()
        producer.send_async(key, lambda _result, _id: None)
        time.sleep(1 / rate)
    began = time.time()
    for number in range(burst):
        producer.send_async(b"burst%d" % number, lambda _result, _id: None)
    done.wait(60)
    seconds = max(when for key, when in arrivals.items() if key.startswith(b"burst")) - began
    latencies = [(arrivals[key] - when) * 1000 for key, when in sent.items() if key in arrivals]
    cuts = statistics.quantiles(latencies, n=100)
    got = sum(key.startswith(b"burst") for key in arrivals)
    reader.close()
    client.close()
    return Result("pulsar-client alone", 1, len(latencies), events, cuts[49], cuts[98], got / seconds, got, burst)


def table(results: list[Result]) -> str:
    lines = [
        "| backbone | receiving workers | delivered | p50 ms | p99 ms | sustained events/s | delivered at that rate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.backbone} | {r.workers} | {r.delivered} of {r.expected} | {r.p50:.1f} | {r.p99:.1f} | {r.sustained:.0f}"
        f" | {r.sustained_delivered} of {r.sustained_expected} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> int:
    top = argparse.ArgumentParser(prog="bench", description=__doc__)
    top.add_argument("--workers", default="2,8,32", help="numbers of receiving workers, comma-separated")
    top.add_argument("--events", type=int, default=200, help="events published at --rate, for latency")
    top.add_argument("--rate", type=float, default=20, help="events per second")
    top.add_argument("--burst", type=int, default=1000, help="events published as fast as possible")
    top.add_argument("--backbones", default=",".join(BACKBONES), help="which, comma-separated")
    top.add_argument("--output", type=Path, default=Path("bench-results"), help="directory for results")
    arguments = top.parse_args()
    results: list[Result] = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opal-backbone-bench-") as temporary:
        root = Path(temporary)
        (root / "floor").mkdir()
        with services.pulsar(root / "floor") as uri:
            results.append(floor(uri, arguments.events, arguments.rate, arguments.burst))
        for count in (int(text) for text in arguments.workers.split(",")):
            for name in arguments.backbones.split(","):
                service, app = BACKBONES[name]
                directory = root / f"{name}-{count}".replace(" ", "-")
                directory.mkdir()
                with service(directory) as uri, workers(app, uri, count + 1, directory) as fleet:
                    result = asyncio.run(measure(name, fleet, arguments.events, arguments.rate, arguments.burst))
                results.append(result)
                print(table([result]).splitlines()[-1], flush=True)
                (arguments.output / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, load at the end {load}"
    text = f"Machine: {machine}\n\n{table(results)}\n"
    (arguments.output / "results.md").write_text(text)
    (arguments.output / "latency.svg").write_text(chart.bars(results))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
