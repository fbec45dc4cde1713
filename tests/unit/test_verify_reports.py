"""What a report looks like as text and as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_html, verify_text
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import Report
from sample_report import cell, sample_report


@pytest.fixture
def report() -> Report:
    return sample_report()


class Page(HTMLParser):
    """Collects a page's tags and attributes, and sees that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_screen_shows_every_cell_and_what_failed(report: Report) -> None:
    lines = verify_text.screen(report, 160, verify_text.plain)
    assert lines[0].startswith("Verification r: 2 hosts, 3 workers, 6 of 8 deliveries")
    assert "12.3 ms +1" in lines[4]
    assert lines[4].split()[-4:] == ["by", "11", "read", "(1,2,-1,-1)"]
    assert "failed: opal<2> has 1 of 2 worker processes" in lines


def test_the_screen_aligns_its_columns_whatever_the_colours(report: Report) -> None:
    def paint(text: str, colour: str) -> str:
        assert colour
        return f"\x1b[31m{text}\x1b[0m"

    plain = verify_text.screen(report, 160, verify_text.plain)
    coloured = verify_text.screen(report, 160, paint)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain


def test_a_narrow_screen_gets_a_line_a_pair_of_hosts(report: Report) -> None:
    lines = verify_text.screen(report, 60, verify_text.plain)
    assert "workers reached" in lines[2]
    assert "1 of 2" in lines[4]


def test_seconds_and_missing_are_readable() -> None:
    assert verify_text.milliseconds(1234.5) == "1.23 s"
    assert verify_text.milliseconds(-3.0) == "-3.0 ms"
    assert verify_text.milliseconds(None) == "missing"


def test_markdown_tables_keep_their_columns(report: Report) -> None:
    report["senders"][0]["raw_message_id"] = "a|b"
    lines = verify_text.markdown(report).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}
    assert "| from \\ to worker | opal1 11 | opal1 12 | opal<2> 21 | opal<2> none | journal | Pulsar |" in table[0]
    assert lines[0] == "# OPAL fleet verification: FAILED"


def test_the_page_is_well_formed_and_loads_nothing(report: Report) -> None:
    text = verify_html.page(report)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert not {tag for tag, _ in page.seen} & {"script", "link", "img", "iframe", "object"}
    assert not [name for _, attributes in page.seen for name in attributes if name in ("src", "href")]
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_shows_names_as_they_are(report: Report) -> None:
    text = verify_html.page(report)
    assert "opal<2>" not in text
    assert "opal&lt;2&gt;" in text
    assert "<b>" not in text.split("What each host logged")[1]


def test_the_page_tells_missing_and_duplicate_from_delivered(report: Report) -> None:
    page = Page()
    page.feed(verify_html.page(report))
    kinds = [attributes["class"] for tag, attributes in page.seen if str(attributes.get("class")).startswith("cell")]
    assert kinds == ["cell s4", "cell s4 duplicate", "cell s4", "cell missing"] * 2


def test_a_second_matrix_is_drawn_below_the_first(report: Report) -> None:
    report["matrices"].append({**report["matrices"][0], "title": "From each host to each policy engine"})
    text = verify_html.page(report)
    assert text.index("each worker</h2>") < text.index("each policy engine</h2>")


def test_shades_cover_all_latencies() -> None:
    cells = [{**cell("opal1", "opal1", 11), "latency_ms": value} for value in (0.4, 3.0, 77.0)]
    limits = verify_html.borders(cells)  # type: ignore[arg-type]
    assert limits == [5, 10, 20, 50, 100]
    assert verify_html.shade(cells[0], limits) == "s0"  # type: ignore[arg-type]
    assert verify_html.shade(cells[2], limits) == "s4"  # type: ignore[arg-type]
    assert len(verify_html.borders([])) == verify_html.SHADES
