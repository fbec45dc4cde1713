# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""A report as one HTML page that needs nothing else: the matrices as heat maps, in light and dark."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_text import (
    cell_text,
    counts,
    each,
    journal_text,
    milliseconds,
    policy_line,
    raw_text,
    receiver_text,
)
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import (
    Cell,
    Matrix,
    Receiver,
    Report,
    Sender,
)

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000, 300_000)
"""Latencies that make good borders between two shades, in milliseconds."""

SHADES = 5
"""How many shades of delivered there are."""

ROOMY = 16
"""Up to so many columns a cell has room for its figure; beyond, the figure is in its tooltip."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #16202c; --soft: #5a6675; --line: #dfe4ea;
  --good: #0a7d4b; --bad: #c2182b; --warn: #9a5b00;
  --s0: #d9f2e6; --s1: #aee0c9; --s2: #74c6a4; --s3: #1f8a66; --s4: #0b5f47; --on-low: #10251c; --on-high: #ffffff;
  --miss: #c2182b; --miss2: #9d0f20; --miss-text: #ffffff; --twice: #e0a100; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0f151c; --card: #18212b; --ink: #e8eef5; --soft: #9aa9b9; --line: #2b3846;
  --good: #4fd39a; --bad: #ff7a85; --warn: #f0b75a;
  --s0: #123b2d; --s1: #175640; --s2: #1f7a5a; --s3: #3ba67f; --s4: #86dcb8; --on-low: #e9fff6; --on-high: #06150f;
  --miss: #d93a4b; --miss2: #a31f30; --miss-text: #ffffff; --twice: #f5c542; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; display: flex; align-items: center; gap: 12px; flex-wrap: wrap; }
h2 { font-size: 17px; margin: 0 0 12px; }
.badge { font-size: 14px; font-weight: 700; padding: 3px 12px; border-radius: 999px; color: var(--card);
  background: var(--good); }
.failed .badge { background: var(--bad); }
.under { color: var(--soft); margin: 6px 0 22px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 0 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 0 0 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.tile.bad b { color: var(--bad); }
ul { margin: 0; padding-left: 20px; } li { margin: 4px 0; overflow-wrap: anywhere; }
.failures { border-left: 5px solid var(--bad); } .warnings { border-left: 5px solid var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 3px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding: 0 0 8px 3px; }
th { font-weight: 600; font-size: 13px; padding: 4px 8px; text-align: center; white-space: nowrap; }
tbody th { text-align: right; position: sticky; left: 0; background: var(--card); }
thead .host { border-bottom: 2px solid var(--line); }
thead .pid { color: var(--soft); font-weight: 500; }
thead .ill, tbody .ill { color: var(--bad); }
td { height: 38px; min-width: 72px; padding: 2px 8px; border-radius: 5px; text-align: center; font-size: 13px;
  white-space: nowrap; }
.tight td.cell { min-width: 18px; width: 18px; padding: 0; font-size: 0; }
.tight td { height: 24px; } .tight td.said { font-size: 12px; }
.tight thead .host { max-width: 0; overflow: hidden; text-overflow: ellipsis; padding: 4px 0; font-size: 12px; }
.tight thead .pid { writing-mode: vertical-rl; font-size: 11px; padding: 2px; }
td.first { border-left: 0; } td.gap { min-width: 8px; width: 8px; padding: 0; }
.s0, .s1, .s2 { color: var(--on-low); } .s3, .s4 { color: var(--on-high); }
.s0 { background: var(--s0); } .s1 { background: var(--s1); } .s2 { background: var(--s2); }
.s3 { background: var(--s3); } .s4 { background: var(--s4); }
.missing { color: var(--miss-text); font-weight: 700;
  background: repeating-linear-gradient(45deg, var(--miss) 0 7px, var(--miss2) 7px 14px); }
.duplicate { outline: 3px solid var(--twice); outline-offset: -3px; }
td.said { text-align: left; min-width: 0; } .ok { color: var(--good); } .no { color: var(--bad); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 14px; margin: 14px 0 0 3px; color: var(--soft); font-size: 13px; }
.legend i { display: inline-block; width: 26px; height: 14px; border-radius: 3px; margin-right: 6px;
  vertical-align: -2px; }
details { margin: 6px 0 0; } summary { cursor: pointer; }
code { font: 12px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def borders(cells: Iterable[Cell]) -> list[int]:
    """Return the latencies that separate the shades, in milliseconds: the highest is above all latencies."""
    largest = max((cell["latency_ms"] for cell in cells if cell["latency_ms"] is not None), default=0.0)
    top = next((at for at, step in enumerate(STEPS) if step >= largest), len(STEPS) - 1)
    top = max(top, SHADES - 1)
    return list(STEPS[top - SHADES + 1 : top + 1])


def shade(cell: Cell, limits: Sequence[int]) -> str:
    """Return the class of a cell: missing, or how late it was, and whether it came twice."""
    if cell["state"] == "missing" or cell["latency_ms"] is None:
        return "missing"
    late = cell["latency_ms"]
    level = next((at for at, limit in enumerate(limits) if late <= limit), len(limits) - 1)
    return f"s{level}" + (" duplicate" if cell["state"] == "duplicate" else "")


def tooltip(cell: Cell, what: str) -> str:
    """Return what a cell says when it is pointed at, given what receivers are."""
    receiver = f"{what} {cell['pid']}" if cell["pid"] else f"a missing {what}"
    came = f"{cell['received']} of {cell['expected']} updates"
    if cell["latency_ms"] is not None:
        came += f", after {milliseconds(cell['latency_ms'])}, at most {milliseconds(cell['max_ms'])}"
    return f"{cell['sender']} to {cell['host']}, {receiver}: {came}"


def heads(receivers: Sequence[Receiver], extra: int) -> str:
    """Return the two lines of heads: hosts over their workers."""
    groups = [(host, list(group)) for host, group in groupby(receivers, lambda receiver: receiver["host"])]
    hosts = "".join(
        f'<td class="gap"></td><th class="host" scope="colgroup" colspan="{len(group)}" '
        f'title="{escape(host, quote=True)}">{escape(host)}</th>'
        for host, group in groups
    )
    pids = []
    for _host, group in groups:
        pids.append('<td class="gap"></td>')
        for receiver in group:
            ill = " ill" if receiver["problem"] else ""
            title = escape(receiver["problem"] or receiver["state"], quote=True)
            pids.append(f'<th class="pid{ill}" scope="col" title="{title}">{escape(receiver_text(receiver))}</th>')
    said = '<td class="gap"></td><th scope="col">journal</th><th scope="col">Pulsar</th>' if extra else ""
    return f"<thead><tr><td></td>{hosts}</tr><tr><td></td>{''.join(pids)}{said}</tr></thead>"


def said_cells(sender: Sender | None) -> str:
    """Return what journal and Pulsar said about a sender's update."""
    if sender is None:
        return ""
    cells = ['<td class="gap"></td>']
    for text, colour in (journal_text(sender), raw_text(sender)):
        kind = {"green": " ok", "red": " no"}.get(colour, "")
        cells.append(f'<td class="said{kind}">{escape(text)}</td>')
    return "".join(cells)


def row(host: str, matrix: Matrix, limits: Sequence[int], sender: Sender | None) -> str:
    """Return a sender's line."""
    parts = []
    last = None
    for cell in (cell for cell in matrix["cells"] if cell["sender"] == host):
        if cell["host"] != last:
            parts.append('<td class="gap"></td>')
            last = cell["host"]
        title = escape(tooltip(cell, matrix.get("receiver", "worker")), quote=True)
        parts.append(f'<td class="cell {shade(cell, limits)}" title="{title}">{escape(cell_text(cell))}</td>')
    ill = ' class="ill"' if sender and sender["problem"] else ""
    return f'<tr><th scope="row"{ill}>{escape(host)}</th>{"".join(parts)}{said_cells(sender)}</tr>'


def border_text(limit: int) -> str:
    """Return a border between two shades as a person reads it."""
    return f"{limit} ms" if limit < 1000 else f"{limit // 1000} s"


def legend(limits: Sequence[int], matrix: Matrix) -> str:
    """Return what the shades mean."""
    items = [f'<span><i class="s{at}"></i>up to {border_text(limit)}</span>' for at, limit in enumerate(limits)]
    if any(cell["state"] == "duplicate" for cell in matrix["cells"]):
        items.append('<span><i class="s1 duplicate"></i>more than once</span>')
    items.append('<span><i class="missing"></i>missing</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def heat_map(matrix: Matrix, senders: Sequence[Sender]) -> str:
    """Return a matrix as a table whose cells are shaded by their latency; senders may be left out."""
    limits = borders(matrix["cells"])
    by_host = {sender["host"]: sender for sender in senders}
    rows = "".join(row(host, matrix, limits, by_host.get(host)) for host in matrix["senders"])
    delivered, total = counts(matrix)
    tight = " tight" if len(matrix["receivers"]) > ROOMY else ""
    table_head = heads(matrix["receivers"], len(senders))
    return (
        f'<section><h2>{escape(matrix["title"])}</h2><div class="scroll{tight}"><table>'
        f"<caption>{delivered} of {total} deliveries{each(matrix)}. A line a sending host, a column a receiver; "
        "the time from publish to there.</caption>"
        f"{table_head}<tbody>{rows}</tbody></table></div>{legend(limits, matrix)}</section>"
    )


def sentences(title: str, kind: str, lines: Sequence[str]) -> str:
    """Return a list of sentences, nothing where there are none."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="{kind}"><h2>{escape(title)}</h2><ul>{items}</ul></section>'


def tiles(report: Report) -> str:
    """Return the figures at the top."""
    matrix = report["matrices"][0]
    delivered, total = counts(matrix)
    workers = sum(1 for receiver in matrix["receivers"] if receiver["pid"])
    figures = [
        (f"{delivered} / {total}", "deliveries", delivered < total),
        (str(len(matrix["senders"])), "hosts", False),
        (str(workers), "worker processes", workers < len(matrix["receivers"])),
    ]
    figures += [(milliseconds(value), f"{name} to a worker", False) for name, value in report["latency_ms"].items()]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile{" bad" if bad else ""}"><b>{escape(figure)}</b><span>{escape(name)}</span></div>'
            for figure, name, bad in figures
        )
        + "</div>"
    )


def logged(senders: Sequence[Sender]) -> str:
    """Return what each host logged, folded."""
    items = "".join(
        f"<li>{escape(sender['host'])}: <code>{escape(sender['line'] or 'nothing')}</code></li>" for sender in senders
    )
    return f"<section><details><summary>What each host logged</summary><ul>{items}</ul></details></section>"


def page(report: Report) -> str:
    """Return a report as a page."""
    word = "passed" if report["passed"] else "failed"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report["started_at"]))
    under = (
        f"Run {report['run']}, {when}, {report['seconds']:.1f} s, over {report['backbone'] or 'no backbone'} "
        f"({report['channel']}). Times are by the hosts' own clocks."
    )
    maps = "".join(heat_map(drawn, report["senders"] if at == 0 else []) for at, drawn in enumerate(report["matrices"]))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The browser itself holds the page to what it promises: nothing is loaded from anywhere.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>OPAL fleet verification: {word}</title><style>{STYLE}</style></head>"
        f'<body class="{word}"><main><h1>OPAL fleet verification <span class="badge">{word}</span></h1>'
        f'<p class="under">{escape(under)}</p><p class="under">{escape(policy_line(report))}</p>{tiles(report)}'
        f"{sentences('What failed', 'failures', report['failures'])}"
        f"{sentences('Worth knowing', 'warnings', report['warnings'])}"
        f"{maps}{logged(report['senders'])}</main></body></html>\n"
    )
