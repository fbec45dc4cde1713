"""Lets a module test_<group>.py look at each host of the inventory's group of that name."""

from __future__ import annotations

from pathlib import Path

from fleet import chosen_fleet

FLEET = chosen_fleet()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the modules of groups that this inventory does not have."""
    group = collection_path.stem.removeprefix("test_")
    if collection_path.name.startswith("test_") and not FLEET.hosts(group):
        return True
    return None
