"""A real OPAL client fetches its sources again after a gap, and so has what it missed."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet import QUICK
from opal_backbone import wire
from opal_backbone.core import Core
from opal_backbone.metrics import Metrics
from opal_backbone.settings import load
from opal_host import HERE, OpalHost
from pulsar_broker import Standalone, free_ports


class Source:
    """A data source over HTTP, which notes what it has given out and when."""

    def __init__(self) -> None:
        self.value = "before"
        self.given: list[str] = []
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.given.append(source.value)
                body = json.dumps({"value": source.value}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/value"


@pytest.fixture
def source() -> Iterator[Source]:
    one = Source()
    yield one
    one.server.shutdown()


def start_client(host: OpalHost, directory: Path) -> subprocess.Popen[bytes]:
    (port,) = free_ports(1)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("OPAL_")},
        "PYTHONPATH": str(HERE.parent / "src"),
        "OPAL_SERVER_URL": host.url,
        "OPAL_POLICY_STORE_TYPE": "MOCK",
        "OPAL_INLINE_OPA_ENABLED": "false",
        "OPAL_POLICY_UPDATER_ENABLED": "false",
        "OPAL_DATA_TOPICS": "policy_data",
        "OPAL_LOG_COLORIZE": "false",
    }
    command = [sys.executable, "-m", "uvicorn", "opal_client.main:app", "--port", str(port)]
    with (directory / "client.log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT)


async def until_given(source: Source, value: str, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and value not in source.given:
        await asyncio.sleep(0.2)
    return value in source.given


async def test_an_opal_client_reconverges_after_a_gap(
    broker: Standalone, channel: str, tmp_path: Path, source: Source
) -> None:
    sources = {"config": {"entries": [{"url": source.url, "topics": ["policy_data"], "dst_path": "/v"}]}}
    host = OpalHost(
        "host", broker.url, channel, tmp_path, 1, {**QUICK, "OPAL_DATA_CONFIG_SOURCES": json.dumps(sources)}
    )
    host.start()
    client = None
    sender = Core(load({"OPAL_BROADCAST_URI": broker.url}, channel=channel), Metrics())
    try:
        host.wait_healthy(1)
        client = start_client(host, tmp_path)
        assert await until_given(source, "before", 60), (tmp_path / "client.log").read_text()[-2000:]
        sender.start()
        await sender.ready(30)
        (state,) = host.workers()
        # the worker stands still while events pass, and they are gone before it can read them
        os.kill(state["pid"], signal.SIGSTOP)
        try:
            source.value = "after"
            for number in range(3000):
                sender.publish(wire.notification_payload("sender", ["other"], number))
            while sender.state()["waiting"]:
                await asyncio.sleep(0.1)
            broker.topic_admin("DELETE", f"persistent/public/default/{channel}?force=true")
        finally:
            os.kill(state["pid"], signal.SIGCONT)
        sender.publish(wire.notification_payload("sender", ["other"], "last"))
        assert await until_given(source, "after", 90), host.log.read_text()[-3000:]
        (state,) = host.workers()
        assert state["counters"]["gaps"] >= 1
        assert "resyncing this worker's clients" in host.log.read_text()
    finally:
        await sender.stop()
        if client is not None:
            client.kill()
            client.wait(10)
        host.kill()
