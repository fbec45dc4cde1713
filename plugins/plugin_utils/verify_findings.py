# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""What a matrix means, in sentences that name sender and receiver and say what to look at next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_matrix as matrix_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_decisions import (
    Decisions,
    decision_failures,
    decision_matrix,
    decision_warnings,
)
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_policy import (
    Found,
    policy_failures,
    policy_of,
    policy_warnings,
)
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import (
    Cell,
    HostResult,
    Matrix,
    Receiver,
    Report,
    Sender,
)

SKEW_MS = 500.0
"""A difference of both directions' latencies that no network makes, in milliseconds."""

JOURNAL = "'journalctl -u opal-server'"
"""Where OPAL-server says how it stands with its backbone."""


def named(host: str, pid: int) -> str:
    """Return how a worker is called."""
    return f"{host} worker {pid}" if pid else f"{host} (a worker that is not there)"


def listed(names: Iterable[str]) -> str:
    """Return names one after the other."""
    return ", ".join(dict.fromkeys(names))


def host_failures(results: Sequence[HostResult]) -> list[str]:
    """Return what is wrong with whole hosts."""
    failures = []
    for result in results:
        listening, host = result["listening"], result["host"]
        found = len(listening.get("workers") or [])
        if not listening.get("up"):
            failures.append(f"{host}: {listening.get('problem') or 'was not tested'}")
        elif listening.get("problem"):
            failures.append(f"{host}: its workers could not be listened to: {listening['problem']}")
        elif found < result["expected_workers"]:
            failures.append(
                f"{host} has {found} of {result['expected_workers']} worker processes: look at {JOURNAL} there"
            )
    return failures


def the_updates(matrix: Matrix) -> str:
    """Return how to speak of what a receiver should have had from each sender."""
    return "every update" if any(cell["expected"] > 1 for cell in matrix["cells"]) else "the update"


def missing_at(matrix: Matrix, receiver: Receiver) -> list[str]:
    """Return the hosts whose update a worker did not get."""
    return [
        cell["sender"]
        for cell in matrix["cells"]
        if cell["state"] == "missing" and (cell["host"], cell["pid"]) == (receiver["host"], receiver["pid"])
    ]


def worker_failures(matrix: Matrix) -> list[str]:
    """Return which workers missed something for a reason that is known."""
    return [
        f"{named(receiver['host'], receiver['pid'])} did not receive {the_updates(matrix)} of "
        f"{listed(missing_at(matrix, receiver))}: {receiver['problem']}. Look at "
        f"'ps -o pid,stat,wchan,etime -p {receiver['pid']}' and {JOURNAL} on {receiver['host']}"
        for receiver in matrix["receivers"]
        if receiver["pid"] and receiver["problem"] and missing_at(matrix, receiver)
    ]


def sender_failures(senders: Iterable[Sender], down: set[str]) -> list[str]:
    """Return which hosts could not send, other than those that are down altogether."""
    return [
        f"{sender['host']} did not send its update: {sender['problem']}. Look at {JOURNAL} on {sender['host']}"
        for sender in senders
        if sender["problem"] and sender["host"] not in down
    ]


def said_on(host: str, matrix: Matrix) -> str:
    """Return what the backbone of a host's first ailing worker says is wrong; the others say the same."""
    says = next((r["backbone"] for r in matrix["receivers"] if r["host"] == host and r["backbone"]), "")
    return f" Its backbone says: {says}." if says else ""


def unread_failures(matrix: Matrix, senders: Iterable[Sender], missing: dict[str, list[Cell]]) -> list[str]:
    """Return the updates that were logged as broadcast and are not in Pulsar's topic."""
    failures = []
    for sender in senders:
        if sender["problem"] or sender["raw"] not in (matrix_of.RAW_MISSING, matrix_of.RAW_UNKNOWN):
            continue
        cells = missing.get(sender["host"], [])
        lost = f" It did not reach {listed(named(cell['host'], cell['pid']) for cell in cells)}." if cells else ""
        if sender["raw"] == matrix_of.RAW_MISSING:
            says = said_on(sender["host"], matrix)
            failures.append(
                f"the update of {sender['host']} was logged as broadcast and is not in Pulsar's topic, so sending "
                f"failed.{lost}{says} Look at {JOURNAL} on {sender['host']}, and whether it reaches the broker"
            )
        elif cells:
            failures.append(
                f"the update of {sender['host']} was logged as broadcast, and no host could read Pulsar's topic to see "
                f"whether it got there.{lost} Look at the broker"
            )
    return failures


def whence(senders: Sequence[Sender]) -> str:
    """Return what is known about updates that a worker did not get although they were sent."""
    if all(sender["raw"] == matrix_of.RAW_READ for sender in senders):
        return "although it is in Pulsar's topic: receiving failed"
    return "although it was logged as broadcast"


def receiving_failures(matrix: Matrix, senders: Sequence[Sender]) -> list[str]:
    """Return the workers that missed updates which did leave their senders."""
    left = {
        sender["host"]: sender
        for sender in senders
        if not sender["problem"] and sender["raw"] in (matrix_of.RAW_READ, matrix_of.RAW_NOT_APPLICABLE)
    }
    failures = []
    for receiver in matrix["receivers"]:
        if receiver["problem"]:
            continue
        lost = [left[host] for host in missing_at(matrix, receiver) if host in left]
        if lost:
            deaf = "" if receiver["ready"] else " Nothing came to it over the backbone before the test either."
            says = f" Its backbone says: {receiver['backbone']}." if receiver["backbone"] else ""
            failures.append(
                f"{named(receiver['host'], receiver['pid'])} did not receive {the_updates(matrix)} of "
                f"{listed(sender['host'] for sender in lost)}, {whence(lost)}.{deaf}{says} "
                f"Look at {JOURNAL} on {receiver['host']}, and whether it reaches the backbone"
            )
    return failures


def raw_failures(senders: Sequence[Sender], readers: Sequence[dict[str, Any]]) -> list[str]:
    """Return that nobody could read Pulsar's topic, where that is part of the proof."""
    sent = [sender for sender in senders if sender["sent"]]
    if not sent or any(sender["raw"] != matrix_of.RAW_UNKNOWN for sender in sent):
        return []
    why = listed(reader["problem"] for reader in readers if reader["problem"]) or "no host was able to try"
    return [f"no host could read Pulsar's topic with pulsar-client: {why}"]


def failures_of(results: Sequence[HostResult], matrix: Matrix, senders: Sequence[Sender]) -> list[str]:
    """Return everything that makes the verification fail; where a cell is missing there is at least one."""
    missing: dict[str, list[Cell]] = defaultdict(list)
    for cell in matrix["cells"]:
        if cell["state"] == "missing":
            missing[cell["sender"]].append(cell)
    down = {result["host"] for result in results if not result["listening"].get("up")}
    failures = [
        *host_failures(results),
        *worker_failures(matrix),
        *sender_failures(senders, down),
        *unread_failures(matrix, senders, missing),
        *receiving_failures(matrix, senders),
        *raw_failures(senders, matrix_of.raw_readers(results)),
    ]
    if not results:
        failures.append("no host of the group 'opal_server' was tested")
    if any(missing.values()) and not failures:
        failures.append(
            "missing: " + listed(f"{c['sender']} to {named(c['host'], c['pid'])}" for c in sum(missing.values(), []))
        )
    return failures


def skew_warnings(matrix: Matrix) -> list[str]:
    """Return what the latencies tell of the hosts' clocks.

    A negative latency proves that two clocks differ; otherwise only a difference too large for a network is told.
    """
    early = {
        frozenset((cell["sender"], cell["host"]))
        for cell in matrix["cells"]
        if cell["latency_ms"] is not None and cell["latency_ms"] < 0
    }
    warnings = []
    for (one, other), offset in sorted(matrix_of.clock_offsets(matrix).items()):
        if frozenset((one, other)) in early or abs(offset) > SKEW_MS:
            direction = "ahead of" if offset > 0 else "behind"
            early.discard(frozenset((one, other)))
            warnings.append(
                f"the clock of {other} is about {abs(offset):.0f} ms {direction} that of {one}, and latencies between "
                "them are off by as much: look at 'timedatectl' on both"
            )
    pairs = sorted(" and ".join(sorted(pair)) for pair in early)
    warnings += [f"the clocks of {pair} differ: an update arrived before it was sent" for pair in pairs]
    return warnings


def warnings_of(
    results: Sequence[HostResult], matrix: Matrix, not_tested: Sequence[str], upstream_pulsar: bool
) -> list[str]:
    """Return what is worth knowing and no reason to fail."""
    warnings = []
    if upstream_pulsar and len(matrix["receivers"]) > 1:
        warnings.append(
            "opal_server_backbone is 'upstream': its Pulsar backend gives each event to one worker of the whole fleet; "
            "'fanout' gives it to every one"
        )
    if not_tested:
        warnings.append(f"this was a part of the fleet; not tested: {listed(not_tested)}")
    if len(matrix["receivers"]) == 1:
        warnings.append("only one worker was tested, so nothing had to pass over the backbone")
    twice = [cell for cell in matrix["cells"] if cell["state"] == "duplicate"]
    if twice:
        cells = listed(f"{c['sender']} to {named(c['host'], c['pid'])} ({c['copies']})" for c in twice)
        warnings.append(f"delivered more than once: {cells}")
    for receiver in matrix["receivers"]:
        if receiver["pid"] and receiver["problem"] and not missing_at(matrix, receiver):
            warnings.append(
                f"{named(receiver['host'], receiver['pid'])} received everything, but {receiver['problem']}"
            )
    for result in results:
        found = len(result["listening"].get("workers") or [])
        if found > result["expected_workers"]:
            warnings.append(f"{result['host']} has {found} workers and the inventory says {result['expected_workers']}")
        raw = result["collected"].get("raw") or result["listening"].get("raw")
        if raw and raw["problem"]:
            warnings.append(f"{result['host']} could not read Pulsar's topic with pulsar-client: {raw['problem']}")
    return warnings + skew_warnings(matrix)


def report_of(
    results: Sequence[HostResult],
    *,
    run: str,
    started_at: float,
    ended_at: float,
    backbone: str,
    channel: str,
    raw_applicable: bool,
    upstream_pulsar: bool,
    not_tested: Sequence[str],
    decisions: Decisions | None = None,
    policy: Found | None = None,
) -> Report:
    """Return the whole report; times are seconds since the epoch, decisions and policy are of a fleet with clients."""
    senders = matrix_of.senders_of(results, raw_applicable)
    matrix = matrix_of.worker_matrix(results, senders)
    failures = failures_of(results, matrix, senders)
    warnings = warnings_of(results, matrix, not_tested, upstream_pulsar)
    matrices = [matrix]
    if decisions and decisions["watched"]:
        matrices.append(decision_matrix(decisions))
        failures += decision_failures(matrices[1], decisions)
        warnings += decision_warnings(decisions)
    if policy:
        failures += policy_failures(policy)
        warnings += policy_warnings(policy)
    report: Report = {
        "schema": 1,
        "run": run,
        "started_at": started_at,
        "seconds": round(ended_at - started_at, 1),
        "passed": not failures,
        "backbone": backbone,
        "channel": channel,
        "not_tested": list(not_tested),
        "senders": senders,
        "matrices": matrices,
        "latency_ms": matrix_of.latency_figures(matrix["cells"]),
        "failures": failures,
        "warnings": warnings,
        "backbone_states": {result["host"]: result["collected"].get("backbone") or [] for result in results},
    }
    if policy and policy["served"]:
        report["policy"] = policy_of(policy)
    return report
