"""Events that were accepted and are not yet acknowledged by a broker: bounded, and in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass


class BufferFullError(RuntimeError):
    """The outbox has reached one of its bounds; the event was not accepted."""


@dataclass(slots=True)
class Entry:
    """One accepted event. Times are seconds: `accepted` of the wall clock, `since` of the monotonic clock."""

    # where it stands among all that was accepted here, and its number among its publisher's events
    key: int
    number: int
    payload: bytes
    accepted: float
    since: float
    # empty for this process; another for an event that an earlier process left behind
    publisher: str = ""
    sent: int = 0


class Outbox:
    """Keeps entries in the order in which they were accepted until each is acknowledged.

    It holds the truth about what is unsent: the client library's own queue may be thrown away at any moment.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        """Make an empty outbox for at most `max_events` entries and `max_bytes` of payload, or one larger event."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._unsent: OrderedDict[int, Entry] = OrderedDict()
        self._last_key = 0
        self.last_number = 0
        self.bytes = 0

    def __len__(self) -> int:
        """Count entries that wait for an acknowledgement, sent or not."""
        return len(self._entries)

    @property
    def in_flight(self) -> int:
        """Entries that were handed to the current connection and are not acknowledged."""
        return len(self._entries) - len(self._unsent)

    def add(self, payload: bytes, wall: float, now: float, *, publisher: str = "", number: int = 0) -> Entry:
        """Accept an event, and give it the next number unless it has the one that another publisher gave it.

        Raises:
            BufferFullError: one of the bounds is reached. The event got no number.
        """
        # where nothing else waits, a larger event is taken too: only a broker knows whether it is too large
        if self._entries:
            self._check_bounds(len(payload))
        if not publisher:
            self.last_number += 1
            number = self.last_number
        self._last_key += 1
        entry = Entry(self._last_key, number, payload, wall, now, publisher)
        self._entries[entry.key] = entry
        self._unsent[entry.key] = entry
        self.bytes += len(payload)
        return entry

    def _check_bounds(self, more: int) -> None:
        if len(self._entries) >= self._max_events:
            raise BufferFullError(f"{len(self._entries)} events wait for a broker, the bound is {self._max_events}")
        if self.bytes + more > self._max_bytes:
            raise BufferFullError(f"{self.bytes} bytes wait for a broker, the bound is {self._max_bytes}")

    def next_unsent(self) -> Entry | None:
        """Hand out the first entry that the current connection has not been given, and note that it has now."""
        if not self._unsent:
            return None
        _, entry = self._unsent.popitem(last=False)
        entry.sent += 1
        return entry

    def acknowledge(self, key: int) -> Entry | None:
        """Drop an entry that a broker has, or that no broker will ever take; None if it was dropped before."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._unsent.pop(key, None)
        self.bytes -= len(entry.payload)
        return entry

    def rewind(self) -> int:
        """Prepare for a new connection: everything unacknowledged is to be sent again, in order.

        Returns:
            How many entries had been handed to the old connection.
        """
        handed = self.in_flight
        self._unsent = OrderedDict(self._entries)
        return handed

    def oldest(self) -> Entry | None:
        """Return the entry that has waited longest, if any."""
        return next(iter(self._entries.values()), None)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over all waiting entries in order."""
        return iter(self._entries.values())
