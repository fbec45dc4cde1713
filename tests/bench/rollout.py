#!/usr/bin/env python3
"""Measure a rollout of a fleet like the demo's, beside the least that any rollout has to do.

On fresh test hosts each time: first the floor (tests/bench/floor.sh on every host at once), then playbooks/site.yml;
then site.yml again on the same hosts, which has nothing to change. What the controller fetches is in its cache before
anything is measured. Remote executions are counted in a separate run, by the commands that Ansible sends over SSH.

Usage: rollout.py [--rounds N]    N rounds (1 by default) of floor and rollout in turn; prints a Markdown table
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
SITE = "playbooks/site.yml"
FLOOR = Path(__file__).with_name("floor.sh")
MEASURED = ("pulsar_standalone", "opal_server")
"""The groups of the demo that are measured."""

SUBNET = ("172.30.71.", "172.30.79.")
"""The demo's network, and the one that the measured fleet has in its place."""


def log(text: str) -> None:
    """Tell what goes on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def make_inventory(folder: Path) -> Path:
    """Write the demo's broker and OPAL-servers under another name and network, and return the inventory's path."""
    text = (ROOT / "inventories" / "demo" / "hosts.yml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text.replace(*SUBNET))
    servers = groups["opal_server"]["vars"]
    groups["opal_server"]["vars"] = {"opal_server_workers": servers["opal_server_workers"]}
    hosts = groups["test_hosts"]
    hosts["children"] = {name: {} for name in MEASURED}
    hosts["vars"].update(test_fleet="bench", test_ssh_dir=str(ROOT / ".cache" / "ssh"))
    path = folder / "hosts.yml"
    path.write_text(
        yaml.safe_dump({name: groups[name] for name in (*MEASURED, "test_hosts")}),
        encoding="utf-8",
    )
    return path


def playbook(inventory: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook; raises CalledProcessError, with its output told first, where it fails."""
    command = [str(BIN / "ansible-playbook"), "-i", str(inventory), name, *options]
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "UV_SYSTEM_CERTS": "true",
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-5000:] + done.stderr[-2000:])
        done.check_returncode()
    return done


def host_variables(inventory: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the variables of each host, and the hosts of each group."""
    done = subprocess.run(
        [str(BIN / "ansible-inventory"), "-i", str(inventory), "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    groups = {name: group["hosts"] for name, group in found.items() if "hosts" in group}
    return found["_meta"]["hostvars"], groups


def fresh_hosts(inventory: Path) -> None:
    """Remove the fleet and make it anew."""
    playbook(inventory, "molecule/shared/destroy.yml")
    playbook(inventory, "molecule/shared/create.yml")


def ssh(variables: Mapping[str, Any], program: str) -> list[str]:
    """Return the beginning of an ssh or scp command for a host."""
    known = ROOT / ".cache" / "ssh" / "known_hosts-bench"
    return [program, "-q", "-i", str(ROOT / ".cache" / "ssh" / "id_ed25519"), "-o", f"UserKnownHostsFile={known}"]


def floor_on(variables: Mapping[str, Any], kind: str, archive: Path, broker: str) -> None:
    """Do the unavoidable work on one host."""
    address = f"{variables['ansible_user']}@{variables['ansible_host']}"
    subprocess.run([*ssh(variables, "scp"), str(FLOOR), str(archive), f"{address}:/tmp/"], check=True)
    command = ["sudo", "/tmp/floor.sh", kind, f"/tmp/{archive.name}", broker]
    subprocess.run([*ssh(variables, "ssh"), address, *command], check=True)


def floor(inventory: Path, pulsar_archive: Path, bundle: Path) -> float:
    """Do the unavoidable work on every host, and return the seconds that it took."""
    variables, groups = host_variables(inventory)
    broker = variables[groups["pulsar_standalone"][0]]["ansible_host"]
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(floor_on, variables[h], "pulsar", pulsar_archive, broker) for h in groups["pulsar_standalone"]
        ]
        jobs += [pool.submit(floor_on, variables[h], "opal", bundle, broker) for h in groups["opal_server"]]
        for job in jobs:
            job.result()
    return time.monotonic() - started


def timed_rollout(inventory: Path) -> tuple[float, str]:
    """Run site.yml and return the seconds that it took, and its recap."""
    started = time.monotonic()
    done = playbook(inventory, SITE)
    return time.monotonic() - started, done.stdout[done.stdout.index("PLAY RECAP") :]


def remote_executions(inventory: Path) -> dict[str, int]:
    """Return how many commands Ansible sends to each host in a run that has nothing to change."""
    done = playbook(inventory, SITE, "-vvv")
    variables, groups = host_variables(inventory)
    names = {values["ansible_host"]: name for name, values in variables.items()}
    sent = Counter(re.findall(r"^<([^>]+)> SSH: EXEC", done.stdout, re.MULTILINE))
    return {names[address]: count for address, count in sorted(sent.items()) if address in names}


def changed_count(recap: str) -> int:
    """Return how many changes a recap tells of."""
    return sum(int(count) for count in re.findall(r"changed=(\d+)", recap))


def cached(pattern: str) -> Path:
    """Return the newest file of the controller's cache that a pattern names."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "policyfleet.opal"
    return max(cache.glob(pattern), key=lambda path: path.stat().st_mtime)


def table(
    floors: Sequence[float], fresh: Sequence[float], again: Sequence[float], sent: Mapping[str, int], changed: int
) -> str:
    """Return the figures as a Markdown table."""
    ratios = [rollout / least for rollout, least in zip(fresh, floors, strict=True)]
    rows = [
        ("the floor: a plain shell script on the same hosts", f"{statistics.median(floors):.1f} s"),
        ("fresh rollout", f"{statistics.median(fresh):.1f} s"),
        ("fresh rollout / floor", f"{statistics.median(ratios):.2f}"),
        ("run again with nothing to change", f"{statistics.median(again):.1f} s, {changed} changed"),
        ("remote executions per host in that run", ", ".join(f"{name} {count}" for name, count in sent.items())),
    ]
    lines = ["| what | measured |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join(
        [
            *lines,
            "",
            f"Median of {len(fresh)} round(s), all hosts on one machine with {os.cpu_count()} cores and "
            f"{memory:.0f} GiB.",
        ]
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    floors, fresh, again = [], [], []
    sent: dict[str, int] = {}
    changed = 0
    with tempfile.TemporaryDirectory() as folder:
        inventory = make_inventory(Path(folder))
        try:
            log("filling the controller's cache with a rollout that is not measured")
            fresh_hosts(inventory)
            playbook(inventory, SITE)
            for number in range(rounds):
                log(f"round {number + 1} of {rounds}: the floor")
                fresh_hosts(inventory)
                floors.append(floor(inventory, cached("apache-pulsar-*.tar.gz"), cached("opal-*.tar")))
                log(f"round {number + 1} of {rounds}: the rollout")
                fresh_hosts(inventory)
                fresh.append(timed_rollout(inventory)[0])
                seconds, recap = timed_rollout(inventory)
                again.append(seconds)
                changed += changed_count(recap)
            sent = remote_executions(inventory)
        finally:
            playbook(inventory, "molecule/shared/destroy.yml")
    print(table(floors, fresh, again, sent, changed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
