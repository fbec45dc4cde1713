"""The collection as users get it: built, installed from the built file, and run from there."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from built_collection import build, install
from fleet import BIN

MOST_BYTES = 2_000_000
"""More than this, and something got into the file that no user needs."""


def run(command: list[str], collections: Path, cwd: Path) -> str:
    """Run a command of Ansible's away from the checkout, and return what it says."""
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(cwd),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the collection."""
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the built file, and return the collections path."""
    return install(archive, tmp_path_factory.mktemp("collections"))


def test_the_file_holds_what_users_need_and_no_more(archive: Path) -> None:
    assert archive.stat().st_size < MOST_BYTES
    with tarfile.open(archive) as built:
        names = built.getnames()
    for needed in ("README.md", "LICENSE", "playbooks/site.yml", "playbooks/verify.yml", "backbone/pyproject.toml"):
        assert needed in names
    unneeded = (".venv", ".cache", "tests", "molecule", "__pycache__", "egg-info", "inventories/demo", ".git")
    assert [name for name in names if any(part in name for part in unneeded)] == []


@pytest.mark.parametrize("playbook", ["site", "verify"])
def test_a_playbook_runs_from_there(installed: Path, tmp_path: Path, playbook: str) -> None:
    inventory = installed / "ansible_collections" / "policyfleet" / "opal" / "inventories" / "standalone" / "hosts.yml"
    said = run(
        ["ansible-playbook", "-i", str(inventory), f"policyfleet.opal.{playbook}", "--list-tasks"], installed, tmp_path
    )
    assert "policyfleet.opal" in said


@pytest.mark.parametrize("role", ["pulsar", "opal_server", "opal_client", "verify"])
def test_its_roles_are_documented_there(installed: Path, tmp_path: Path, role: str) -> None:
    said = run(["ansible-doc", "-t", "role", f"policyfleet.opal.{role}"], installed, tmp_path)
    assert "ENTRY POINT" in said and f"{role}_" in said


def test_its_modules_are_documented_there(installed: Path, tmp_path: Path) -> None:
    listed = run(["ansible-doc", "-t", "module", "--list", "policyfleet.opal"], installed, tmp_path)
    modules = [line.split()[0] for line in listed.splitlines() if line.startswith("policyfleet.opal.")]
    assert len(modules) >= 8
    said = run(["ansible-doc", "-t", "module", *modules], installed, tmp_path)
    assert said.count("> MODULE") == len(modules)
