"""Bar charts as SVG, drawn without any library."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from bench.measure import Result

_LEFT, _WIDTH, _ROW, _TOP = 250, 520, 26, 48
_LIGHT, _DARK = "#b9cde5", "#1f4e79"


def latencies(results: list[Result]) -> str:
    """Draw p50 and p99 of each result, in milliseconds."""
    return _bars(
        "Publish call to websocket subscriber of another worker: p50 (dark) and p99 (light), ms",
        [(_label(r), [r.p99, r.p50], f"{r.p50:.1f} / {r.p99:.1f}") for r in results if not math.isnan(r.p99)],
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
    """Draw one row for each label, its values one over another, the longest first."""
    longest = max((max(values) for _, values, _ in rows), default=1.0) or 1.0
    height = _ROW * len(rows) + _TOP + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 130}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="24" font-size="15">{escape(title)}</text>',
    ]
    for index, (label, values, text) in enumerate(rows):
        y = _TOP + index * _ROW
        colours = [_LIGHT, _DARK] if len(values) > 1 else [_DARK]
        for value, colour in zip(values, colours, strict=True):
            width = max(1.0, value / longest * _WIDTH)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
        end = _LEFT + max(values) / longest * _WIDTH + 8
        parts.append(f'<text x="10" y="{y + 13}">{escape(label)}</text>')
        parts.append(f'<text x="{end:.1f}" y="{y + 13}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
