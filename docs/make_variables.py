#!/usr/bin/env python3
"""Write docs/variables.md from the roles' argument specs.

Usage: make_variables.py [--check]    with --check nothing is written, and an outdated page is an error
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "variables.md"
ROLES = ("pulsar", "opal_server", "opal_client", "verify")
"""The roles in the order of the page; those that a checkout does not have are left out."""

MARKUP = re.compile(r"\b[CVBIO]\(([^)]*)\)")
"""Ansible's documentation markup for code, values, bold, italics and options."""


def as_text(description: Any) -> str:
    """Return a description, a string or a list of paragraphs, as one cell of a Markdown table."""
    parts = description if isinstance(description, list) else [description]
    return MARKUP.sub(r"`\1`", " ".join(str(part).strip() for part in parts)).replace("|", "\\|").replace("\n", " ")


def default_of(option: dict[str, Any]) -> str:
    """Return an option's default as a cell of the table."""
    if option.get("required"):
        return "required"
    if "default" not in option:
        return "worked out"
    value = option["default"]
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "empty" if value in ("", [], {}) else f"`{value}`"


def section(role: str, specs: dict[str, Any]) -> list[str]:
    """Return the lines of one role."""
    main = specs["main"]
    lines = [f"## {role}", "", as_text(main["description"]), "", "| variable | type | default | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for name, option in main.get("options", {}).items():
        kind = f"{option['type']}, secret" if option.get("no_log") else option["type"]
        if option.get("choices"):
            kind += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
        lines.append(f"| `{name}` | {kind} | {default_of(option)} | {as_text(option['description'])} |")
    points = [(name, spec) for name, spec in specs.items() if name != "main"]
    if points:
        lines += ["", "Further entry points (`tasks_from`):", ""]
        lines += [f"- `{name}`: {as_text(spec['short_description'])}." for name, spec in points]
    return [*lines, ""]


def page() -> str:
    """Return the whole page."""
    lines = [
        "# Variables",
        "",
        "Made from the roles' argument specs by `make docs`; `ansible-doc -t role policyfleet.opal.<role>` shows",
        "the same.",
        "",
    ]
    for role in ROLES:
        specs = ROOT / "roles" / role / "meta" / "argument_specs.yml"
        if specs.exists():
            lines += section(role, yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"])
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write or check the page."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print("docs/variables.md is not what the argument specs say: run 'make docs'", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
