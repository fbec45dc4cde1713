"""A release is complete or absent, whatever interrupts its making."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.policyfleet.opal.plugins.module_utils import releases


def make(prefix: Path, name: str, age: int) -> None:
    """Make a complete release that is so many seconds old."""
    folder = prefix / "releases" / name
    folder.mkdir(parents=True)
    os.utime(folder, (1_000_000 - age, 1_000_000 - age))


def test_a_filled_directory_becomes_the_release(tmp_path: Path) -> None:
    with releases.filling(str(tmp_path), "1") as partial:
        assert not releases.is_complete(str(tmp_path), "1")
        Path(partial, "file").write_text("x")
        filled = os.stat(partial).st_ino
    assert releases.is_complete(str(tmp_path), "1")
    # By one rename and no copy: a copy would be seen half-done.
    assert os.stat(tmp_path / "releases" / "1").st_ino == filled
    assert os.listdir(tmp_path / "releases") == ["1"]
    assert (tmp_path / "releases" / "1" / "file").read_text() == "x"


def test_a_failed_filling_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), releases.filling(str(tmp_path), "1"):
        raise RuntimeError
    assert os.listdir(tmp_path / "releases") == []


def test_what_a_killed_run_left_is_no_release_and_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "releases" / ".1.partial"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    assert not releases.is_complete(str(tmp_path), "1")
    with releases.filling(str(tmp_path), "1") as partial:
        assert os.listdir(partial) == []


def test_the_running_and_the_new_release_are_never_pruned(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "second", "third", "running"]):
        make(tmp_path, name, age)
    (tmp_path / "current").symlink_to("releases/running")
    assert releases.prune(str(tmp_path), 1, "new") == ["third"]
    assert sorted(os.listdir(tmp_path / "releases")) == ["new", "running", "second"]


def test_what_earlier_runs_handed_over_is_removed_too(tmp_path: Path) -> None:
    make(tmp_path, "1", 0)
    (tmp_path / "current").symlink_to("releases/1")
    for name in ("opal-1.tar", "opal-2.tar"):
        (tmp_path / name).write_text("x")
    releases.remove_handed_over(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["current", "releases"]
