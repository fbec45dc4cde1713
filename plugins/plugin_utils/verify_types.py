# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""The plain data that a verification comes from and becomes; all of it goes into the JSON report."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class HostResult(TypedDict):
    """What one host's three steps returned (policyfleet.opal.fleet_probe); empty where a step was not taken."""

    host: str
    topic: str
    expected_workers: int
    listening: dict[str, Any]
    published: dict[str, Any]
    collected: dict[str, Any]


class Receiver(TypedDict):
    """A worker process, or one that should exist; then its pid is 0.

    ``ready`` tells whether it heard the backbone before the test, ``problem`` why it could not
    receive, and ``backbone`` what its backbone says is wrong, if it has one that says so.
    """

    host: str
    pid: int
    state: str
    ready: bool
    problem: str
    backbone: str


class Sender(TypedDict):
    """A host as the sender of its own updates.

    ``raw`` is ``read``, ``missing``, ``not sent``, ``unknown`` (nobody could read the topic) or ``not applicable``.
    """

    host: str
    topic: str
    sent: bool
    published_at: list[float]
    logged: bool
    logged_by: int
    line: str
    raw: str
    raw_message_id: str
    problem: str


class Cell(TypedDict):
    """One sender's updates at one receiver; ``state`` is ``delivered``, ``duplicate`` or ``missing``.

    ``received`` counts different updates, ``copies`` all deliveries; latencies are of each update's
    first copy, the middle one and the largest.
    """

    sender: str
    host: str
    pid: int
    state: str
    expected: int
    received: int
    copies: int
    latency_ms: float | None
    max_ms: float | None


class Matrix(TypedDict):
    """Senders by receivers. ``receiver`` is what these are: ``worker`` (of the first matrix), or ``OPA``."""

    title: str
    receiver: NotRequired[str]
    senders: list[str]
    receivers: list[Receiver]
    cells: list[Cell]


class Policy(TypedDict):
    """Which commit's policy each server serves, and the modules in which each OPA differs from it."""

    served: dict[str, str]
    differs: dict[str, list[str]]


class Report(TypedDict):
    """Everything that a verification found."""

    schema: int
    run: str
    started_at: float
    seconds: float
    passed: bool
    backbone: str
    channel: str
    not_tested: list[str]
    senders: list[Sender]
    matrices: list[Matrix]
    policy: NotRequired[Policy]
    latency_ms: dict[str, float]
    failures: list[str]
    warnings: list[str]
    backbone_states: dict[str, list[dict[str, Any]]]
