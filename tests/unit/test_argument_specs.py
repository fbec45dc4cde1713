"""Argument specs, defaults, entry points and the page that is made of them say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())


def load(role: str, *path: str) -> Any:
    """Return a YAML file of a role."""
    return yaml.safe_load((ROOT / "roles" / role).joinpath(*path).read_text(encoding="utf-8"))


def options(role: str) -> dict[str, Any]:
    """Return the options of a role's main entry point."""
    found: dict[str, Any] = load(role, "meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_spec_and_every_spec_a_default(role: str) -> None:
    assert sorted(load(role, "defaults", "main.yml")) == sorted(options(role))


@pytest.mark.parametrize("role", ROLES)
def test_a_default_is_the_same_in_both(role: str) -> None:
    defaults = load(role, "defaults", "main.yml")
    different = {
        name: (option.get("default"), defaults[name])
        for name, option in options(role).items()
        if "{{" not in str(defaults[name]) and option.get("default") != defaults[name]
    }
    assert different == {}


@pytest.mark.parametrize("role", ROLES)
def test_a_default_that_is_worked_out_is_not_stated(role: str) -> None:
    defaults = load(role, "defaults", "main.yml")
    stated = [name for name, option in options(role).items() if "{{" in str(defaults[name]) and "default" in option]
    assert stated == []


@pytest.mark.parametrize("role", ROLES)
def test_public_variables_carry_the_roles_prefix(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_used(role: str) -> None:
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("tasks", "vars", "templates")
        for path in (ROOT / "roles" / role / folder).rglob("*")
        if path.is_file()
    ]
    places = [*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "plugins" / "plugin_utils").glob("*.py")]
    texts += [path.read_text(encoding="utf-8") for path in places]
    assert [name for name in options(role) if not any(name in text for text in texts)] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_has_a_spec(role: str) -> None:
    specs = set(load(role, "meta", "argument_specs.yml")["argument_specs"])
    called = {
        task["ansible.builtin.import_role"].get("tasks_from", "main")
        for book in (ROOT / "playbooks").glob("*.yml")
        for play in yaml.safe_load(book.read_text(encoding="utf-8"))
        for task in play.get("tasks", [])
        if task.get("ansible.builtin.import_role", {}).get("name") == f"policyfleet.opal.{role}"
    }
    assert called <= specs
    assert specs <= {path.stem for path in (ROOT / "roles" / role / "tasks").glob("*.yml")}


def test_the_page_of_variables_is_made_from_the_specs() -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "make_variables.py"), "--check"], check=True)
