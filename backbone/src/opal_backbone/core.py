"""The heart: one connection to the topic per process, which loses nothing while it breaks and is made again.

Everything here runs on the event loop's thread, and nothing here waits for a broker except the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from loguru import logger

from opal_backbone import __version__, wire
from opal_backbone.link import Link, LinkError, disposed, open_link
from opal_backbone.metrics import Metrics
from opal_backbone.outbox import BufferFullError, Entry, Outbox
from opal_backbone.reading import Position, Received
from opal_backbone.sequence import SequenceTracker
from opal_backbone.settings import Settings
from opal_backbone.spool import Kept, Spool

Stream = Callable[[str | None], None]
"""Where a subscriber's events go, as OPAL's JSON text; None ends the stream: events were missed or may have been."""

_TICK = 0.25
_BACKOFF = (0.5, 1.0, 2.0, 3.0, 5.0)
_RECENT = 100
_AT_FULL_RATE = 10
"""Publishers that may all send heartbeats at the set interval. Each of more sends fewer, all together as many as these,
since every heartbeat goes to every worker of the fleet."""
_LEAST_RATE = 12
"""Set intervals from one heartbeat of a worker to the next, at most; from 120 workers on there are more after all."""
_TELLINGS = 2
"""Heartbeats in a row that tell one number at the set interval, before there may be fewer."""
_NOWHERE = (-1, -1, -1)
"""Before every place of a topic."""
_SPOOL_INTERVAL = 5.0
_TOPICS = re.compile(rb'"topics"\s*:\s*(\[[^\]]{0,2000}\])')


class Core:
    """Publishes and reads for one process. Make it after fork, in the process that uses it."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        """Prepare; `start` connects."""
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.pid = os.getpid()
        self.publisher_id = f"{socket.gethostname()}:{self.pid}:{os.urandom(6).hex()}"
        self.on_deaf: Callable[[str], None] | None = None
        """Called once if the worker has been deaf for longer than the setting allows."""

        self._outbox = Outbox(settings.buffer_events, settings.buffer_bytes)
        self._tracker = SequenceTracker()
        self._spool = Spool(settings.spool_dir) if settings.spool_dir else None
        self._position: Position | None = None
        self._high = _NOWHERE
        self._position_checked = False
        # whether what is missing was looked for by reading again, and how far that has to get
        self._searched = False
        self._search_to: tuple[int, int, int] | None = None
        self._unread: deque[Received] = deque()
        self._streams: list[Stream] = []
        self._echo: set[int] = set()
        self._echo_under_way = 0

        self._link: Link | None = None
        self._up = asyncio.Event()
        self._gone = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._closed = False
        self._deaf_told = False
        self._overflowed = False

        now = time.monotonic()
        self._started_at = now
        self._up_since = now
        self._listening_since = now
        self._heard_at = now
        self._own_heard_at = now
        self._progress_at = now
        self._spool_seen_at = now
        self._disconnected_since: float | None = None
        self._heartbeat_since: float | None = None
        self._heartbeat_sent = 0.0
        self._last_beat = float("-inf")
        # the place read so far when the last heartbeat was sent: in the same topic it comes after that
        self._heartbeat_after = _NOWHERE
        # the number in the last heartbeat that a broker took, and how many in a row told it
        self._told = (0, 0)
        # how long everybody may be silent, in set intervals
        self._patience = random.uniform(1, 1.3)
        self._ever_up = False
        self._last_error = ""
        self._last_reason = ""
        self._error_logged_at = float("-inf")
        self._malformed_kinds: set[str] = set()
        self._last_event: tuple[str, float] | None = None
        self._last_gap: tuple[str, float] | None = None
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, in the background; a broker that is away is waited for."""
        if self._supervisor is None:
            self._take_up_spool()
            self._supervisor = asyncio.create_task(self._supervise(), name="opal-backbone supervisor")
            self._ticker = asyncio.create_task(self._tick_forever(), name="opal-backbone ticker")

    async def ready(self, timeout: float) -> None:
        """Wait until there is a connection.

        Raises:
            ConnectionError: there was none within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise ConnectionError(f"no connection to Pulsar: {self._last_error or 'still trying'}") from None

    async def stop(self) -> int:
        """Publish what waits, for at most the set time, and end the connection.

        Returns:
            How many accepted events reached no broker. They are in the spool, if there is one, or lost.
        """
        if self._closed:
            return 0
        deadline = time.monotonic() + self.settings.stop_timeout
        while self._outbox and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._closed = True
        for task in (self._supervisor, self._ticker):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(t for t in (self._supervisor, self._ticker) if t is not None), return_exceptions=True)
        left = len(self._outbox) + (self._spool.waiting if self._spool is not None else 0)
        if left:
            self._keep_or_give_up(left)
        if self._spool is not None:
            self._spool.close()
        link, self._link = self._link, None
        if link is not None:
            await link.close(timeout=1.0)
        else:
            await disposed(1.0)
        return left

    def _keep_or_give_up(self, left: int) -> None:
        entries = list(self._outbox)
        if self._spool is not None:
            try:
                self._spool.save(
                    Kept(entry.payload, entry.accepted, entry.publisher or self.publisher_id, entry.number)
                    for entry in entries
                )
            except OSError as error:
                logger.error(f"Backbone: could not keep {left} unpublished event(s) on disk: {error}")
                # those of an earlier worker are where they were
                entries = [entry for entry in entries if not entry.publisher]
            else:
                logger.warning(f"Backbone: kept {left} unpublished event(s) on disk for the next start")
                return
        if entries:
            self.metrics.count("given_up", len(entries))
            logger.error(f"Backbone: stopped with {len(entries)} accepted event(s) that no broker has; they are lost")

    def _take_up_spool(self) -> None:
        """Publish again what a worker of this host that is no more could not, as far as there is room."""
        if self._spool is None:
            return
        self._spool_seen_at = time.monotonic()
        batch = self._spool.next_batch()
        if batch is None:
            batch = self._spool.claim()
            if batch is None:
                return
            logger.warning(f"Backbone: publishing {len(batch.rest)} event(s) kept on disk by an earlier worker")
        while batch.rest:
            kept = batch.rest[0]
            try:
                # under its old name and number: some of these may have reached a broker after all
                entry = self._outbox.add(
                    kept.payload, kept.accepted, time.monotonic(), publisher=kept.publisher, number=kept.number
                )
            except BufferFullError:
                return
            self.metrics.count("accepted")
            batch.keys.add(entry.key)
            batch.rest.popleft()

    async def _supervise(self) -> None:
        """Keep a link up for ever."""
        attempt = 0
        while True:
            link: Link | None = None
            wall = time.time()
            stamp = wire.Stamp(self.publisher_id, self._acknowledged_number(), "heartbeat", wall)
            try:
                link = await open_link(
                    self.settings, self._position, (wire.heartbeat_payload(self.publisher_id), stamp.properties())
                )
                self._take_up(link)
            except Exception as error:
                # not only Pulsar fails: there may be no room for another thread just now
                attempt += 1
                failure = error if isinstance(error, LinkError) else LinkError("connect", repr(error))
                self._connect_failed(failure)
                if link is not None:
                    with contextlib.suppress(Exception):
                        self._break(link, str(failure))
                await asyncio.sleep(_backoff(attempt))
                continue
            await self._gone.wait()
            if time.monotonic() - self._up_since > 5:
                attempt = 0
            else:  # it breaks as soon as it is made: do not hammer the broker
                attempt += 1
                await asyncio.sleep(_backoff(attempt))

    def _connect_failed(self, failure: LinkError) -> None:
        self.metrics.count("connect_failures")
        now, error = time.monotonic(), str(failure)
        if failure.reason != self._last_reason or now - self._error_logged_at > 60:
            self._error_logged_at = now
            # the client library hides a broker that refuses its certificate behind this one
            hint = "; 'opal-backbone doctor' tells whether it refuses" if failure.reason == "Timeout" else ""
            logger.warning(f"Backbone: cannot connect ({error}{hint}); trying again, {len(self._outbox)} event(s) wait")
        self._last_error, self._last_reason = error, failure.reason

    def _take_up(self, link: Link) -> None:
        now = time.monotonic()
        again = self._ever_up
        self._link = link
        self._gone.clear()
        self._up_since = self._progress_at = now
        if not again:
            self._heard_at = now
        self._disconnected_since = self._heartbeat_since = None
        if self._position is None:
            self._position = link.start
            self._high = link.start.key
            # its first own event, if it does not arrive, is to be missed like any other
            self._tracker.announce(self.publisher_id, self._acknowledged_number(), now, link.start)
        self._position_checked = False
        self._unread.clear()
        self._told = (0, 0)
        self._outbox.rewind()
        self._ever_up = True
        self._last_error = ""
        self.metrics.count("connects")
        logger.info(
            f"Backbone: {'re' if again else ''}connected to {self.settings.topic}, reading from {self._position}"
            + (f", {len(self._outbox)} event(s) to publish" if self._outbox else "")
        )
        link.read(lambda messages: self._take(link, messages), lambda reason: self._break(link, reason))
        if not self._streams:
            link.pause()
        self._up.set()
        self._pump()

    def _break(self, link: Link, reason: str) -> None:
        """Let go of a link that is of no use; nothing that still comes from it is taken."""
        if link is not self._link:
            return
        logger.warning(f"Backbone: {reason}; connecting anew, {len(self._outbox)} event(s) wait")
        self._last_error, self._last_reason = reason, ""
        self._link = None
        self._up.clear()
        self._gone.set()
        self._unread.clear()
        link.abandon()

    # --- publishing -------------------------------------------------------------------------------------------------

    def publish(self, payload: bytes, *, echo: bool = False) -> int:
        """Accept an event for publishing; it never waits.

        Args:
            payload: the event in OPAL's backbone schema.
            echo: hand the event to this worker's own subscribers too when it comes back.

        Returns:
            The event's number among those of this publisher.

        Raises:
            BufferFullError: the buffer has reached one of its bounds, so the event was not accepted.
            RuntimeError: the backbone has been stopped.
        """
        if self._closed:
            raise RuntimeError("the backbone has been stopped")
        try:
            entry = self._accept(payload, echo=echo)
        except BufferFullError as error:
            self.metrics.count("refused")
            if not self._overflowed:
                self._overflowed = True
                logger.error(f"Backbone: event refused: {error}. OPAL's replay buffer takes over until there is room")
            raise
        self._pump()
        return entry.number

    def _accept(self, payload: bytes, *, echo: bool) -> Entry:
        entry = self._outbox.add(payload, time.time(), time.monotonic())
        self.metrics.count("accepted")
        if echo:
            self.metrics.count("deferred")
            self._echo.add(entry.number)
        return entry

    def _pump(self) -> None:
        """Hand to the link what it has room for."""
        link = self._link
        if link is None:
            return
        while self._outbox.in_flight < self.settings.in_flight:
            if not self._outbox.in_flight:
                self._progress_at = time.monotonic()
            entry = self._outbox.next_unsent()
            if entry is None:
                return
            if entry.sent > 1:
                self.metrics.count("retried")
            stamp = wire.Stamp(entry.publisher or self.publisher_id, entry.number, "event", entry.accepted)
            link.send(entry.payload, stamp.properties(), partial(self._acknowledged, link, entry.key))

    def _acknowledged(self, link: Link, key: int, reason: str, _message_id: Any) -> None:
        if not reason:
            # an earlier link's acknowledgement is as good: the broker has the event
            if self._outbox.acknowledge(key) is not None:
                self.metrics.count("published")
                self._forget_kept(key)
        elif link is not self._link:
            return
        elif link.is_poison(reason):
            entry = self._outbox.acknowledge(key)
            if entry is not None:
                if not entry.publisher:
                    self._echo.discard(entry.number)
                self._forget_kept(key)
                self.metrics.count("given_up")
                logger.error(f"Backbone: event {entry.number} was given up, the broker will never take it: {reason}")
        else:
            self._break(link, f"publishing failed with {reason}")
            return
        if link is self._link:
            self._progress_at = time.monotonic()
            self._pump()

    def _forget_kept(self, key: int) -> None:
        if self._spool is None:
            return
        try:
            self._spool.acknowledge(key)
        except OSError as error:
            logger.error(f"Backbone: events kept on disk were published, but their file cannot be removed: {error}")

    def _acknowledged_number(self) -> int:
        """Return the number up to which all of this publisher's own events have been acknowledged."""
        oldest = next((entry for entry in self._outbox if not entry.publisher), None)
        return self._outbox.last_number if oldest is None else oldest.number - 1

    def away(self) -> str:
        """Tell why an event published now would not reach the fleet at once; empty if it would."""
        now = time.monotonic()
        hold_after = self.settings.hold_after
        if self._link is None:
            return "there is no connection"
        if self._disconnected_since is not None:
            return "the connection is lost"
        if self._outbox.in_flight and now - self._progress_at > hold_after:
            return f"nothing was acknowledged for {hold_after:g} s"
        if self._heartbeat_since is not None and now - self._heartbeat_since > hold_after:
            return f"no heartbeat was acknowledged for {hold_after:g} s"
        return ""

    @property
    def has_deferred(self) -> bool:
        """Whether events that were held back have not reached this worker's own subscribers yet."""
        return bool(self._echo) or self._echo_under_way > 0

    def deferred_delivered(self) -> None:
        """Note that the subscriber has passed on an event that was held back and has come back from the topic."""
        self._echo_under_way = max(0, self._echo_under_way - 1)

    # --- reading ----------------------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> None:
        """Hand events to `stream` from here on: nothing is missed between one stream's end and the next one's start."""
        first = not self._streams
        self._streams.append(stream)
        if first:
            self._listening_since = time.monotonic()
            asyncio.get_running_loop().call_soon(self._go_on)

    def detach(self, stream: Stream) -> None:
        """Hand no more events to `stream`."""
        if stream in self._streams:
            self._streams.remove(stream)
        if not self._streams:
            self._echo_under_way = 0
            if self._link is not None:
                self._link.pause()

    def _go_on(self) -> None:
        if self._streams:
            self._process()
        if self._streams and self._link is not None:
            self._link.resume()

    def _take(self, link: Link, messages: list[Received]) -> None:
        if link is self._link:
            self._unread.extend(messages)
            self._process()

    def _process(self) -> None:
        """Take unread messages as long as somebody listens."""
        while self._unread and self._streams:
            message = self._unread.popleft()
            place = self._place(message)
            if place != "skip":
                self._heard_at = time.monotonic()
                self._handle(message, again=place == "again")

    def _place(self, message: Received) -> Literal["skip", "again", "new"]:
        """Check where a message stands in the topic; tell whether it is to be handled now, and whether it is new.

        The reader was started at the last message taken, so that one comes first, unless the topic lost it, and then
        perhaps others after it.
        """
        if self._position is None:
            self._position = message.position
            self._high = message.position.key
            return "new"
        key, last = message.position.key, self._position.key
        if not self._position_checked:
            self._position_checked = True
            if key == last:
                self._heard_at = time.monotonic()
                return "skip"
            self._unread.appendleft(message)
            if key < last:
                self._position, self._heartbeat_after = None, _NOWHERE
            where = "starts anew" if key < last else "no longer holds the place where reading stopped"
            self._gap(f"the topic {where} (stopped at {_show(last)}, goes on at {message.position})")
            return "skip"
        if key <= self._heartbeat_after and self._is_awaited_heartbeat(message):
            # it has an older place than what was read before it was sent: this is another topic of that name
            stopped, self._high = self._high, key
            self._position, self._heartbeat_after = message.position, _NOWHERE
            self._gap(f"the topic starts anew (stopped at {_show(stopped)}, goes on at {message.position})")
            return "skip"
        self._position = message.position
        if key <= self._high:
            return "again"
        self._high = key
        return "new"

    def _is_awaited_heartbeat(self, message: Received) -> bool:
        try:
            stamp = wire.read_stamp(message.properties)
        except wire.MalformedError:
            return False
        return (
            stamp is not None
            and stamp.kind == "heartbeat"
            and stamp.publisher == self.publisher_id
            and abs(stamp.sent - self._heartbeat_sent) < 1e-5
        )

    def _handle(self, message: Received, *, again: bool) -> None:
        """Hand a message on, unless it is known: by its number if it has one, and else by its place."""
        now, wall = time.monotonic(), time.time()
        try:
            if message.unreadable:
                raise wire.MalformedError("not UTF-8", message.unreadable)
            stamp = wire.read_stamp(message.properties)
            if stamp is None and again:
                self.metrics.count("duplicates")
                return
            if stamp is None:
                text = wire.check_payload(message.payload)
            elif stamp.kind == "heartbeat":
                self._heartbeat_heard(stamp, message.position, now, wall)
                return
            else:
                text = message.payload.decode()
        except (wire.MalformedError, UnicodeDecodeError) as error:
            self._malformed(message, error)
            return
        if stamp is not None:
            if not self._tracker.observe(stamp.publisher, stamp.number, now, message.position):
                self.metrics.count("duplicates")
                return
            self.metrics.latency(wall - stamp.sent)
        self.metrics.count("received")
        self._last_event = (str(message.position), wall)
        own = stamp is not None and stamp.publisher == self.publisher_id
        self._remember(message, stamp, wall)
        if own and stamp is not None:
            self._own_heard_at = now
            if stamp.number not in self._echo:
                return  # OPAL gave it to this worker's subscribers when it was published
            self._echo.discard(stamp.number)
            self._echo_under_way += 1
        self.metrics.count("delivered")
        for stream in list(self._streams):
            stream(text)

    def _heartbeat_heard(self, stamp: wire.Stamp, position: Position, now: float, wall: float) -> None:
        self.metrics.count("heartbeats_received")
        self._tracker.announce(stamp.publisher, stamp.number, now, position)
        if stamp.publisher == self.publisher_id:
            self._own_heard_at = now
            self.metrics.round_trip(wall - stamp.sent)

    def _remember(self, message: Received, stamp: wire.Stamp | None, wall: float) -> None:
        topics = _TOPICS.search(message.payload, 0, 4096)
        self._recent.append(
            {
                "id": str(message.position),
                "publisher": stamp.publisher if stamp else None,
                "number": stamp.number if stamp else None,
                "topics": topics[1].decode(errors="replace") if topics else None,
                "sent": stamp.sent if stamp else message.publish_time,
                "received": wall,
            }
        )

    def _malformed(self, message: Received, error: Exception) -> None:
        self.metrics.count("malformed")
        kind = error.kind if isinstance(error, wire.MalformedError) else "not UTF-8"
        if kind not in self._malformed_kinds:
            self._malformed_kinds.add(kind)
            logger.warning(
                f"Backbone: message {message.position} on {self.settings.topic} skipped ({error});"
                " further ones of this kind are only counted"
            )

    def _gap(self, reason: str) -> None:
        """End every stream, so that OPAL replays what it kept and lets its clients fetch everything again."""
        self.metrics.count("gaps")
        self._write_off(self._tracker.overdue(time.monotonic(), 0))
        self._last_gap = (reason, time.time())
        logger.warning(f"Backbone: gap: {reason}; OPAL's clients on this worker are to resynchronise")
        streams, self._streams = self._streams, []
        if self._link is not None:
            self._link.pause()
        for stream in streams:
            stream(None)

    # --- watching ---------------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            late, last = now - last > _TICK + 1, now
            try:
                # after a pause of the whole process its ages mean nothing: what arrived meanwhile has its turn first
                self._tick(now, judge=not late)
            except Exception:
                logger.exception("Backbone: the watch failed this time")

    def _tick(self, now: float, *, judge: bool) -> None:
        link = self._link
        if link is not None:
            if link.is_connected():
                self._disconnected_since = None
            elif self._disconnected_since is None:
                self._disconnected_since = now
            if judge:
                self._judge(link, now)
        link = self._link
        if link is not None:
            link.suit(self._alive(now))
            self._beat(link, now)
        self._look_for_the_missing(now)
        self._look_into_spool(now)
        self._look_at_what_was_refused()
        self._look_at_deafness()
        oldest = self._outbox.oldest()
        self.metrics.gauge("connected", float(self._link is not None and not self.unhealthy()))
        self.metrics.gauge("waiting", len(self._outbox))
        self.metrics.gauge("waiting_bytes", self._outbox.bytes)
        self.metrics.gauge("last_event_timestamp_seconds", self._last_event[1] if self._last_event else 0.0)
        self.metrics.gauge("heard_age_seconds", now - self._heard_at)
        self.metrics.gauge("oldest_waiting_seconds", now - oldest.since if oldest else 0.0)

    def _look_at_what_was_refused(self) -> None:
        """Once there is room, have OPAL publish again what was refused. With nobody listening, nobody would be told."""
        if not self._overflowed or not self._streams or self._outbox:
            return
        if self._link is not None and self._disconnected_since is None:
            self._overflowed = False
            self._gap("events were refused while the buffer was full")

    def _look_into_spool(self, now: float) -> None:
        """Take up more of what there was no room for, or what a worker has left that nobody replaced."""
        if self._spool is None or self._link is None or len(self._outbox) >= self.settings.in_flight:
            return
        if self._spool.next_batch() is not None or now - self._spool_seen_at > _SPOOL_INTERVAL:
            self._take_up_spool()
            self._pump()

    def _look_for_the_missing(self, now: float) -> None:
        """Read the topic again from before the first event that is missing; what is not there then is a gap."""
        if self._search_to is not None:
            if self._position is not None and self._position.key < self._search_to:
                return
            self._search_to = None
        missed = self._tracker.overdue(now, self.settings.gap_grace)
        if not missed:
            if not self._tracker.waiting:
                self._searched = False
            return
        publisher, number = missed[0]
        what = f"{len(missed)} event(s) were published and did not arrive, the first is number {number} of {publisher}"
        if not self._searched and self._link is not None:
            self._tracker.wait_for(missed, now)
            hole: Position = min(self._tracker.holes(), key=lambda place: place.key)
            self._searched = True
            self._search_to = self._high
            self._position = hole
            self.metrics.count("searches")
            self._break(self._link, f"{what}; reading again from {hole}")
            return
        self._write_off(missed)
        self._gap(what)

    def _write_off(self, missed: list[tuple[str, int]]) -> None:
        """Wait no longer for what is missing; should it come after all, it is still taken for new."""
        self.metrics.count("missed", len(missed))
        self._echo.difference_update(number for publisher, number in missed if publisher == self.publisher_id)
        self._searched, self._search_to = False, None

    def _judge(self, link: Link, now: float) -> None:
        """Break a link that is of no use, whatever the client library thinks of it."""
        settings = self.settings
        if self._disconnected_since is not None and now - self._disconnected_since > settings.reconnect_after:
            self._break(link, f"the connection was lost {settings.reconnect_after:g} s ago")
        elif self._outbox.in_flight and now - self._progress_at > settings.ack_timeout:
            self._break(link, f"no event was acknowledged for {settings.ack_timeout:g} s")
        elif self._heartbeat_since is not None and now - self._heartbeat_since > settings.ack_timeout:
            self._break(link, f"no heartbeat was acknowledged for {settings.ack_timeout:g} s")
        elif self._streams and now - max(self._heard_at, self._up_since, self._listening_since) > settings.deaf_after:
            self._break(link, f"nothing was heard from the topic for {settings.deaf_after:g} s")

    def _beat(self, link: Link, now: float) -> None:
        """Send a heartbeat when nothing of this worker's own has come by for a while and nothing is under way."""
        if self._outbox or self._heartbeat_since is not None:
            return
        # while reading what is older than what was read before, only a heartbeat shows whether this is the same topic
        since = self._last_beat if self._reads_again() else max(self._own_heard_at, self._last_beat)
        if now - since < self._silence(now):
            return
        self._last_beat = self._heartbeat_since = now
        self._heartbeat_sent, self._heartbeat_after = time.time(), self._high
        number = self._outbox.last_number
        stamp = wire.Stamp(self.publisher_id, number, "heartbeat", self._heartbeat_sent)

        def done(reason: str, _message_id: Any) -> None:
            if link is not self._link:
                return
            self._heartbeat_since = None
            if reason:
                self._break(link, f"a heartbeat failed with {reason}")
            else:
                self._told = (number, self._told[1] + 1 if self._told[0] == number else 1)
                self.metrics.count("heartbeats_sent")

        link.send(wire.heartbeat_payload(self.publisher_id), stamp.properties(), done)

    def _silence(self, now: float) -> float:
        """Return how long this worker may be silent, in seconds.

        Longer than the set interval only while two heartbeats have told of all that it published, one of which may be
        missing like an event, and while it hears others and what is new.
        """
        interval = self.settings.heartbeat_interval
        number, times = self._told
        if number != self._outbox.last_number or times < _TELLINGS or self._reads_again():
            return interval
        if now - self._heard_at >= interval * self._patience:
            return interval
        return interval * min(max(1.0, self._alive(now) / _AT_FULL_RATE), _LEAST_RATE)

    def _reads_again(self) -> bool:
        """Tell whether the place of reading is before another that was read."""
        return self._position is not None and self._position.key < self._high

    def _alive(self, now: float) -> int:
        """Count the workers that were heard lately, this one too: for twice as long as one may be silent."""
        return self._tracker.heard_since(now - 2 * _LEAST_RATE * self.settings.heartbeat_interval)

    def unhealthy(self) -> str:
        """Say why this worker cannot be relied upon to hear every event; empty if it can."""
        now = time.monotonic()
        if not self._ever_up:
            return f"not connected to the backbone yet: {self._last_error or 'connecting'}"
        if now - self._heard_at > self.settings.deaf_after:
            why = self._last_error or self.away() or ("" if self._streams else "OPAL does not listen")
            return f"deaf: nothing heard from the backbone for {now - self._heard_at:.0f} s" + (
                f" ({why})" if why else ""
            )
        return ""

    def _look_at_deafness(self) -> None:
        limit = self.settings.restart_after
        since = self._heard_at if self._ever_up else self._started_at
        if not limit or self._deaf_told or time.monotonic() - since <= limit:
            return
        self._deaf_told = True
        if self.on_deaf is not None:
            self.on_deaf(f"deaf for more than {limit:g} s: {self.unhealthy()}")

    def state(self) -> dict[str, Any]:
        """Return what there is to know about this worker, for JSON. Ages are seconds, times seconds since the epoch."""
        now, wall = time.monotonic(), time.time()
        oldest = self._outbox.oldest()
        reason = self.unhealthy()
        return {
            "pid": self.pid,
            "host": socket.gethostname(),
            "version": __version__,
            "publisher": self.publisher_id,
            "topic": self.settings.topic,
            "written": wall,
            "uptime": now - self._started_at,
            "connected": self._link is not None and self._disconnected_since is None,
            "listening": bool(self._streams),
            "healthy": not reason,
            "reason": reason,
            "away": self.away(),
            "while_away": self.settings.while_away,
            "position": str(self._position) if self._position else None,
            "heard_age": now - self._heard_at,
            "last_event": {"id": self._last_event[0], "age": wall - self._last_event[1]} if self._last_event else None,
            "last_gap": {"reason": self._last_gap[0], "age": wall - self._last_gap[1]} if self._last_gap else None,
            "last_error": self._last_error,
            "waiting": len(self._outbox),
            "waiting_bytes": self._outbox.bytes,
            "oldest_waiting": now - oldest.since if oldest else 0.0,
            "last_number": self._outbox.last_number,
            "counters": self.metrics.as_dict(),
            "recent": list(self._recent),
        }


def _backoff(attempt: int) -> float:
    """Return how many seconds to wait before the next attempt; uneven, so that a fleet does not come in step."""
    return _BACKOFF[min(attempt, len(_BACKOFF)) - 1] * random.uniform(0.6, 1.0)


def _show(key: tuple[int, int, int]) -> str:
    return f"{key[0]}:{key[1]}"
