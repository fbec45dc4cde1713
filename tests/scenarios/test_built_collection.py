"""A fleet that the checkout rolled out is, for the collection installed from its built file, as it should be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from built_collection import build, install
from fleet import BIN, Fleet, Run, environment


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the collection is installed, from its built file and as users do it."""
    folder = tmp_path_factory.mktemp("collections")
    return install(build(folder), folder)


@pytest.fixture(scope="module")
def rolled_out(fleet: Fleet) -> Fleet:
    """The fleet as the checkout leaves it, whatever other scenarios have set."""
    fleet.must_play("playbooks/site.yml")
    return fleet


def play(fleet: Fleet, collections: Path, playbook: str) -> Run:
    """Run a playbook of the installed collection by its name, away from the checkout."""
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), "-i", str(fleet.inventory), f"policyfleet.opal.{playbook}"],
        cwd=collections,
        env={**environment(), "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout)


def test_its_rollout_has_nothing_to_change(rolled_out: Fleet, collections: Path) -> None:
    run = play(rolled_out, collections, "site")
    assert run.returncode == 0, run.output
    assert run.changed == 0, run.output


def test_its_proof_passes(rolled_out: Fleet, collections: Path) -> None:
    run = play(rolled_out, collections, "verify")
    assert run.returncode == 0, run.output
    assert "passed: every update reached every worker" in run.words
    assert list((collections / "reports").glob("verify-*.html"))
