# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""From what the hosts returned to the matrix of senders and workers, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import (
    Cell,
    HostResult,
    Matrix,
    Receiver,
    Sender,
)

RAW_NOT_APPLICABLE = "not applicable"
RAW_NOT_SENT = "not sent"
RAW_UNKNOWN = "unknown"
RAW_READ = "read"
RAW_MISSING = "missing"


def workers_of(result: HostResult) -> list[dict[str, Any]]:
    """Return a host's workers as they were last seen."""
    workers: list[dict[str, Any]] = result["collected"].get("workers") or result["listening"].get("workers") or []
    return sorted(workers, key=lambda worker: int(worker["pid"]))


def worker_problem(worker: dict[str, Any], result: HostResult) -> str:
    """Return why a worker could not receive anything, empty where it could."""
    if not worker["covered"]:
        return str(worker["note"])
    if result["collected"].get("problem"):
        return str(result["collected"]["problem"])
    if str(worker["state"]).startswith("stopped"):
        return f"it is {worker['state']}"
    if worker["closed"] and worker["state"] == "gone":
        return f"it ended during the run, at {worker['closed']}"
    if worker["closed"]:
        return f"it closed the connection during the run, at {worker['closed']}"
    return ""


def receivers_of(result: HostResult) -> list[Receiver]:
    """Return the workers of a host, and one without a pid for each that should be there and is not."""
    reasons = {int(state.get("pid", 0)): state.get("reason") for state in result["collected"].get("backbone") or []}
    found: list[Receiver] = [
        {
            "host": result["host"],
            "pid": int(worker["pid"]),
            "state": str(worker["state"]),
            "ready": bool(worker["ready"]),
            "problem": worker_problem(worker, result),
            "backbone": str(reasons.get(int(worker["pid"])) or ""),
        }
        for worker in workers_of(result)
    ]
    why = str(result["listening"].get("problem") or "") or f"{len(found)} of {result['expected_workers']} workers run"
    while len(found) < result["expected_workers"]:
        absent: Receiver = {
            "host": result["host"],
            "pid": 0,
            "state": "absent",
            "ready": False,
            "problem": why,
            "backbone": "",
        }
        found.append(absent)
    return found


def raw_readers(results: Iterable[HostResult]) -> list[dict[str, Any]]:
    """Return what each host's reader beside OPAL found."""
    found = [result["collected"].get("raw") or result["listening"].get("raw") for result in results]
    return [raw for raw in found if raw]


def raw_of(topic: str, updates: int, readers: Sequence[dict[str, Any]], applicable: bool) -> tuple[str, str]:
    """Return whether all updates of a topic were read beside OPAL, and the message id of the first."""
    if not applicable:
        return RAW_NOT_APPLICABLE, ""
    for reader in readers:
        event = reader["events"].get(topic)
        if event and len(set(event["numbers"])) >= updates:
            return RAW_READ, str(event["message_id"])
    return (RAW_MISSING if any(not reader["problem"] for reader in readers) else RAW_UNKNOWN), ""


def sender_problem(result: HostResult) -> str:
    """Return why a host's update did not leave it, empty where nothing is known against it."""
    published = result["published"]
    if not published:
        return str(result["listening"].get("problem") or "the update was not published")
    if published.get("problem"):
        return str(published["problem"])
    broadcast = published["broadcast"]
    if broadcast["logged"]:
        return ""
    if broadcast["lines"]:
        return f"OPAL-server logged {broadcast['lines']} broadcasts for {len(published['published_at'])} updates"
    if broadcast["frozen"]:
        return "OPAL-server accepted the update and holds it back, since it has lost the backbone"
    return "OPAL-server accepted the update and did not log that it broadcasts it"


def senders_of(results: Sequence[HostResult], raw_applicable: bool) -> list[Sender]:
    """Return each host as a sender."""
    readers = raw_readers(results)
    senders: list[Sender] = []
    for result in results:
        published = result["published"]
        broadcast = published.get("broadcast") or {}
        times = [float(at) for at in published.get("published_at") or []]
        sent = bool(published) and not published.get("problem")
        raw, message_id = raw_of(result["topic"], len(times), readers, raw_applicable) if sent else (RAW_NOT_SENT, "")
        senders.append(
            {
                "host": result["host"],
                "topic": result["topic"],
                "sent": sent,
                "published_at": times,
                "logged": bool(broadcast.get("logged")),
                "logged_by": int(broadcast.get("pid") or 0),
                "line": str(broadcast.get("line") or ""),
                "raw": raw,
                "raw_message_id": message_id,
                "problem": sender_problem(result),
            }
        )
    return senders


def cell_of(sender: Sender, receiver: Receiver, deliveries: Sequence[tuple[int, float]]) -> Cell:
    """Return one cell, from the number and the time of each delivery."""
    first: dict[int, float] = {}
    for number, at in deliveries:
        if number < len(sender["published_at"]):
            first[number] = min(at, first.get(number, at))
    latencies = [round((at - sender["published_at"][number]) * 1000, 2) for number, at in first.items()]
    # A host that could not send owes one update all the same.
    expected = max(1, len(sender["published_at"]))
    state = "missing" if len(first) < expected else "duplicate" if len(deliveries) > expected else "delivered"
    return {
        "sender": sender["host"],
        "host": receiver["host"],
        "pid": receiver["pid"],
        "state": state,
        "expected": expected,
        "received": len(first),
        "copies": len(deliveries),
        "latency_ms": percentile(latencies, 0.5) if latencies else None,
        "max_ms": max(latencies, default=None),
    }


def worker_matrix(results: Sequence[HostResult], senders: Sequence[Sender]) -> Matrix:
    """Return the matrix of sending hosts and receiving workers."""
    receivers = [receiver for result in results for receiver in receivers_of(result)]
    deliveries = {
        (result["host"], int(worker["pid"])): worker["deliveries"]
        for result in results
        for worker in workers_of(result)
    }
    cells = [
        cell_of(sender, receiver, deliveries.get((receiver["host"], receiver["pid"]), {}).get(sender["topic"], []))
        for sender in senders
        for receiver in receivers
    ]
    return {
        "title": "From each host to each worker",
        "receiver": "worker",
        "senders": [sender["host"] for sender in senders],
        "receivers": receivers,
        "cells": cells,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency_figures(cells: Iterable[Cell]) -> dict[str, float]:
    """Return p50 and p99 of the cells and the largest latency, in milliseconds; nothing where nothing was delivered."""
    found = list(cells)
    values = [cell["latency_ms"] for cell in found if cell["latency_ms"] is not None]
    if not values:
        return {}
    largest = max(cell["max_ms"] for cell in found if cell["max_ms"] is not None)
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": largest}


def clock_offsets(matrix: Matrix) -> dict[tuple[str, str], float]:
    """Return by how many milliseconds the second host's clock is ahead of the first's, for each pair of hosts.

    An update needs about as long there as back, so half the difference between the quickest of
    both directions is the clocks'.
    """
    quickest: dict[tuple[str, str], float] = {}
    for cell in matrix["cells"]:
        if cell["latency_ms"] is not None:
            pair = (cell["sender"], cell["host"])
            quickest[pair] = min(cell["latency_ms"], quickest.get(pair, math.inf))
    return {
        (one, other): round((there - quickest[other, one]) / 2, 1)
        for (one, other), there in quickest.items()
        if one < other and (other, one) in quickest
    }
