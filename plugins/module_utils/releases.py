# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""Releases on a host: filled under a temporary name, complete once they carry their own.

A release is the directory ``<prefix>/releases/<id>``. It gets that name by one rename when it is
whole, so that its existence is the proof of its completeness: an interrupted run leaves only a
directory ``.<id>.partial``, which no reader takes for a release and the next run removes.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import Iterator, List


def release_path(prefix: str, release_id: str) -> str:
    """Return where a release is once it is complete."""
    return os.path.join(prefix, "releases", release_id)


def is_complete(prefix: str, release_id: str) -> bool:
    """Tell whether a release is there and whole."""
    return os.path.isdir(release_path(prefix, release_id))


@contextmanager
def filling(prefix: str, release_id: str) -> Iterator[str]:
    """Give an empty directory to fill, and make it the release if nothing was raised meanwhile.

    What an earlier, interrupted filling left is removed first, and so is this one's if it fails.
    """
    partial = os.path.join(prefix, "releases", ".%s.partial" % release_id)
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial, mode=0o755)
    try:
        yield partial
        os.sync()
        os.rename(partial, release_path(prefix, release_id))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_handed_over(prefix: str) -> None:
    """Remove the files that releases are made from, those of earlier runs that never got to use theirs included.

    They are the only plain files right below a prefix.
    """
    for entry in list(os.scandir(prefix)):
        if entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)


def superseded(prefix: str, keep: int, spare: str) -> List[str]:
    """Return the ids of releases to remove: all but the running, the spared and the newest ``keep``."""
    root = os.path.join(prefix, "releases")
    link = os.path.join(prefix, "current")
    current = os.path.basename(os.readlink(link)) if os.path.islink(link) else ""
    names = [n for n in os.listdir(root) if not n.startswith(".") and n not in (current, spare)]
    names.sort(key=lambda name: os.stat(os.path.join(root, name)).st_mtime, reverse=True)
    return names[max(keep, 0) :]


def prune(prefix: str, keep: int, spare: str) -> List[str]:
    """Remove superseded releases and return their ids."""
    gone = superseded(prefix, keep, spare)
    for name in gone:
        shutil.rmtree(release_path(prefix, name))
    return gone
