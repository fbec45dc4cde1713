"""A fleet of agents, and the accounting of what each of them got."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

QUICK = {
    "OPAL_BACKBONE_HEARTBEAT_INTERVAL": "1",
    "OPAL_BACKBONE_DEAF_AFTER": "4",
    "OPAL_BACKBONE_ACK_TIMEOUT": "3",
    "OPAL_BACKBONE_HOLD_AFTER": "1",
    "OPAL_BACKBONE_OPERATION_TIMEOUT": "5",
    "OPAL_BACKBONE_CONNECT_TIMEOUT": "2",
}
"""Settings that see a fault sooner than the defaults do, for the quick suite."""


class AgentProcess:
    """Starts one agent and talks to it."""

    def __init__(
        self,
        name: str,
        uri: str,
        channel: str,
        directory: Path,
        settings: dict[str, str] | None = None,
        prefix: Iterable[str] = (),
    ) -> None:
        self.name = name
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OPAL_")},
            "PYTHONPATH": f"{HERE}:{HERE.parent / 'src'}",
            "OPAL_BROADCAST_URI": uri,
            "OPAL_BROADCAST_CHANNEL_NAME": channel,
            "AGENT_NAME": name,
            **(settings or {}),
        }
        self._arguments = [*prefix, sys.executable, str(HERE / "agent.py")]
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._arguments,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def send(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"agent {self.name} ended; see {self.log}:\n{self.log.read_text()[-2000:]}")

    def ask(self, **command: Any) -> dict[str, Any]:
        self.send(**command)
        return self.receive()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> dict[str, Any]:
        answer = self.ask(do="stop")
        self.process.wait(20)
        return answer

    def restart(self) -> None:
        """Begin a new life, with the same name and settings."""
        self.process = self._start()


@dataclass
class Tally:
    """What one agent got of what was published while it lived."""

    name: str
    delivered: int
    expected: int
    lost: int
    duplicates: int
    out_of_order: int
    longest_delay: float
    outage: float
    retried: int = 0
    gaps: int = 0
    resyncs: int = 0
    dropped: int = 0
    searches: int = 0
    inversions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.name}: delivered {self.delivered} of {self.expected}, lost {self.lost}, duplicates"
            f" {self.duplicates}, out of order {self.out_of_order}, longest delay {self.longest_delay:.1f} s, longest"
            f" silence {self.outage:.1f} s, retried {self.retried}, gaps {self.gaps}, resyncs {self.resyncs}"
            f", repetitions dropped {self.dropped}, searches {self.searches}"
            + (f" {self.inversions}" if self.inversions else "")
        )


@dataclass
class Fleet:
    """Agents that publish and receive together."""

    agents: list[AgentProcess]
    published: dict[str, int] = field(default_factory=dict)

    def ready(self, timeout: float = 90) -> None:
        for agent in self.agents:
            agent.send(do="ready", timeout=timeout)
        assert all(agent.receive()["ready"] for agent in self.agents)

    def publish(self, each: int, rate: float, size: int = 0) -> None:
        """Have every agent publish `each` events at `rate` per second (0: as fast as it can), in the background."""
        for agent in self.agents:
            first = self.published.get(agent.name, 0)
            agent.ask(do="publish", first=first, count=each, rate=rate, size=size)
            self.published[agent.name] = first + each

    def wait_published(self) -> None:
        for agent in self.agents:
            agent.ask(do="published")

    def wait_received(self, total: int, timeout: float, agents: list[AgentProcess] | None = None) -> bool:
        """Wait until every agent has that many events."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(agent.ask(do="count")["received"] >= total for agent in agents or self.agents):
                time.sleep(1)  # for duplicates to show themselves
                return True
            time.sleep(0.5)
        return False

    def wait_acknowledged(self, timeout: float) -> bool:
        """Wait until no agent keeps an event that the broker has not acknowledged; timeout in seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not any(agent.ask(do="count")["state"]["waiting"] for agent in self.agents):
                return True
            time.sleep(0.5)
        return False

    def tally(self, agents: list[AgentProcess] | None = None) -> list[Tally]:
        return [self._tally(agent.ask(do="report")) for agent in agents or self.agents]

    def _tally(self, report: dict[str, Any]) -> Tally:
        seen: dict[str, list[int]] = {}
        for sender, number, _sent, _got in report["received"]:
            seen.setdefault(sender, []).append(number)
        expected = sum(self.published.values())
        delivered = sum(len(set(numbers)) for numbers in seen.values())
        lost = sum(len(set(range(count)) - set(seen.get(sender, []))) for sender, count in self.published.items())
        times = [got for *_, got in report["received"]]
        counters = report["state"]["counters"]
        return Tally(
            name=report["name"],
            delivered=delivered,
            expected=expected,
            lost=lost,
            duplicates=sum(len(numbers) - len(set(numbers)) for numbers in seen.values()),
            out_of_order=sum(b < a for numbers in seen.values() for a, b in itertools.pairwise(numbers)),
            longest_delay=max((got - sent for *_, sent, got in report["received"]), default=0),
            outage=max((b - a for a, b in itertools.pairwise(times)), default=0),
            retried=counters["retried"],
            gaps=counters["gaps"],
            resyncs=report["resyncs"],
            dropped=counters["duplicates"],
            searches=counters["searches"],
            inversions=[
                f"{sender} {a} before {b}"
                for sender, numbers in seen.items()
                for a, b in itertools.pairwise(numbers)
                if b < a
            ],
        )

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
