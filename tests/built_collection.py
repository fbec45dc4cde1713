"""The collection as users get it: built into a file, and installed from that file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fleet import BIN, ROOT


def build(folder: Path) -> Path:
    """Build the checkout's collection into a folder, and return the file."""
    _galaxy(folder, "build", str(ROOT), "--output-path", str(folder))
    (archive,) = folder.glob("policyfleet-opal-*.tar.gz")
    return archive


def install(archive: Path, folder: Path) -> Path:
    """Install a built file below a folder, and return that folder, which is then a collections path.

    Raises AssertionError if nothing was installed.
    """
    _galaxy(folder, "install", str(archive), "--no-deps", "-p", str(folder))
    assert (folder / "ansible_collections" / "policyfleet" / "opal" / "MANIFEST.json").is_file()
    return folder


def _galaxy(folder: Path, *arguments: str) -> None:
    """Run ansible-galaxy where it knows of no collection but those in the folder.

    With the checkout's settings it would take the checkout for an installed collection, and install nothing.
    """
    environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
    done = subprocess.run(
        [str(BIN / "ansible-galaxy"), "collection", *arguments],
        cwd=folder,
        env={**environment, "ANSIBLE_COLLECTIONS_PATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
