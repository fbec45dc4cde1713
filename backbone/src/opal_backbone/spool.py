"""Accepted events that a stopping worker could not publish, kept on disk for the workers that come after it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

_UNFINISHED_FOR = 600.0
"""Seconds after which a file that is not finished was left by a worker that died while it wrote."""


@dataclass(frozen=True)
class Kept:
    """One event as it was accepted: when (seconds since the epoch), by which publisher, and as its which."""

    payload: bytes
    accepted: float
    publisher: str
    number: int


@dataclass
class Batch:
    """The events that one worker left behind.

    `rest` are those that nobody has taken up, `keys` name those that were and still wait for a broker.
    """

    path: Path
    rest: deque[Kept]
    # locked as long as it is open, and no longer than this process lives
    _file: TextIOWrapper
    keys: set[int] = field(default_factory=set)

    def close(self, *, remove: bool) -> None:
        """Leave the batch to others, or remove it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


class Spool:
    """A directory of batches. A batch is claimed by one worker, and removed when a broker has all of it."""

    def __init__(self, directory: str) -> None:
        """Use `directory`, which is made when first needed."""
        self._directory = Path(directory)
        self.claimed: list[Batch] = []
        # done with, but still there: kept locked, so that nobody publishes them once more
        self._stuck: list[Batch] = []

    def save(self, events: Iterable[Kept]) -> Path:
        """Write a batch, whole or not at all: these events, and what nobody has taken up of the claimed batches.

        It takes the claimed batches' place; what was taken up of them and has reached no broker must be among `events`.

        Raises:
            OSError: it could not be written; the claimed batches are as they were.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns()}-{os.getpid()}"
        unfinished = self._directory / f".{name}.part"
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                for kept in [*events, *(kept for batch in self.claimed for kept in batch.rest)]:
                    payload = base64.b64encode(kept.payload).decode()
                    file.write(json.dumps([payload, kept.accepted, kept.publisher, kept.number]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            finished = unfinished.rename(self._directory / f"{name}.batch")
        except BaseException:
            # on a full disk it must not keep the next one from being written
            unfinished.unlink(missing_ok=True)
            raise
        _sync_directory(self._directory)
        while self.claimed:
            # one that stays is published once more by a later worker, under the numbers that its events had
            with contextlib.suppress(OSError):
                self.claimed.pop().close(remove=True)
        return finished

    def claim(self) -> Batch | None:
        """Take the oldest batch that no living worker has; None if there is none.

        One at a time, so that a host's workers share them. Unreadable ones are left where they are.
        """
        for unfinished in self._directory.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - unfinished.stat().st_mtime > _UNFINISHED_FOR:
                    unfinished.unlink()
        for path in sorted(self._directory.glob("*.batch")):
            with contextlib.ExitStack() as undo, contextlib.suppress(OSError, ValueError, TypeError):
                file = undo.enter_context(path.open())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(file.fileno()).st_nlink:
                    continue  # its owner was done with it, and removed it before we had the lock
                batch = Batch(path, deque(_parse(line) for line in file), file)
                undo.pop_all()
                self.claimed.append(batch)
                return batch
        return None

    @property
    def waiting(self) -> int:
        """How many events of the claimed batches nobody has taken up."""
        return sum(len(batch.rest) for batch in self.claimed)

    def next_batch(self) -> Batch | None:
        """Return the claimed batch of which something has not been taken up, if there is one."""
        return next((batch for batch in self.claimed if batch.rest), None)

    def acknowledge(self, key: int) -> None:
        """Note that an event needs no broker any more; a batch of which nothing is left is removed.

        Raises:
            OSError: it could not be removed. No other worker gets it while this one lives.
        """
        for batch in self.claimed:
            if key in batch.keys:
                batch.keys.remove(key)
                if not batch.keys and not batch.rest:
                    self.claimed.remove(batch)
                    self._stuck.append(batch)
                    batch.close(remove=True)
                    self._stuck.remove(batch)
                return

    def close(self) -> None:
        """Leave what is claimed to other workers."""
        while self.claimed:
            self.claimed.pop().close(remove=False)


def _sync_directory(directory: Path) -> None:
    """Make a new name in a directory outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(line: str) -> Kept:
    """Read one line of a batch.

    Raises:
        ValueError, TypeError: it is not one.
    """
    text, accepted, publisher, number = json.loads(line)
    return Kept(base64.b64decode(text), float(accepted), str(publisher), int(number))
