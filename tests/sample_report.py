"""A verification's report with a cell of each kind, for tests of what it looks like."""

from __future__ import annotations

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import Cell, Receiver, Report, Sender

HOSTS = ("opal1", "opal<2>")
PIDS = {"opal1": (11, 12), "opal<2>": (21, 0)}


def cell(sender: str, host: str, pid: int) -> Cell:
    copies = 0 if pid == 0 else 2 if pid == 12 else 1
    state = ("missing", "delivered", "duplicate")[copies]
    return {
        "sender": sender,
        "host": host,
        "pid": pid,
        "state": state,
        "expected": 1,
        "received": min(copies, 1),
        "copies": copies,
        "latency_ms": 12.34 if copies else None,
        "max_ms": 12.34 if copies else None,
    }


def receiver(host: str, pid: int) -> Receiver:
    problem = "" if pid else "1 of 2 workers run"
    return {"host": host, "pid": pid, "state": "sleeping (S)", "ready": True, "problem": problem, "backbone": ""}


def sender(host: str) -> Sender:
    return {
        "host": host,
        "topic": f"verify-r-from-{host}",
        "sent": True,
        "published_at": [1000.0],
        "logged": True,
        "logged_by": PIDS[host][0],
        "line": "Broadcasting incoming event: | <b>",
        "raw": "read",
        "raw_message_id": "(1,2,-1,-1)",
        "problem": "",
    }


def sample_report() -> Report:
    """Return a failed one: of two hosts with two workers each, one worker is not there, and one got updates twice."""
    receivers = [receiver(host, pid) for host in HOSTS for pid in PIDS[host]]
    cells = [cell(host, each["host"], each["pid"]) for host in HOSTS for each in receivers]
    return {
        "schema": 1,
        "run": "r",
        "started_at": 1000.0,
        "seconds": 5.0,
        "passed": False,
        "backbone": "pulsar://b:6650",
        "channel": "broadcast",
        "not_tested": [],
        "senders": [sender(host) for host in HOSTS],
        "matrices": [
            {"title": "From each host to each worker", "senders": list(HOSTS), "receivers": receivers, "cells": cells}
        ],
        "latency_ms": {"p50": 12.34, "p99": 12.34, "max": 1234.5},
        "failures": ["opal<2> has 1 of 2 worker processes"],
        "warnings": [],
        "backbone_states": {},
    }
