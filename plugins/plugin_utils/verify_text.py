# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A report as text: for the terminal, and as Markdown."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_policy import SHORT
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import (
    Cell,
    Matrix,
    Receiver,
    Report,
    Sender,
)

Paint = Callable[[str, str], str]
"""Colours a text: given the text and a colour's name."""

COLOURS = {"delivered": "green", "duplicate": "yellow", "missing": "red"}
"""The colour of each state of a cell."""

MISSING = "missing"
"""What a cell without a delivery shows."""

Table = list[list[tuple[str, str]]]
"""Rows of cells, each a text and a colour (empty for none)."""


def plain(text: str, _colour: str) -> str:
    """Return a text as it is."""
    return text


def milliseconds(value: float | None) -> str:
    """Return a latency as a person reads it."""
    if value is None:
        return MISSING
    return f"{value:.1f} ms" if abs(value) < 1000 else f"{value / 1000:.2f} s"


def cell_text(cell: Cell) -> str:
    """Return what a cell shows: a time, or how much of what was sent is there."""
    if cell["state"] == "missing":
        return f"{cell['received']} of {cell['expected']}" if cell["received"] else MISSING
    extra = cell["copies"] - cell["received"]
    return milliseconds(cell["latency_ms"]) + (f" +{extra}" if extra else "")


def receiver_text(receiver: Receiver) -> str:
    """Return what a column's head shows below its host."""
    return str(receiver["pid"]) if receiver["pid"] else "none"


def journal_text(sender: Sender) -> tuple[str, str]:
    """Return what the journal said about a sender's update, and its colour."""
    if sender["logged"]:
        return f"by {sender['logged_by']}", "green"
    return (MISSING if sender["sent"] else "not sent"), "red"


def raw_text(sender: Sender) -> tuple[str, str]:
    """Return what was read beside OPAL about a sender's update, and its colour."""
    colour = {"read": "green", "not applicable": ""}.get(sender["raw"], "red")
    return (f"read {sender['raw_message_id']}" if sender["raw"] == "read" else sender["raw"]), colour


def table_of(matrix: Matrix, senders: Sequence[Sender]) -> Table:
    """Return the matrix as a table: two lines of heads, then a line a sender."""
    by_host = {sender["host"]: sender for sender in senders}
    hosts = [receiver["host"] for receiver in matrix["receivers"]]
    once = [host if at == 0 or hosts[at - 1] != host else "" for at, host in enumerate(hosts)]
    rows: Table = [
        [("", ""), *((host, "") for host in once), ("", ""), ("", "")],
        [
            ("from \\ to worker", ""),
            *((receiver_text(r), "red" if r["problem"] else "") for r in matrix["receivers"]),
            ("journal", ""),
            ("Pulsar", ""),
        ],
    ]
    for host in matrix["senders"]:
        cells = [cell for cell in matrix["cells"] if cell["sender"] == host]
        row = [(host, "red" if by_host[host]["problem"] else "")]
        row += [(cell_text(cell), COLOURS[cell["state"]]) for cell in cells]
        rows.append([*row, journal_text(by_host[host]), raw_text(by_host[host])])
    return rows


def plain_table(matrix: Matrix) -> Table:
    """Return a further matrix as a table: one line of heads, then a line a sender."""
    rows: Table = [
        [
            (f"from \\ to {matrix.get('receiver', 'worker')} of", ""),
            *((receiver["host"], "red" if receiver["problem"] else "") for receiver in matrix["receivers"]),
        ]
    ]
    for host in matrix["senders"]:
        cells = [cell for cell in matrix["cells"] if cell["sender"] == host]
        rows.append([(host, ""), *((spread_text(cell), COLOURS[cell["state"]]) for cell in cells)])
    return rows


def spread_text(cell: Cell) -> str:
    """Return what a cell shows with its largest latency beside the middle one, where they differ."""
    if cell["state"] == "missing" or cell["latency_ms"] == cell["max_ms"]:
        return cell_text(cell)
    return f"{cell_text(cell)} (max {milliseconds(cell['max_ms'])})"


def drawn(table: Table, paint: Paint) -> list[str]:
    """Return a table's lines, its columns aligned."""
    widths = [max(len(row[at][0]) for row in table) for at in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            (paint(text, colour) if colour else text) + " " * (widths[at] - len(text))
            for at, (text, colour) in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def counts(matrix: Matrix) -> tuple[int, int]:
    """Return how many cells were delivered, and how many there are."""
    return sum(cell["state"] != "missing" for cell in matrix["cells"]), len(matrix["cells"])


def short_rows(matrix: Matrix, senders: Sequence[Sender]) -> Table:
    """Return a line a sender and receiving host, for a fleet whose matrix is wider than the screen."""
    rows: Table = [[(text, "") for text in ("from", "to", "workers reached", "slowest", "journal", "Pulsar")]]
    for sender in senders:
        for host in dict.fromkeys(receiver["host"] for receiver in matrix["receivers"]):
            cells = [c for c in matrix["cells"] if c["sender"] == sender["host"] and c["host"] == host]
            reached = [c for c in cells if c["state"] != "missing"]
            colour = "green" if len(reached) == len(cells) else "red"
            slowest = max((c["latency_ms"] or 0.0 for c in reached), default=None)
            rows.append(
                [
                    (sender["host"], ""),
                    (host, ""),
                    (f"{len(reached)} of {len(cells)}", colour),
                    (milliseconds(slowest), colour),
                    journal_text(sender),
                    raw_text(sender),
                ]
            )
    return rows


def length(line: str) -> int:
    """Return how wide a line is on the screen, without its colours."""
    return len(re.sub(r"\x1b\[[0-9;]*m", "", line))


def many(number: int, what: str) -> str:
    """Return a number of things, for example ``1 host`` or ``3 hosts``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def each(matrix: Matrix) -> str:
    """Return how many updates a delivery stands for, where it is more than one."""
    most = max((cell["expected"] for cell in matrix["cells"]), default=1)
    return f" of {most} updates each" if most > 1 else ""


def head(report: Report) -> str:
    """Return a report's first line."""
    matrix = report["matrices"][0]
    delivered, total = counts(matrix)
    workers = sum(1 for receiver in matrix["receivers"] if receiver["pid"])
    return (
        f"Verification {report['run']}: {many(len(matrix['senders']), 'host')}, {many(workers, 'worker')}, "
        f"{delivered} of {total} deliveries{each(matrix)}, over {report['backbone'] or 'no backbone'}"
    )


def latency_line(report: Report) -> str:
    """Return a line with the latencies, empty where there are none."""
    figures = report["latency_ms"]
    if not figures:
        return ""
    shown = ", ".join(f"{name} {milliseconds(figures[name])}" for name in ("p50", "p99", "max"))
    return f"From publish to worker: {shown} (by the hosts' own clocks)"


def policy_line(report: Report) -> str:
    """Return a line about the policy, empty where servers have none."""
    policy = report.get("policy")
    if not policy:
        return ""
    commits = ", ".join(sorted({commit[:SHORT] for commit in policy["served"].values() if commit})) or "none"
    agreeing = sum(not paths for paths in policy["differs"].values())
    return (
        f"Policy: commit {commits} from {many(len(policy['served']), 'host')}, "
        f"held by {agreeing} of {many(len(policy['differs']), 'OPA')}"
    )


def screen(report: Report, width: int, paint: Paint) -> list[str]:
    """Return a report's lines for a terminal of so many columns."""
    matrix = report["matrices"][0]
    lines = [head(report), ""]
    if matrix["cells"]:
        table = drawn(table_of(matrix, report["senders"]), paint)
        if max(map(length, table)) > width:
            table = drawn(short_rows(matrix, report["senders"]), paint)
        lines += [*table, ""]
    for further in report["matrices"][1:]:
        lines += [*drawn(plain_table(further), paint), ""]
    lines += [line for line in (latency_line(report), policy_line(report)) if line]
    lines += [paint(f"note: {warning}", "yellow") for warning in report["warnings"]]
    lines += [paint(f"failed: {failure}", "red") for failure in report["failures"]]
    if report["passed"]:
        whole = " that was tested" if report["not_tested"] else ""
        others = "".join(f" and every {other.get('receiver', 'worker')}" for other in report["matrices"][1:])
        lines.append(
            paint(f"passed: every update reached every worker{whole}{others}, and every host logged it", "green")
        )
    return lines


def escaped(text: str) -> str:
    """Return a text that Markdown leaves alone in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(table: Table, heads: int) -> list[str]:
    """Return a table as Markdown; its first lines are joined to one head."""
    joined = [" ".join(filter(None, (row[at][0] for row in table[:heads]))) for at in range(len(table[0]))]
    rows = [joined, ["---"] * len(joined), *([cell[0] for cell in row] for row in table[heads:])]
    return ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    matrix = report["matrices"][0]
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report["started_at"]))
    lines = [
        f"# OPAL fleet verification: {'passed' if report['passed'] else 'FAILED'}",
        "",
        f"{head(report)}. Started {when}, took {report['seconds']:.1f} s.",
        "",
    ]
    for title, sentences in (("What failed", report["failures"]), ("Worth knowing", report["warnings"])):
        if sentences:
            lines += [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""]
    table = table_of(matrix, report["senders"])
    # In one line of heads, each worker carries the name of its host.
    table[0] = [("", ""), *((receiver["host"], "") for receiver in matrix["receivers"]), ("", ""), ("", "")]
    lines += [f"## {matrix['title']}", "", *markdown_table(table, 2), ""]
    for further in report["matrices"][1:]:
        lines += [f"## {further['title']}", "", *markdown_table(plain_table(further), 1), ""]
    lines += [f"{line}\n" for line in (latency_line(report), policy_line(report)) if line]
    lines += ["## What each host logged", ""]
    lines += [f"- {sender['host']}: `{sender['line'] or 'nothing'}`" for sender in report["senders"]]
    return "\n".join(lines) + "\n"
