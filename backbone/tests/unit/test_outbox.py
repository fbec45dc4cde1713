"""The outbox: order, bounds, and what is sent again."""

from __future__ import annotations

import pytest

from opal_backbone.outbox import BufferFullError, Outbox


def numbers(outbox: Outbox) -> list[int]:
    found = []
    while (entry := outbox.next_unsent()) is not None:
        found.append(entry.number)
    return found


def test_entries_are_handed_out_once_and_in_order() -> None:
    outbox = Outbox(10, 1000)
    for payload in (b"a", b"b", b"c"):
        outbox.add(payload, 0, 0)
    assert numbers(outbox) == [1, 2, 3]
    assert numbers(outbox) == []
    assert outbox.in_flight == 3


def test_a_new_connection_is_given_all_that_is_unacknowledged_in_order() -> None:
    outbox = Outbox(10, 1000)
    for _ in range(4):
        outbox.add(b"x", 0, 0)
    assert outbox.next_unsent() is not None
    assert outbox.next_unsent() is not None
    outbox.acknowledge(1)
    assert outbox.rewind() == 1
    assert numbers(outbox) == [2, 3, 4]


def test_an_acknowledgement_of_an_earlier_connection_counts() -> None:
    outbox = Outbox(10, 1000)
    outbox.add(b"x", 0, 0)
    outbox.next_unsent()
    outbox.rewind()
    assert outbox.acknowledge(1) is not None
    assert outbox.acknowledge(1) is None
    assert numbers(outbox) == []
    assert len(outbox) == 0
    assert outbox.bytes == 0


def test_both_bounds_hold_and_a_refused_event_takes_no_number() -> None:
    outbox = Outbox(2, 10)
    outbox.add(b"12345", 0, 0)
    with pytest.raises(BufferFullError, match="bytes"):
        outbox.add(b"123456", 0, 0)
    outbox.add(b"12345", 0, 0)
    with pytest.raises(BufferFullError, match="events"):
        outbox.add(b"", 0, 0)
    outbox.acknowledge(1)
    assert outbox.add(b"", 0, 0).number == 3


def test_an_event_larger_than_the_bound_is_refused_only_while_others_wait() -> None:
    outbox = Outbox(10, 10)
    outbox.add(b"x", 0, 0)
    with pytest.raises(BufferFullError, match="bytes"):
        outbox.add(b"x" * 11, 0, 0)
    outbox.acknowledge(1)
    assert outbox.add(b"x" * 11, 0, 0).number == 2


def test_an_event_left_behind_by_another_keeps_its_name_and_number_and_takes_none_of_ours() -> None:
    outbox = Outbox(10, 1000)
    outbox.add(b"a", 0, 0)
    left = outbox.add(b"b", 0, 0, publisher="earlier", number=41)
    assert (left.publisher, left.number) == ("earlier", 41)
    assert outbox.add(b"c", 0, 0).number == 2
    assert numbers(outbox) == [1, 41, 2]
