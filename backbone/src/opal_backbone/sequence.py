"""Per-publisher sequence numbers: what is new, what came before, and what never came."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

MAX_PUBLISHERS = 4096
"""Publishers remembered at once; the one heard of longest ago is forgotten first."""
MAX_MISSING = 200_000
"""Missing numbers remembered for one publisher. A jump by more is counted in full and remembered in part."""


@dataclass
class _Publisher:
    last: int
    # when it was last heard of, in seconds of the caller's monotonic clock
    heard: float
    # where in the topic `last` was heard, and where the number before the first missing one was
    place: Any = None
    hole: Any = None
    # number -> when it was first missed, in seconds of the caller's monotonic clock; None once reported
    missing: OrderedDict[int, float | None] = field(default_factory=OrderedDict)


class SequenceTracker:
    """Follows the numbers of every publisher on one topic.

    A publisher numbers its events 1, 2, 3 ... and repeats a number only when it cannot know whether the event arrived.
    The first number heard from a publisher is taken as the start: what came before was another reader's business.
    """

    def __init__(self) -> None:
        """Start knowing no publisher."""
        self._publishers: OrderedDict[str, _Publisher] = OrderedDict()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Count the numbers that are missing and not reported yet."""
        return self._waiting

    def wait_for(self, missing: list[tuple[str, int]], now: float) -> None:
        """Take numbers that were reported for missing since `now` only."""
        for publisher, number in missing:
            known = self._publishers.get(publisher)
            if known is not None and known.missing.get(number, now) is None:
                known.missing[number] = now
                self._waiting += 1

    def observe(self, publisher: str, number: int, now: float, place: Any = None) -> bool:
        """Note that an event arrived at `place`; tell whether it is new (False: it has been seen before)."""
        known = self._publishers.get(publisher)
        if known is None:
            self._add(publisher, number, now, place)
            return True
        self._hear(publisher, known, now)
        if number > known.last:
            self._miss(known, known.last + 1, number, now)
            known.last, known.place = number, place
            return True
        if number in known.missing:
            if known.missing.pop(number) is not None:
                self._waiting -= 1
            return True
        return False

    def announce(self, publisher: str, number: int, now: float, place: Any = None) -> None:
        """Note that a publisher says, at `place`, that it has published everything up to `number`."""
        known = self._publishers.get(publisher)
        if known is None:
            self._add(publisher, number, now, place)
            return
        self._hear(publisher, known, now)
        if number > known.last:
            self._miss(known, known.last + 1, number + 1, now)
            known.last = number
        # nothing up to here is missing, unless it is known to be
        known.place = place

    def overdue(self, now: float, grace: float) -> list[tuple[str, int]]:
        """List publisher and number of what has been missing for longer than `grace` seconds, each only once.

        They are still remembered, so that one which arrives after all is not taken for a repetition.
        """
        if not self._waiting:
            return []
        found = []
        for publisher, known in self._publishers.items():
            for number, since in known.missing.items():
                if since is not None and now - since >= grace:
                    known.missing[number] = None
                    found.append((publisher, number))
        self._waiting -= len(found)
        return found

    def holes(self) -> list[Any]:
        """List the places after which something is missing and not reported yet, one a publisher."""
        return [
            known.hole
            for known in self._publishers.values()
            if any(since is not None for since in known.missing.values())
        ]

    def heard_since(self, then: float) -> int:
        """Count the publishers of which something was heard at `then` or later, in seconds of the monotonic clock."""
        return sum(1 for _ in takewhile(lambda known: known.heard >= then, reversed(self._publishers.values())))

    def _hear(self, publisher: str, known: _Publisher, now: float) -> None:
        known.heard = now
        self._publishers.move_to_end(publisher)

    def _add(self, publisher: str, number: int, now: float, place: Any) -> None:
        self._publishers[publisher] = _Publisher(number, now, place)
        if len(self._publishers) > MAX_PUBLISHERS:
            _, forgotten = self._publishers.popitem(last=False)
            self._waiting -= sum(since is not None for since in forgotten.missing.values())

    def _miss(self, known: _Publisher, first: int, end: int, now: float) -> None:
        if first < end and not any(since is not None for since in known.missing.values()):
            known.hole = known.place
        for number in range(max(first, end - MAX_MISSING), end):
            known.missing[number] = now
            self._waiting += 1
        while len(known.missing) > MAX_MISSING:
            _, since = known.missing.popitem(last=False)
            if since is not None:
                self._waiting -= 1
