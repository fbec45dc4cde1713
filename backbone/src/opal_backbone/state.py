"""The state of every worker of this host, exchanged through one small file each."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any


class StateFiles:
    """A directory with one JSON file per worker, on a file system in memory."""

    def __init__(self, directory: str | None) -> None:
        """Use `directory`; without one, a worker knows of itself only."""
        self._directory = Path(directory) if directory else None

    def write(self, state: dict[str, Any]) -> None:
        """Publish this worker's state to its siblings."""
        if self._directory is None:
            return
        with contextlib.suppress(OSError):
            unfinished = self._directory / f".worker-{os.getpid()}.part"
            unfinished.write_text(json.dumps(state))
            unfinished.rename(self._directory / f"worker-{os.getpid()}.json")

    def remove(self) -> None:
        """Take this worker's state away."""
        if self._directory is not None:
            (self._directory / f"worker-{os.getpid()}.json").unlink(missing_ok=True)

    def read(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the states of all living workers, each with the `age` of the information in seconds."""
        states = {own["pid"]: own}
        if self._directory is not None:
            for path in self._directory.glob("worker-*.json"):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    state = json.loads(path.read_text())
                    if state["pid"] not in states and is_sibling(state["pid"]):
                        states[state["pid"]] = state
        now = time.time()
        for state in states.values():
            state["age"] = max(0.0, now - state["written"])
        return [states[pid] for pid in sorted(states)]


def is_sibling(pid: int) -> bool:
    """Tell whether a process lives and has the same parent as this one (a number may be reused by something else)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[1]) == os.getppid()
