"""OPAL-server under gunicorn on the backbone: what operators and systemd see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi_websocket_pubsub import PubSubClient

from command_line import command_line
from fleet import QUICK
from opal_host import OpalHost
from pulsar_broker import Standalone
from waiting import until

HostMaker = Callable[..., OpalHost]


@pytest.fixture
def make_host(broker: Standalone, channel: str, tmp_path: Path) -> Iterator[HostMaker]:
    hosts: list[OpalHost] = []

    def make(name: str = "host", workers: int = 2, *, wait: bool = True, **arguments: Any) -> OpalHost:
        settings = {**QUICK, **arguments.pop("settings", {})}
        host = OpalHost(name, arguments.pop("uri", broker.url), channel, tmp_path, workers, settings, **arguments)
        hosts.append(host)
        host.start()
        if wait:
            host.wait_healthy(workers)
        return host

    yield make
    for host in hosts:
        host.kill()


async def subscribe(host: OpalHost, topic: str, got: list[Any]) -> PubSubClient:
    async def note(data: Any = None, topic: str = "") -> None:
        got.append(data)

    client = PubSubClient()
    client.subscribe(topic, note)
    client.start_client(f"ws://127.0.0.1:{host.port}/ws")
    await asyncio.wait_for(client.wait_until_ready(), 15)
    return client


async def leave(client: PubSubClient) -> None:
    """Disconnect; a client whose server is gone would go on trying to reach it."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.disconnect(), 3)


async def test_every_worker_of_every_host_gets_every_update(make_host: HostMaker) -> None:
    one, two = make_host("one", 2, wait=False), make_host("two", 2, wait=False)
    for host in (one, two):
        host.wait_healthy(2)
    # several clients a host, so that both workers have some
    got: list[list[Any]] = [[] for _ in range(8)]
    clients = [
        await subscribe(host, "policy_data", got[i * 2 + j]) for i in range(4) for j, host in enumerate((one, two))
    ]
    for number in range(10):
        await asyncio.to_thread((one if number % 2 else two).publish, "policy_data", {"n": number})
    assert await until(lambda: all(len(each) >= 10 for each in got), 20), [len(each) for each in got]
    await asyncio.sleep(0.5)
    assert [sorted(data["entries"][0]["data"]["n"] for data in each) for each in got] == [list(range(10))] * 8
    for client in clients:
        await leave(client)

    # what is known of each worker
    await asyncio.sleep(1.5)
    states = one.workers() + two.workers()
    assert len({(state["host"], state["pid"]) for state in states}) == 4
    for state in states:
        assert state["counters"]["received"] == 10
        assert state["counters"]["gaps"] == 0
        assert len(state["recent"]) == 10
    assert sum(state["counters"]["published"] for state in states) == 10
    status, text = one.get("/metrics")
    assert status == 200
    assert "opal_backbone_received_total 20.0" in text
    for state in one.workers():
        assert f'opal_backbone_connected{{pid="{state["pid"]}"}} 1.0' in text
        assert state["last_event"]["id"] == state["recent"][-1]["id"]
        (last,) = re.findall(rf'last_event_timestamp_seconds{{pid="{state["pid"]}"}} (\S+)', text)
        assert float(last) == pytest.approx(state["recent"][-1]["received"], abs=1)
    assert "opal_backbone_latency_seconds_count 20.0" in text
    assert one.log.read_text().count("Backbone: fan-out over Pulsar") == 2
    assert two.log.read_text().count("Broadcasting incoming event: ") == 5


async def test_a_frozen_broker_makes_the_host_unhealthy_with_a_reason_and_recovers(
    make_host: HostMaker, broker: Standalone
) -> None:
    host = make_host()
    broker.freeze()
    try:
        assert await until(lambda: host.get("/healthcheck")[0] == 503, 20)
        status, body = host.get("/healthcheck")
        assert status == 503
        assert "deaf" in body["reason"]
    finally:
        broker.thaw()
    assert await until(lambda: host.get("/healthcheck")[0] == 200, 30)


async def test_a_deaf_host_ends_its_service_so_that_it_is_started_anew(
    make_host: HostMaker, broker: Standalone
) -> None:
    host = make_host(settings={"OPAL_BACKBONE_RESTART_AFTER": "8", "OPAL_BACKBONE_STOP_TIMEOUT": "1"})
    broker.freeze()
    try:
        assert host.process is not None
        assert await until(lambda: host.process is not None and host.process.poll() is not None, 40)
        assert host.process.returncode == 0
        assert "ending the service so that it is started anew" in host.log.read_text()
    finally:
        broker.thaw()


def git(where: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Policy", "-c", "user.email=policy@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def policy_settings(tmp_path: Path) -> dict[str, str]:
    """What OPAL needs to watch a repository, which is made here, in a clone that it finds again."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "app.rego").write_text("package app\n", encoding="utf-8")
    git(repository, "init", "--quiet", "--initial-branch", "main")
    git(repository, "add", "app.rego")
    git(repository, "commit", "--quiet", "--message", "First")
    return {
        "OPAL_REPO_WATCHER_ENABLED": "true",
        "OPAL_POLICY_REPO_URL": str(repository),
        "OPAL_POLICY_REPO_MAIN_BRANCH": "main",
        "OPAL_POLICY_REPO_CLONE_PATH": str(tmp_path / "clones"),
        "OPAL_POLICY_REPO_CLONE_FOLDER_PREFIX": "clone",
        "OPAL_POLICY_REPO_REUSE_CLONE_PATH": "true",
        "OPAL_POLICY_REPO_POLLING_INTERVAL": "1",
    }


async def leave_a_lock(make_host: HostMaker, settings: dict[str, str]) -> tuple[OpalHost, Path]:
    """Return a host that has a clone and is stopped, and in its clone what a git that was killed leaves there.

    OPAL's watch ends on it, and its server serves the old policy for ever.
    """
    host = make_host(settings=settings)
    assert await until(lambda: "Launching polling task" in host.log.read_text(), 20)
    host.stop()
    lock = Path(settings["OPAL_POLICY_REPO_CLONE_PATH"]) / "clone" / ".git" / "index.lock"
    lock.touch()
    return host, lock


async def test_a_host_that_does_not_watch_its_policy_repository_says_so_until_it_does(
    make_host: HostMaker, policy_settings: dict[str, str]
) -> None:
    host, lock = await leave_a_lock(make_host, policy_settings)
    host.start()
    why: list[str] = []

    def told() -> bool:
        status, body = host.get("/healthcheck")
        why[:] = [body["reason"]] if status == 503 and "reason" in body else []
        return "no longer watches the policy repository" in "".join(why)

    assert await until(told, 30), host.get("/healthcheck")
    assert "index.lock" in why[0]
    # another worker may answer this, and learns of the leader's state a moment later
    assert await until(lambda: any("index.lock" in state["reason"] for state in host.workers()), 10), host.workers()

    lock.unlink()
    assert await until(lambda: "the policy repository is watched again" in host.log.read_text(), 20)
    host.wait_healthy(2)
    repository = Path(policy_settings["OPAL_POLICY_REPO_URL"])
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    assert await until(lambda: "Found new commits" in host.log.read_text(), 20)


async def test_a_host_that_cannot_watch_its_policy_repository_is_started_anew(
    make_host: HostMaker, policy_settings: dict[str, str]
) -> None:
    await leave_a_lock(make_host, policy_settings)
    host = make_host("again", wait=False, settings={**policy_settings, "OPAL_BACKBONE_RESTART_AFTER": "9"})
    assert await until(lambda: host.process is not None and host.process.poll() is not None, 60)
    assert "ending the service so that it is started anew" in host.log.read_text()


async def test_a_stop_publishes_what_waits_and_takes_less_than_ten_seconds(make_host: HostMaker) -> None:
    one, two = make_host("one"), make_host("two")
    got: list[Any] = []
    client = await subscribe(two, "policy_data", got)
    listener = await subscribe(one, "policy_data", [])  # an open websocket must not delay the stop
    for number in range(100):
        await asyncio.to_thread(one.publish, "policy_data", {"n": number})
    assert await asyncio.to_thread(one.stop) < 10
    assert await until(lambda: len(got) == 100, 20), len(got)
    assert one.log.read_text().count("stopped with 0 event(s) unpublished") == 2
    for each in (client, listener):
        await leave(each)


async def test_a_stop_waits_for_a_broker_that_comes_back(
    make_host: HostMaker, broker: Standalone, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    one = make_host("one", 1, settings={"OPAL_BACKBONE_SPOOL_DIR": str(spool)})
    two = make_host("two", 1)
    got: list[Any] = []
    client = await subscribe(two, "policy_data", got)
    broker.freeze()
    try:
        for number in range(100):
            await asyncio.to_thread(one.publish, "policy_data", {"n": number})
        stop = asyncio.create_task(asyncio.to_thread(one.stop))
        await asyncio.sleep(2)
        assert not stop.done()
    finally:
        broker.thaw()
    assert await stop < 10
    assert await until(lambda: len(got) == 100, 20), len(got)
    assert "stopped with 0 event(s) unpublished" in one.log.read_text()
    assert not list(spool.glob("*.batch"))
    await leave(client)


async def test_a_stop_keeps_what_waits_although_clients_are_cut_off(
    make_host: HostMaker, broker: Standalone, tmp_path: Path
) -> None:
    """A network that fails takes the broker and the clients at once."""
    spool = tmp_path / "spool"
    host = make_host(workers=1, settings={"OPAL_BACKBONE_SPOOL_DIR": str(spool)})
    with socket.create_connection(("127.0.0.1", host.port)) as client:
        client.sendall(b"POST /data/config HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        broker.freeze()
        try:
            for number in range(20):
                await asyncio.to_thread(host.publish, "policy_data", {"n": number})
            assert await asyncio.to_thread(host.stop) < 10
        finally:
            broker.thaw()
    assert sum(len(path.read_text().splitlines()) for path in spool.glob("*.batch")) == 20
    assert "kept 20 unpublished event(s) on disk" in host.log.read_text()


async def test_workers_come_and_go(make_host: HostMaker) -> None:
    """Killed workers are replaced, gunicorn's own limits and signals work, and no event is missed by those who stay."""
    one = make_host("one", 2, arguments=("--max-requests", "25"))
    two = make_host("two", 1)
    got: list[Any] = []
    client = await subscribe(two, "policy_data", got)
    before = {state["pid"] for state in one.workers()}
    for number in range(60):
        for _ in range(50):
            try:
                await asyncio.to_thread(one.publish, "policy_data", {"n": number})
                break
            except OSError:  # the moment in which no worker accepts
                await asyncio.sleep(0.2)
    assert await until(lambda: len({data["entries"][0]["data"]["n"] for data in got}) == 60, 30), len(got)
    # one of the two has served at least 30 requests, and made way for another
    assert await until(lambda: before != {state["pid"] for state in one.workers()}, 60)
    one.wait_healthy(2)

    assert two.process is not None
    two.process.send_signal(signal.SIGTTIN)  # one more worker
    assert await until(lambda: len(two.workers()) == 2, 60)
    two.wait_healthy(2)
    killed = two.workers()[0]["pid"]
    os.kill(killed, signal.SIGKILL)
    assert await until(lambda: killed not in {state["pid"] for state in two.workers()}, 60)
    two.wait_healthy(2)
    await leave(client)

    two.process.send_signal(signal.SIGTTOU)  # one less
    assert await until(lambda: len(two.workers()) == 1, 60)
    # no ended worker leaves its state behind
    assert await until(lambda: len(list((two.directory / "run").glob("worker-*.json"))) == 1)
    fresh: list[list[Any]] = [[], [], []]
    clients = [await subscribe(host, "policy_data", each) for host, each in zip((one, one, two), fresh, strict=True)]
    for number in range(10):
        await asyncio.to_thread(one.publish, "policy_data", {"n": number})
    assert await until(lambda: all(len(each) == 10 for each in fresh), 20), [len(each) for each in fresh]
    for client in clients:
        await leave(client)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"OPAL_BACKBONE_BUFFER_EVENTS": "lots"}, "OPAL_BACKBONE_BUFFER_EVENTS must be a whole number"),
        ({"OPAL_BACKBONE_TOKEN_FILE": "/nowhere"}, "OPAL_BACKBONE_TOKEN_FILE names a file that cannot be read"),
        ({"OPAL_BROADCAST_URI": "pulsar://a?b=c"}, "query"),
        ({"OPAL_BROADCAST_RECONNECT_ENABLED": "false"}, "OPAL_BROADCAST_RECONNECT_ENABLED must be true"),
        ({"OPAL_BROADCAST_RESYNC_ON_RECONNECT": "false"}, "OPAL_BROADCAST_RESYNC_ON_RECONNECT must be true"),
        ({"OPAL_BROADCAST_REPLAY_BUFFER_SIZE": "0"}, "OPAL_BROADCAST_REPLAY_BUFFER_SIZE must be at least 1"),
        ({"UVICORN_NUM_WORKERS": "two"}, "UVICORN_NUM_WORKERS must be a whole number"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    make_host: HostMaker, settings: dict[str, str], words: str
) -> None:
    host = make_host(wait=False, settings=settings)
    assert host.process is not None
    assert host.process.wait(30) == 78
    lines = host.log.read_text().strip().splitlines()
    assert len(lines) == 1, lines
    assert words in lines[0]


def test_an_application_made_before_its_workers_is_refused(make_host: HostMaker) -> None:
    host = make_host(wait=False, arguments=("--preload",))
    assert host.process is not None
    assert host.process.wait(60) == 78
    assert "--preload cannot be used" in host.log.read_text().strip().splitlines()[-1]


def test_gunicorns_master_makes_nothing_of_pulsars_client(channel: str, tmp_path: Path) -> None:
    script = "import sys, opal_backbone.gunicorn_conf; print('_pulsar' in sys.modules)"
    environment = {
        **os.environ,
        "OPAL_BROADCAST_URI": "pulsar://127.0.0.1",
        "OPAL_BROADCAST_CHANNEL_NAME": channel,
        "OPAL_BACKBONE_STATE_DIR": str(tmp_path / "run"),
    }
    master = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert master.stdout.strip() == "False"


def test_another_scheme_is_left_to_upstream(channel: str, tmp_path: Path) -> None:
    host = OpalHost("redis", "redis://127.0.0.1:1", channel, tmp_path, 1)
    host.start()
    try:
        deadline = time.monotonic() + 40
        while host.get("/healthcheck")[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.3)
        assert "broadcast scheme 'redis' is not Pulsar, so OPAL's own backend is left as it is" in host.log.read_text()
        assert host.get("/backbone")[0] == 404
    finally:
        host.kill()


LIGHT = """
import asyncio, gc, logging
from ddtrace.trace import tracer
from opal_backbone.server import app

async def main():
    async with app.router.lifespan_context(app):
        print(gc.get_freeze_count() > 10_000, tracer.enabled, logging.getLevelName(logging.getLogger().level))

asyncio.run(main())
"""


STUCK = """
import asyncio
from opal_backbone.server import app

asked = False

async def stop():
    global asked
    asked = True
    {}

async def main():
    server = app.state.backbone
    async with app.router.lifespan_context(app):
        await server.core.ready(30)
        server.opal.stop_server_background_tasks = stop
    print(asked, server.core.state()["connected"])

asyncio.run(main())
"""


def run_worker(script: str, broker: Standalone, channel: str, directory: Path) -> str:
    """Run a script in OPAL-server's environment, and return the last line that it printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OPAL_", "DD_"))},
        "OPAL_BROADCAST_URI": broker.url,
        "OPAL_BROADCAST_CHANNEL_NAME": channel,
        "OPAL_REPO_WATCHER_ENABLED": "false",
        "OPAL_LOG_LEVEL": "WARNING",
    }
    worker = subprocess.run(
        [sys.executable, "-c", script],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=40,
        check=True,
    )
    return worker.stdout.splitlines()[-1]


def test_a_worker_carries_nothing_that_nobody_asked_for(broker: Standalone, channel: str, tmp_path: Path) -> None:
    """Old objects are no matter of its collector, no traces are made, and no log records below its log's level."""
    assert run_worker(LIGHT, broker, channel, tmp_path) == "True False WARNING"


@pytest.mark.parametrize(
    "what", ["await asyncio.sleep(3600)", "raise RuntimeError('no')", "raise asyncio.CancelledError"]
)
def test_a_stop_reaches_the_backbone_whatever_becomes_of_opals_own(
    broker: Standalone, channel: str, tmp_path: Path, what: str
) -> None:
    assert run_worker(STUCK.format(what), broker, channel, tmp_path) == "True False"


async def test_the_command_publishes_to_every_worker_and_shows_the_topic(
    make_host: HostMaker, broker: Standalone, channel: str
) -> None:
    host = make_host()
    got: list[list[Any]] = [[] for _ in range(6)]
    clients = [await subscribe(host, "policy_data", each) for each in got]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(broker.url, channel, *arguments), capture_output=True, text=True, timeout=60, check=False
        )

    published = await asyncio.to_thread(run, "publish", "--data", '{"a": 1}', "--dst-path", "/a")
    assert published.returncode == 0, published.stderr
    assert await until(lambda: all(len(each) == 1 for each in got), 10)
    assert got[0][0]["entries"][0]["data"] == {"a": 1}
    shown = await asyncio.to_thread(run, "tail", "--earliest", "--count", "1", "--timeout", "5")
    assert "policy_data" in shown.stdout
    assert "(foreign)" in shown.stdout
    listed = await asyncio.to_thread(run, "tail", "--earliest", "--heartbeats", "--json", "--count", "2")
    assert all("id" in json.loads(line) for line in listed.stdout.splitlines())
    examined = await asyncio.to_thread(run, "doctor", "--admin-url", f"http://127.0.0.1:{broker.web_port}")
    assert examined.returncode == 0, examined.stdout
    assert "round trip" in examined.stdout
    assert (await asyncio.to_thread(run, "publish")).returncode == 2
    for client in clients:
        await leave(client)
