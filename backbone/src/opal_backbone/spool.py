"""Accepted events that a stopping worker could not publish, kept on disk for the next start on this host."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Batch:
    """The events that one worker left behind: payloads, and when each was accepted (seconds since the epoch)."""

    path: Path
    events: list[tuple[bytes, float]]
    numbers: set[int] = field(default_factory=set)


class Spool:
    """A directory of batches. A batch is claimed by one worker, and removed when a broker has all of it."""

    def __init__(self, directory: str) -> None:
        """Use `directory`, which is made when first needed."""
        self._directory = Path(directory)
        self._claimed: list[Batch] = []

    def save(self, events: Iterable[tuple[bytes, float]]) -> Path:
        """Write a batch, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns()}-{os.getpid()}"
        unfinished = self._directory / f".{name}.part"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            for payload, accepted in events:
                file.write(json.dumps([base64.b64encode(payload).decode(), accepted]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return unfinished.rename(self._directory / f"{name}.batch")

    def claim(self) -> list[Batch]:
        """Take every batch that no living worker has, oldest first. Unreadable ones are left where they are."""
        batches = []
        for path in sorted(self._directory.glob("*.batch")) + sorted(self._directory.glob("*.claimed-*")):
            owner = path.suffix.removeprefix(".claimed-")
            if owner.isdigit() and (int(owner) == os.getpid() or Path(f"/proc/{owner}").exists()):
                continue
            mine = path.with_suffix(f".claimed-{os.getpid()}")
            with contextlib.suppress(OSError, ValueError):
                path.rename(mine)
                lines = mine.read_text().splitlines()
                events = [(base64.b64decode(text), float(accepted)) for text, accepted in map(json.loads, lines)]
                batches.append(Batch(mine, events))
        self._claimed += batches
        return batches

    def release(self, batch: Batch) -> None:
        """Leave a batch for another worker."""
        self._claimed.remove(batch)
        with contextlib.suppress(OSError):
            batch.path.rename(batch.path.with_suffix(".batch"))

    def acknowledge(self, number: int) -> None:
        """Note that a broker has an event; a batch of which it has everything is removed."""
        for batch in list(self._claimed):
            batch.numbers.discard(number)
            if not batch.numbers:
                self._claimed.remove(batch)
                batch.path.unlink(missing_ok=True)
