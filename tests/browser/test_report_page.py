"""The HTML report in a real browser: what a person sees of it, in light and dark, on a wide and a narrow screen."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_html
from sample_report import sample_report

PROBE = Path(__file__).with_name("probe.js")
# No sandbox: a browser of root's has none. The rest keeps it from looking for its maker's hosts.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)
READABLE = 4.5
"""The least contrast of text, from WCAG 2.2, success criterion 1.4.3 (AA)."""

Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Return a function that shows the sample report to a browser and returns what the probe saw."""
    browser = shutil.which("chromium")
    assert browser, "no chromium here; 'make test-tools' installs it"
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(with_probe(verify_html.page(sample_report())), encoding="utf-8")

    def show(*, dark: bool, width: int) -> dict[str, Any]:
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        size = f"--window-size={width},900"
        done = subprocess.run(
            [browser, *FLAGS, scheme, size, f"--user-data-dir={folder}/profile", "--dump-dom", path.as_uri()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found = re.search(r"<pre>([A-Za-z0-9+/=]+)</pre>", done.stdout)
        assert found, done.stdout[-2000:] + done.stderr[-2000:]
        seen: dict[str, Any] = json.loads(base64.b64decode(found[1]))
        return seen

    return show


def with_probe(page: str) -> str:
    """Return the page with the probe in it, which the page's own policy allows in this copy only."""
    for old, new in (
        ("default-src 'none'; ", "default-src 'none'; script-src 'unsafe-inline'; "),
        ("</body>", f"<script>{PROBE.read_text(encoding='utf-8')}</script></body>"),
    ):
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    return page


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    parts = [value / 255 for value in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Contrast of two sRGB colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def colours(css: str) -> list[tuple[int, ...]]:
    """Every rgb() in a computed style."""
    return [tuple(int(value) for value in found) for found in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", css)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 600])
def test_every_cell_can_be_read(look: Look, dark: bool, width: int) -> None:
    seen = look(dark=dark, width=width)
    assert seen["dark"] is dark
    assert len(seen["cells"]) == 8
    for cell in (*seen["cells"], seen["badge"]):
        (ink,), grounds = colours(cell["ink"]), colours(cell["ground"])
        assert grounds, cell
        assert min(contrast(ink, ground) for ground in grounds) >= READABLE, cell
        assert cell["width"] > 20, cell
        assert cell["height"] > 10, cell
        assert not cell["clipped"], cell


def test_missing_and_delivered_look_different(look: Look) -> None:
    cells = look(dark=False, width=1280)["cells"]
    grounds = {kind: {cell["ground"] for cell in cells if kind in cell["kind"]} for kind in ("s4", "missing")}
    assert len(grounds["s4"]) == 1
    assert len(grounds["missing"]) == 1
    assert grounds["s4"] != grounds["missing"]
    assert {cell["text"] for cell in cells if "missing" in cell["kind"]} == {"missing"}


@pytest.mark.parametrize("width", [1280, 600])
def test_the_page_is_no_wider_than_the_screen_and_asks_for_nothing(look: Look, width: int) -> None:
    seen = look(dark=False, width=width)
    assert seen["overflow"] <= 0
    assert seen["requests"] == []


def test_names_and_causes_are_shown_as_they_are(look: Look) -> None:
    seen = look(dark=False, width=1280)
    assert seen["badge"]["text"].upper() == "FAILED"
    assert "opal<2> has 1 of 2 worker processes" in seen["failures"]
    assert any("opal<2>" in cell["title"] for cell in seen["cells"])
