"""Files, directories and links are compared, written whole, and shown without their secrets."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.modules import service_files

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


def row(path: Path, **changes: Any) -> dict[str, Any]:
    """Return a row as the module's argument spec gives it."""
    access = {"owner": OWNER, "group": GROUP, "mode": "0640"}
    values = {"path": str(path), **access, "state": "present", "content": None, "secret_content": None}
    return {**values, **changes}


def params(**rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the module's parameters."""
    return {"directories": [], "links": [], "files": [], **rows}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    wanted = params(
        directories=[row(tmp_path / "etc", mode="0750")],
        links=[{"path": str(tmp_path / "current"), "target": "releases/1"}],
        files=[row(tmp_path / "etc" / "a", content="text\n")],
    )
    changed, _diffs = service_files.bring_all(wanted, False)
    assert changed == [str(tmp_path / "etc"), str(tmp_path / "current"), str(tmp_path / "etc" / "a")]
    assert service_files.bring_all(wanted, False) == ([], [])
    assert (tmp_path / "etc" / "a").read_text() == "text\n"


def test_a_file_is_removed_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    wanted = params(files=[row(tmp_path / "a", state="absent", content="")])
    assert service_files.bring_all(wanted, True)[0] == [str(tmp_path / "a")]
    assert (tmp_path / "a").exists()
    assert service_files.bring_all(wanted, False)[0] == [str(tmp_path / "a")]
    assert not (tmp_path / "a").exists()
    assert service_files.bring_all(wanted, False) == ([], [])


def test_check_mode_tells_and_writes_nothing(tmp_path: Path) -> None:
    wanted = params(
        directories=[row(tmp_path / "etc", owner="nobody-yet", group="nobody-yet")],
        files=[row(tmp_path / "etc" / "a", content="text\n", owner="nobody-yet")],
    )
    changed, _diffs = service_files.bring_all(wanted, True)
    assert changed == [str(tmp_path / "etc"), str(tmp_path / "etc" / "a")]
    assert os.listdir(tmp_path) == []


def test_an_unknown_owner_is_named(tmp_path: Path) -> None:
    with pytest.raises(service_files.Unknown, match="no user nobody-yet"):
        service_files.bring_all(params(files=[row(tmp_path / "a", content="", owner="nobody-yet")]), False)


def test_a_secret_is_written_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hunter1")
    wanted = params(files=[row(tmp_path / "a", mode="0600")])
    service_files.assign_secrets(wanted["files"], {str(tmp_path / "a"): "hunter2"})
    _changed, diffs = service_files.bring_all(wanted, False)
    assert "hunter" not in str(diffs) and "is not shown" in str(diffs)
    assert (tmp_path / "a").read_text() == "hunter2"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("content", "secrets"), [(None, {}), ("x", {"/etc/a": "y"})])
def test_a_file_has_exactly_one_content(content: str | None, secrets: dict[str, str]) -> None:
    with pytest.raises(service_files.Unknown, match="/etc/a: give it either"):
        service_files.assign_secrets([row(Path("/etc/a"), content=content)], secrets)


def test_a_difference_of_mode_alone_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o644)
    changed, diffs = service_files.bring_all(params(files=[row(tmp_path / "a", content="x")]), False)
    assert changed == [str(tmp_path / "a")]
    assert "mode 0644" in diffs[0]["before"] and "mode 0640" in diffs[0]["after"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")

    def broken(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space"):
        service_files.bring_all(params(files=[row(tmp_path / "a", content="new")]), False)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_swapped_even_where_an_interrupted_run_left_its_successor(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("releases/1")
    (tmp_path / "current.new").symlink_to("releases/2")
    service_files.bring_all(params(links=[{"path": str(tmp_path / "current"), "target": "releases/3"}]), False)
    assert os.readlink(tmp_path / "current") == "releases/3"
    assert os.listdir(tmp_path) == ["current"]


def test_what_is_not_of_the_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(service_files.Unknown, match="is not a link"):
        service_files.bring_all(params(links=[{"path": str(tmp_path / "current"), "target": "x"}]), False)
