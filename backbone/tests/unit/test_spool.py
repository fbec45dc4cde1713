"""Events kept on disk over a stop."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opal_backbone.spool import Batch, Kept, Spool

EVENTS = [Kept(b'{"a": "\xc3\xa9"}', 1.5, "me", 7), Kept(b"\x00\xff", 2.0, "me", 8)]


def test_what_was_saved_is_claimed_once(tmp_path: Path) -> None:
    Spool(str(tmp_path / "spool")).save(EVENTS)
    first, second = Spool(str(tmp_path / "spool")), Spool(str(tmp_path / "spool"))
    batch = first.claim()
    assert batch is not None
    assert list(batch.rest) == EVENTS
    assert second.claim() is None
    assert first.claim() is None


def _claim(spool: Spool) -> Batch:
    batch = spool.claim()
    assert batch is not None
    return batch


def _take_up(batch: Batch, first_key: int, count: int) -> None:
    for key in range(first_key, first_key + count):
        batch.rest.popleft()
        batch.keys.add(key)


def test_a_batch_is_kept_until_all_of_it_is_acknowledged(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.save(EVENTS)
    batch = _claim(spool)
    _take_up(batch, 5, 1)
    spool.acknowledge(5)
    assert list(tmp_path.iterdir()) == [batch.path], "there was one that nobody had taken up"
    _take_up(batch, 6, 1)
    spool.acknowledge(7)
    assert list(tmp_path.iterdir()) == [batch.path]
    spool.acknowledge(6)
    assert list(tmp_path.iterdir()) == []
    assert spool.claimed == []


def _two_claimed(directory: Path) -> tuple[Spool, Batch, Batch]:
    spool = Spool(str(directory))
    spool.save(EVENTS)
    spool.save(EVENTS)
    return spool, _claim(spool), _claim(spool)


def test_one_batchs_events_say_nothing_about_another(tmp_path: Path) -> None:
    spool, first, second = _two_claimed(tmp_path)
    _take_up(first, 1, 2)
    spool.acknowledge(1)
    spool.acknowledge(2)
    assert list(tmp_path.iterdir()) == [second.path]


def test_acknowledgements_find_their_batch_in_any_order(tmp_path: Path) -> None:
    spool, first, second = _two_claimed(tmp_path)
    _take_up(first, 1, 2)
    _take_up(second, 3, 2)
    spool.acknowledge(3)
    spool.acknowledge(4)
    assert list(tmp_path.iterdir()) == [first.path]
    spool.acknowledge(1)
    spool.acknowledge(2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_takes_the_place_of_what_was_claimed(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.save(EVENTS)
    batch = _claim(spool)
    taken = batch.rest[0]
    _take_up(batch, 1, 1)
    new = Kept(b"new", 3.0, "I", 1)
    path = spool.save([taken, new])
    assert list(tmp_path.iterdir()) == [path]
    again = _claim(Spool(str(tmp_path)))
    assert list(again.rest) == [taken, new, EVENTS[1]]


def test_workers_share_what_is_there(tmp_path: Path) -> None:
    writer, first, second = (Spool(str(tmp_path)) for _ in range(3))
    for _ in range(2):
        writer.save(EVENTS)
    assert _claim(first).path != _claim(second).path
    assert first.claim() is None


def test_what_its_owner_has_removed_meanwhile_is_not_claimed(tmp_path: Path) -> None:
    path = Spool(str(tmp_path)).save(EVENTS)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        again = os.open(path, os.O_RDONLY)
        path.unlink()
    # the path of an open file that has no name is what a claimer has opened a moment before
    (tmp_path / "1-1.batch").symlink_to(f"/proc/self/fd/{again}")
    assert Spool(str(tmp_path)).claim() is None
    os.close(again)


def test_a_batch_that_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    before = spool.save(EVENTS)
    _take_up(_claim(spool), 1, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.save([Kept(b"x" * 1000, 1.0, "I", 1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [before]
    spool.close()
    assert list(_claim(Spool(str(tmp_path))).rest) == EVENTS


def test_what_a_killed_worker_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".1-2.part", tmp_path / ".3-4.part"
    for path in (old, young):
        path.write_text("[")
    os.utime(old, (time.time() - 3600,) * 2)
    assert Spool(str(tmp_path)).claim() is None
    assert list(tmp_path.iterdir()) == [young]


def test_a_worker_that_ends_leaves_its_claim(tmp_path: Path) -> None:
    Spool(str(tmp_path)).save(EVENTS)
    claim = f"from opal_backbone.spool import Spool; spool = Spool({str(tmp_path)!r}); exit(spool.claim() is not None)"
    assert subprocess.run([sys.executable, "-c", claim], check=False).returncode == 1
    spool = Spool(str(tmp_path))
    _claim(spool)
    spool.close()
    batch = _claim(Spool(str(tmp_path)))
    assert list(batch.rest) == EVENTS


def test_an_unfinished_or_unreadable_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".1-2.part").write_text("[")
    (tmp_path / "3-4.batch").write_text("not ours\n")
    assert Spool(str(tmp_path)).claim() is None
    assert len(list(tmp_path.iterdir())) == 2


def test_only_its_owner_can_read_a_batch(tmp_path: Path) -> None:
    path = Spool(str(tmp_path / "spool")).save(EVENTS)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_what_is_done_with_and_cannot_be_removed_is_published_by_nobody_else(tmp_path: Path) -> None:
    path = Spool(str(tmp_path)).save(EVENTS)
    spool = Spool(str(tmp_path))
    batch = _claim(spool)
    _take_up(batch, 1, len(EVENTS))
    # where the file was, there is something now that cannot be removed, and the file has another name
    path.rename(tmp_path / "9-9.batch")
    path.mkdir()
    keys = sorted(batch.keys)
    del batch
    for key in keys[:-1]:
        spool.acknowledge(key)
    with pytest.raises(OSError, match="directory"):
        spool.acknowledge(keys[-1])
    assert spool.waiting == 0
    assert Spool(str(tmp_path)).claim() is None
