"""Bar charts as SVG, drawn without any library.

The scale reaches to three times the longest first value: a few very late deliveries would leave no room for the rest.
What is longer is cut there, and its number tells.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from bench.measure import Result

_LEFT, _WIDTH, _ROW, _TOP = 290, 520, 26, 48
_LIGHT, _DARK = "#b9cde5", "#1f4e79"


def latencies(results: list[Result]) -> str:
    """Draw p50 and p99 of each result, in milliseconds."""
    return _bars(
        "Publish call to websocket subscriber of another worker: p50 (dark) and p99 (light), ms",
        [(_label(r), [r.p50, r.p99], f"{r.p50:.1f} / {r.p99:.1f}") for r in results if not math.isnan(r.p99)],
    )


def rates(results: list[Result]) -> str:
    """Draw the rate that each result sustained, in events per second, pulsar-client alone left out."""
    return _bars(
        "Events a second at a subscriber (mean of all), while eight callers published as fast as they could",
        [(_label(r), [r.sustained], f"{r.sustained:.0f}") for r in results if not math.isnan(r.publisher_ms)],
    )


def _label(result: Result) -> str:
    return f"{result.backbone}, {result.receivers} receivers"


def _bars(title: str, rows: list[tuple[str, list[float], str]]) -> str:
    """Draw one row for each label, its values one over another, the first one on top."""
    first = max((values[0] for _, values, _ in rows), default=1.0) or 1.0
    longest = min(3 * first, max((max(values) for _, values, _ in rows), default=1.0)) or 1.0
    height = _ROW * len(rows) + _TOP + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 130}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="24" font-size="15">{escape(title)}</text>',
    ]
    for index, (label, values, text) in enumerate(rows):
        y = _TOP + index * _ROW
        shares = [max(0.002, min(1.0, value / longest)) for value in values]
        for share, colour in reversed(list(zip(shares, (_DARK, _LIGHT), strict=False))):
            width = share * _WIDTH
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
        end = _LEFT + max(shares) * _WIDTH + 8
        parts.append(f'<text x="10" y="{y + 13}">{escape(label)}</text>')
        parts.append(f'<text x="{end:.1f}" y="{y + 13}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
