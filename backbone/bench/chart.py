"""A bar chart of latencies as SVG, drawn without any library."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_LEFT, _WIDTH, _ROW = 230, 520, 26


def bars(results: list[Any]) -> str:
    """Draw p50 and p99 of each result, in milliseconds."""
    shown = [result for result in results if result.p99 == result.p99]
    longest = max((result.p99 for result in shown), default=1.0) or 1.0
    height = _ROW * len(shown) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 120}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="15">Publish call to websocket'
        " subscriber of another worker: p50 (dark) and p99 (light), ms</text>",
    ]
    for index, result in enumerate(shown):
        y = 40 + index * _ROW
        label = escape(f"{result.backbone}, {result.receivers} receivers")
        for value, colour in ((result.p99, "#b9cde5"), (result.p50, "#1f4e79")):
            width = max(1.0, value / longest * _WIDTH)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="16" fill="{colour}"/>')
        end = _LEFT + result.p99 / longest * _WIDTH + 8
        parts.append(f'<text x="10" y="{y + 13}">{label}</text>')
        parts.append(f'<text x="{end:.1f}" y="{y + 13}">{result.p50:.1f} / {result.p99:.1f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
