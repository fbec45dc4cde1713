# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""From what OPAL-servers published and OPAs showed to the matrix of senders and policy engines, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_matrix import RAW_NOT_APPLICABLE, cell_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import Cell, Matrix, Receiver, Sender


class Decisions(TypedDict):
    """What policyfleet.opal.decision_probe returned: by host what was published, what was watched and what is left."""

    published: dict[str, dict[str, Any]]
    watched: dict[str, dict[str, Any]]
    gone: dict[str, dict[str, Any]]


def problem_of(found: dict[str, Any]) -> str:
    """Return why a step brought nothing, empty where it did."""
    if not found:
        return "this step was not taken"
    if found.get("unreachable") or found.get("failed"):
        words = str(found.get("msg") or "").strip().splitlines()
        return words[-1] if words else "this step failed"
    return str(found.get("problem") or "")


def sender_of(host: str, found: dict[str, Any]) -> Sender:
    """Return a host as the sender of updates to OPAs."""
    problem = problem_of(found)
    return {
        "host": host,
        "topic": "",
        "sent": not problem,
        "published_at": [float(at) for at in found.get("published_at") or []],
        "logged": False,
        "logged_by": 0,
        "line": "",
        "raw": RAW_NOT_APPLICABLE,
        "raw_message_id": "",
        "problem": problem,
    }


def receiver_of(host: str, found: dict[str, Any]) -> Receiver:
    """Return the OPA of a host as a receiver."""
    problem, pid = problem_of(found), int(found.get("pid") or 0)
    return {
        "host": host,
        "pid": pid,
        "state": "running" if pid else "absent",
        "ready": not problem,
        "problem": problem or ("" if pid else "opa.service does not run"),
        "backbone": "",
    }


def decision_matrix(decisions: Decisions) -> Matrix:
    """Return the matrix of sending hosts and OPAs."""
    senders = [sender_of(host, found) for host, found in decisions["published"].items()]
    cells: list[Cell] = []
    receivers = [receiver_of(host, found) for host, found in decisions["watched"].items()]
    for sender in senders:
        for receiver in receivers:
            seen = (decisions["watched"][receiver["host"]].get("seen") or {}).get(sender["host"]) or []
            cells.append(cell_of(sender, receiver, [(int(number), float(at)) for number, at in seen]))
    return {
        "title": "From each host to each OPA",
        "receiver": "OPA",
        "senders": [sender["host"] for sender in senders],
        "receivers": receivers,
        "cells": cells,
    }


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them."""
    return ", ".join(dict.fromkeys(names))


def decision_failures(matrix: Matrix, decisions: Decisions) -> list[str]:
    """Return which OPAs did not get which updates; where a cell is missing there is at least one."""
    unsent = {host: problem_of(found) for host, found in decisions["published"].items() if problem_of(found)}
    failures = [f"{host} published no update for OPAs: {problem}" for host, problem in unsent.items()]
    for receiver in matrix["receivers"]:
        host = receiver["host"]
        lost = [
            cell["sender"]
            for cell in matrix["cells"]
            if cell["host"] == host and cell["state"] == "missing" and cell["sender"] not in unsent
        ]
        if lost:
            why = f": {receiver['problem']}" if receiver["problem"] else ""
            failures.append(
                f"the OPA of {host} did not get the update of {listed(lost)}{why}. "
                f"Look at 'journalctl -u opal-client' on {host}, and at 'curl -i http://127.0.0.1:7003/connected' "
                "there (503 is: connected to no server)"
            )
    return failures


def decision_warnings(decisions: Decisions) -> list[str]:
    """Return where the reserved path was not removed as it should be."""
    return [f"{host}: {problem_of(found)}" for host, found in decisions["gone"].items() if problem_of(found)]
