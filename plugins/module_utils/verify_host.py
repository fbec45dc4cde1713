# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A host's side of the verification: its unit, its journal, its API, and the listener as a transient unit."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import socket
import sys
import time
import urllib.error
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

if TYPE_CHECKING:
    # Never run: Ansible reads from it that these files belong to what it sends to a host.
    from ansible_collections.policyfleet.opal.plugins.module_utils import (  # noqa: F401
        verify_listener,
        verify_raw_events,
        verify_subscriber,
        verify_workers,
    )

PARTS = ("verify_workers", "verify_subscriber", "verify_raw_events", "verify_listener")
"""The files that the listener consists of."""

PACKAGE = "ansible_collections.policyfleet.opal.plugins.module_utils"
"""Where they are, here and in the listener's directory."""

BROADCAST = "Broadcasting incoming event"
"""What OPAL-server logs before it hands an event to the backbone."""

FREEZING = "freezing publish"
"""What OPAL-server logs when it holds an event back because it has lost the backbone."""

START_SECONDS = 20
"""How long the listener may take to open its socket, in seconds."""

PAUSE = 0.1
"""Time between two looks, in seconds."""


class Trouble(Exception):
    """Something that keeps this host from being tested, in words for the operator."""


def unit_state(module: AnsibleModule, unit: str) -> dict[str, str]:
    """Return what systemd knows of a unit: its state, main process and user."""
    _code, out, _err = module.run_command(
        ["systemctl", "show", "--property", "LoadState,ActiveState,SubState,MainPID,User,NRestarts", f"{unit}.service"]
    )
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def listener_unit(run: str) -> str:
    """Return the name of a run's transient unit and directory."""
    return f"policyfleet-verify-{run}"


def listener_directory(run: str) -> str:
    """Return the directory of a run, which systemd removes with the unit."""
    return f"/run/{listener_unit(run)}"


def source_of(part: str) -> str:
    """Return the source of one of the listener's files."""
    name = f"{PACKAGE}.{part}"
    spec = importlib.util.find_spec(name)
    source = spec.loader.get_source(name) if spec and spec.loader else None  # type: ignore[attr-defined]
    if not source:
        raise Trouble(f"the listener's part {part} did not reach this host")
    return str(source)


def write_listener(directory: str, ask: dict[str, Any], user: str) -> None:
    """Lay out the listener's directory, readable by its user alone."""
    package = os.path.join(directory, *PACKAGE.split("."))
    os.makedirs(directory, mode=0o700)
    os.makedirs(package, mode=0o700)
    files = {os.path.join(package, f"{part}.py"): source_of(part) for part in PARTS}
    files[os.path.join(directory, "ask.json")] = json.dumps(ask)
    for path, text in files.items():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(text)
    owner = pwd.getpwnam(user) if user else pwd.getpwuid(0)
    for root, folders, names in os.walk(directory):
        for name in [".", *folders, *names]:
            os.chown(os.path.join(root, name), owner.pw_uid, owner.pw_gid)


def start_listener(module: AnsibleModule, run: str, ask: dict[str, Any], user: str, deadline: int) -> None:
    """Start the listener as a transient unit that ends by itself after so many seconds."""
    unit, directory = listener_unit(run), listener_directory(run)
    properties = {
        "Type": "exec",
        "User": user or "root",
        "WorkingDirectory": directory,
        "RuntimeDirectory": unit,
        "RuntimeDirectoryMode": "0700",
        "RuntimeMaxSec": str(deadline),
        "TimeoutStopSec": "5",
        "UMask": "0077",
        "NoNewPrivileges": "true",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "true",
        "PrivateTmp": "true",
    }
    command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--description=Verification of OPAL-server"]
    command += [f"--property={name}={value}" for name, value in properties.items()]
    command += ["--setenv=PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m", f"{PACKAGE}.verify_listener", directory]
    try:
        write_listener(directory, ask, user)
        code, _out, err = module.run_command(command)
        if code:
            raise Trouble(f"the listener could not be started: {err.strip()}")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def stop_listener(module: AnsibleModule, run: str) -> None:
    """Make sure that nothing of the run is left, whatever state it was in."""
    module.run_command(["systemctl", "stop", f"{listener_unit(run)}.service"])
    shutil.rmtree(listener_directory(run), ignore_errors=True)


def ask_listener(run: str, question: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the listener's answer; raises ``Trouble`` where it does not answer within so many seconds."""
    path = os.path.join(listener_directory(run), "control")
    until = time.monotonic() + START_SECONDS
    while not os.path.exists(path):
        if not os.path.isdir(listener_directory(run)):
            raise Trouble(f"the listener ended early: look at 'journalctl -u {listener_unit(run)}'")
        if time.monotonic() > until:
            raise Trouble(f"the listener did not start within {START_SECONDS} seconds")
        time.sleep(PAUSE)
    pieces = []
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(seconds)
            link.connect(path)
            link.sendall(json.dumps(question).encode() + b"\n")
            while piece := link.recv(65536):
                pieces.append(piece)
        answer: dict[str, Any] = json.loads(b"".join(pieces))
    except (OSError, ValueError) as problem:
        raise Trouble(f"the listener did not answer: {problem}") from problem
    return answer


def publish(base: str, update: dict[str, Any], token: str, seconds: int) -> None:
    """Publish a data update as ``opal-client publish-data-update`` does; raises ``Trouble`` where it is not taken."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    url = f"{base}/data/config"
    try:
        open_url(url, method="POST", data=json.dumps(update), headers=headers, timeout=seconds, use_proxy=False)
    except urllib.error.HTTPError as problem:
        words = problem.read(300).decode("utf-8", "replace").strip()
        hint = "; set verify_datasource_token to a token of the type 'datasource'" if problem.code in (401, 403) else ""
        raise Trouble(f"{url} answers {problem.code} {words}{hint}") from problem
    except Exception as problem:  # refused, timed out, reset
        raise Trouble(f"{url} does not take the update: {problem}") from problem


def journal_of(module: AnsibleModule, unit: str, since: float, topic: str) -> list[tuple[str, float, int]]:
    """Return a unit's journal entries about a topic: text, time (seconds since the epoch) and pid."""
    _code, out, _err = module.run_command(
        ["journalctl", "--unit", unit, f"--since=@{int(since)}", "--no-pager", "--output=json"]
        + ["--output-fields=MESSAGE,_PID"]
    )
    entries = []
    for line in out.splitlines():
        if topic not in line:
            continue
        entry = json.loads(line)
        text = entry.get("MESSAGE")
        if isinstance(text, str):
            entries.append((text, int(entry["__REALTIME_TIMESTAMP"]) / 1e6, int(entry.get("_PID", 0))))
    return entries


def wait_for_broadcasts(
    module: AnsibleModule, unit: str, since: float, topic: str, updates: int, seconds: int
) -> dict[str, Any]:
    """Return whether a unit logged that it broadcasts a topic's updates, waiting at most so many seconds."""
    until = time.monotonic() + seconds
    while True:
        entries = journal_of(module, unit, since, topic)
        broadcasts = [(text, at, pid) for text, at, pid in entries if BROADCAST in text]
        if len(broadcasts) >= updates or time.monotonic() > until:
            text, at, pid = broadcasts[0] if broadcasts else ("", 0.0, 0)
            return {
                "logged": len(broadcasts) >= updates,
                "lines": len(broadcasts),
                "line": text.strip(),
                "at": at,
                "pid": pid,
                "frozen": any(FREEZING in each for each, _at, _pid in entries),
            }
        time.sleep(PAUSE)


def backbone_states(base: str) -> list[dict[str, Any]]:
    """Return what the backbone package tells of each worker; nothing where it is not in use or does not answer."""
    try:
        states = json.loads(open_url(f"{base}/backbone", timeout=5, use_proxy=False).read())
        # The latest events of a fleet in production are nobody's business here.
        return [{key: value for key, value in state.items() if key != "recent"} for state in states]
    except Exception:  # absent with the upstream backend; it only adds to the report
        return []
