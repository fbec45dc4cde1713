"""Sequence numbers: new, repeated, missing, late."""

from __future__ import annotations

import time

from opal_backbone import sequence
from opal_backbone.sequence import SequenceTracker


def test_numbers_in_order_are_new_and_repetitions_are_not() -> None:
    tracker = SequenceTracker()
    assert [tracker.observe("a", n, 0) for n in (7, 8, 8, 7, 9)] == [True, True, False, False, True]
    assert tracker.overdue(100, 1) == []


def test_publishers_are_told_apart() -> None:
    tracker = SequenceTracker()
    assert tracker.observe("a", 1, 0)
    assert tracker.observe("b", 1, 0)
    assert not tracker.observe("b", 1, 0)


def test_a_jump_is_reported_once_and_only_after_the_grace() -> None:
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    tracker.observe("a", 4, 10)
    assert tracker.overdue(11, 2) == []
    assert tracker.overdue(12, 2) == [("a", 2), ("a", 3)]
    assert tracker.overdue(13, 2) == []


def test_a_late_event_is_new_whether_reported_or_not() -> None:
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    tracker.observe("a", 4, 10)
    assert tracker.observe("a", 2, 11)
    assert tracker.overdue(20, 2) == [("a", 3)]
    assert tracker.observe("a", 3, 21)
    assert not tracker.observe("a", 3, 21)


def test_a_heartbeat_shows_what_is_missing_at_the_end() -> None:
    tracker = SequenceTracker()
    tracker.announce("a", 5, 0)
    assert tracker.overdue(10, 1) == []
    tracker.announce("a", 7, 10)
    assert tracker.overdue(12, 1) == [("a", 6), ("a", 7)]
    assert tracker.observe("a", 8, 13)


def test_what_was_reported_can_be_waited_for_again() -> None:
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    tracker.observe("a", 3, 0)
    missing = tracker.overdue(10, 1)
    assert (missing, tracker.waiting) == ([("a", 2)], 0)
    tracker.wait_for(missing, 10)
    assert (tracker.overdue(10.5, 1), tracker.waiting) == ([], 1)
    assert tracker.observe("a", 2, 11)
    assert (tracker.overdue(20, 1), tracker.waiting) == ([], 0)


def test_the_number_of_publishers_is_bounded() -> None:
    tracker = SequenceTracker()
    tracker.observe("first", 1, 0)
    tracker.observe("first", 3, 0)
    for number in range(sequence.MAX_PUBLISHERS):
        tracker.observe(f"p{number}", 1, 0)
    assert tracker.overdue(10, 1) == []
    assert tracker.observe("first", 1, 0)


def test_a_huge_jump_does_not_fill_the_memory() -> None:
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    tracker.observe("a", 10**12, 0)
    assert len(tracker.overdue(10, 1)) == sequence.MAX_MISSING
    tracker.observe("a", 2 * 10**12, 20)
    assert len(tracker.overdue(30, 1)) == sequence.MAX_MISSING


def test_a_second_huge_jump_takes_no_longer_than_the_first() -> None:
    """What was missing before makes way, and the event loop waits for that."""
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    times = []
    for number in (10**12, 2 * 10**12):
        before = time.process_time()
        tracker.observe("a", number, 0)
        times.append(time.process_time() - before)
    assert times[1] < 10 * times[0], times


def test_publishers_that_were_heard_lately_are_counted() -> None:
    tracker = SequenceTracker()
    tracker.observe("a", 1, 0)
    tracker.announce("b", 1, 5)
    tracker.observe("a", 2, 10)
    assert [tracker.heard_since(then) for then in (0, 5, 6, 11)] == [2, 2, 1, 0]
