"""A fleet of test hosts as tests see it: its inventory, its hosts' shells, and playbooks run against it.

The inventory is molecule/default/hosts.yml, or the one that the environment variable TEST_INVENTORY names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DEFAULT_INVENTORY = ROOT / "molecule" / "default" / "hosts.yml"
RECAP = re.compile(r"^(\S+)\s+: (ok=\d+.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a playbook's run came to."""

    returncode: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Ansible's own count for each host, for example {"opal1": {"ok": 9, "changed": 0, ...}}."""
        return {
            host: {name: int(count) for name, count in (pair.split("=") for pair in counts.split())}
            for host, counts in RECAP.findall(self.output)
        }

    @property
    def changed(self) -> int:
        """How many tasks changed something, on all hosts together."""
        return sum(counts["changed"] for counts in self.recap.values())

    @property
    def words(self) -> str:
        """The output with every run of white space as one blank, so that a wrapped sentence can be looked for."""
        return " ".join(self.output.split())


@dataclass(frozen=True)
class Verification:
    """A run of verify.yml and the report that it wrote."""

    run: Run
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether playbook and report agree that the fleet is whole; raises AssertionError if they differ."""
        assert self.report["passed"] == (self.run.returncode == 0), self.run.output
        return bool(self.report["passed"])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """All cells of the matrix: sender, host and pid of the receiving worker, state."""
        return [cell for matrix in self.report["matrices"] for cell in matrix["cells"]]

    @property
    def missing(self) -> set[tuple[str, str, int]]:
        """Sender, host and pid of each cell that got nothing."""
        return {(cell["sender"], cell["host"], cell["pid"]) for cell in self.cells if cell["state"] == "missing"}

    @property
    def unnamed(self) -> set[tuple[str, str, int]]:
        """Missing cells of which no sentence on the screen names sender and receiver."""
        sentences = [" ".join(sentence.split()) for sentence in self.report["failures"]]
        assert all(sentence in self.run.words for sentence in sentences), self.run.output
        return {
            (sender, host, pid)
            for sender, host, pid in self.missing
            if not any(sender in sentence and f"{host} worker {pid}" in sentence for sentence in sentences)
        }


@dataclass(frozen=True)
class Fleet:
    """The hosts of an inventory."""

    inventory: Path

    @cached_property
    def listing(self) -> dict[str, Any]:
        """The inventory as ansible-inventory lists it, its variables as they are written."""
        command = [str(BIN / "ansible-inventory"), "-i", str(self.inventory), "--list"]
        listing: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment()).stdout
        )
        return listing

    def hosts(self, group: str) -> list[str]:
        """Hosts that are in a group itself; empty where there is no such group."""
        hosts: list[str] = self.listing.get(group, {}).get("hosts", [])
        return hosts

    @property
    def all_hosts(self) -> list[str]:
        """All hosts of the fleet."""
        return sorted(self.variables)

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables of each host."""
        variables: dict[str, dict[str, Any]] = self.listing["_meta"]["hostvars"]
        return variables

    @property
    def ssh_config(self) -> Path:
        """What molecule/shared/create.yml wrote down for reaching the hosts."""
        name = next(iter(self.variables.values()))["test_fleet"]
        return ROOT / ".cache" / "ssh" / f"config-{name}"

    def shell(self, host: str, command: str, *, check: bool = True) -> str:
        """Run a shell command on a host as root and return its output; raises RuntimeError if it fails."""
        remote = f"sudo bash -c {shlex.quote(command)}"
        run = subprocess.run(
            ["ssh", "-F", str(self.ssh_config), host, remote], capture_output=True, text=True, check=False
        )
        if check and run.returncode != 0:
            raise RuntimeError(f"on {host}: {command!r} ended with {run.returncode}: {run.stdout}{run.stderr}")
        return run.stdout

    @contextmanager
    def dropping(self, host: str, *packets: str) -> Iterator[None]:
        """Have a host drop packets while this lasts; each of `packets` is a chain of iptables and a match in it."""
        self.shell(host, " && ".join(f"iptables -I {each} -j DROP" for each in packets))
        try:
            yield
        finally:
            self.shell(host, " && ".join(f"iptables -D {each} -j DROP" for each in packets))

    def command(self, playbook: str, *arguments: str) -> list[str]:
        """The command that runs a playbook of the checkout, given relative to its root, against the fleet."""
        return [str(BIN / "ansible-playbook"), "-i", str(self.inventory), str(ROOT / playbook), *arguments]

    def play(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook to its end, whatever that is."""
        run = subprocess.run(
            self.command(playbook, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment(),
            check=False,
        )
        return Run(run.returncode, run.stdout)

    def must_play(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook that has to succeed; raises AssertionError with its output if it does not."""
        run = self.play(playbook, *arguments)
        assert run.returncode == 0, run.output
        return run

    def verify(self, *arguments: str) -> Verification:
        """Run verify.yml, and return its run together with the report that it wrote."""
        with tempfile.TemporaryDirectory() as folder:
            run = self.play("playbooks/verify.yml", "-e", f"verify_report_dir={folder}", *arguments)
            reports = list(Path(folder).glob("*.json"))
            assert len(reports) == 1, run.output
            return Verification(run, json.loads(reports[0].read_text(encoding="utf-8")))


def environment() -> dict[str, str]:
    """The environment for Ansible's commands: the checkout's settings, and plain output."""
    plain = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
    return {**os.environ, **plain}


def chosen_fleet() -> Fleet:
    """The fleet that this run of pytest is about."""
    return Fleet(Path(os.environ.get("TEST_INVENTORY") or DEFAULT_INVENTORY).resolve())


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> float:
    """Ask twice a second until the condition holds; return how long it took, in seconds.

    Raises TimeoutError, which says what did not come true.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.5)
    return time.monotonic() - started
