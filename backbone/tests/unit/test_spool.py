"""Events kept on disk over a stop."""

from __future__ import annotations

import os
from pathlib import Path

from opal_backbone.spool import Kept, Spool

EVENTS = [Kept(b'{"a": "\xc3\xa9"}', 1.5, "me", 7), Kept(b"\x00\xff", 2.0, "me", 8)]


def test_what_was_saved_is_claimed_once(tmp_path: Path) -> None:
    Spool(str(tmp_path / "spool")).save(EVENTS)
    first, second = Spool(str(tmp_path / "spool")), Spool(str(tmp_path / "spool"))
    (batch,) = first.claim()
    assert batch.events == EVENTS
    assert second.claim() == []


def test_a_batch_is_kept_until_all_of_it_is_acknowledged(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.save(EVENTS)
    (batch,) = spool.claim()
    batch.keys = {5, 6}
    spool.acknowledge(5)
    assert list(tmp_path.iterdir()) == [batch.path]
    spool.acknowledge(6)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_workers_claim_is_taken_over(tmp_path: Path) -> None:
    Spool(str(tmp_path)).save(EVENTS)
    (path,) = tmp_path.glob("*.batch")
    path.rename(path.with_suffix(".claimed-4194304"))  # above the highest pid
    (batch,) = Spool(str(tmp_path)).claim()
    assert batch.events == EVENTS
    assert batch.path.suffix == f".claimed-{os.getpid()}"


def test_an_unfinished_or_unreadable_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".1-2.part").write_text("[")
    (tmp_path / "3-4.batch").write_text("not ours\n")
    assert Spool(str(tmp_path)).claim() == []
    assert len(list(tmp_path.iterdir())) == 2


def test_only_its_owner_can_read_a_batch(tmp_path: Path) -> None:
    path = Spool(str(tmp_path / "spool")).save(EVENTS)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
