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


@dataclass(frozen=True)
class Kept:
    """One event as it was accepted: when (seconds since the epoch), by which publisher, and as its which."""

    payload: bytes
    accepted: float
    publisher: str
    number: int


@dataclass
class Batch:
    """The events that one worker left behind, and the keys of those that still wait for a broker."""

    path: Path
    events: list[Kept]
    keys: set[int] = field(default_factory=set)


class Spool:
    """A directory of batches. A batch is claimed by one worker, and removed when a broker has all of it."""

    def __init__(self, directory: str) -> None:
        """Use `directory`, which is made when first needed."""
        self._directory = Path(directory)
        self._claimed: list[Batch] = []

    def save(self, events: Iterable[Kept]) -> Path:
        """Write a batch, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns()}-{os.getpid()}"
        unfinished = self._directory / f".{name}.part"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            for kept in events:
                payload = base64.b64encode(kept.payload).decode()
                file.write(json.dumps([payload, kept.accepted, kept.publisher, kept.number]) + "\n")
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
            with contextlib.suppress(OSError, ValueError, TypeError):
                path.rename(mine)
                batches.append(Batch(mine, [_parse(line) for line in mine.read_text().splitlines()]))
        self._claimed += batches
        return batches

    def release(self, batch: Batch) -> None:
        """Leave a batch for another worker."""
        self._claimed.remove(batch)
        with contextlib.suppress(OSError):
            batch.path.rename(batch.path.with_suffix(".batch"))

    def acknowledge(self, key: int) -> None:
        """Note that a broker has an event; a batch of which it has everything is removed."""
        for batch in list(self._claimed):
            batch.keys.discard(key)
            if not batch.keys:
                self._claimed.remove(batch)
                batch.path.unlink(missing_ok=True)


def _parse(line: str) -> Kept:
    """Read one line of a batch.

    Raises:
        ValueError, TypeError: it is not one.
    """
    text, accepted, publisher, number = json.loads(line)
    return Kept(base64.b64decode(text), float(accepted), str(publisher), int(number))
