"""One connection to Pulsar: a client, a producer and a reader, made together and thrown away together.

This module and `reading` are the only ones that know pulsar-client. What is done here uses the C extension's
asynchronous calls, so that nothing of ours ever waits for a broker. Their callbacks run on the extension's threads,
where an exception would end the process: each one does nothing but hand its arguments to the event loop.

An event that is alone goes out at once. Those that come while others are under way share an entry of the topic, and
entries of several keep a distance: each entry costs the broker a write to its journal and a dispatch to every worker of
the fleet, however many events it holds. No more can join them once the window of events under way is full, so then they
wait for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import _pulsar
import pulsar
from loguru import logger

from opal_backbone import reading
from opal_backbone.clientlog import client_log
from opal_backbone.reading import Position, Received, TopicReader
from opal_backbone.settings import Settings

_closing: set[Any] = set()
"""Clients on their way out. One that is forgotten before would be shut down by the interpreter."""
_generations = itertools.count(1)
_RECEIVER_QUEUE = 1_000
_LOT_DISTANCE = (0.04, 0.2)
"""Seconds from one entry to the next that holds several events: with few readers, and at most."""
_DISPATCHES = 200
"""How often a second a busy publisher has an entry of several events handed to a reader, all readers together."""
_POISON = ("MessageTooBig", "InvalidMessage")
"""Results that no repetition will ever turn into success."""


class LinkError(ConnectionError):
    """A call to Pulsar failed. `reason` is Pulsar's own name for why, the text may say more."""

    def __init__(self, doing: str, reason: str, detail: str = "") -> None:
        """Remember what was attempted, why it failed, and what the client library said last."""
        super().__init__(f"{doing}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason


def _hand_over(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call `function` on the loop. Never raises: this runs on the extension's threads."""
    with contextlib.suppress(BaseException):
        loop.call_soon_threadsafe(function, *args)


class _Arrivals:
    """Hands calls from the extension's threads to the loop in their order, and wakes it once for many of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, function: Callable[..., None], *args: Any) -> None:
        """Have `function` called on the loop. Never raises."""
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            _hand_over(self._loop, self._run)

    def _run(self) -> None:
        # first of all: what is put from here on wakes the loop again
        self._woken = False
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                logger.exception("Backbone: an answer of the Pulsar client could not be dealt with")


async def _call(doing: str, start: Callable[[Callable[..., None]], None], timeout: float | None) -> Any:
    """Start an asynchronous call of the extension and wait for its result, at most `timeout` seconds if given.

    Raises:
        LinkError: the call failed or did not come back in time.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, value: Any) -> None:
        if future.done():
            return
        if result == _pulsar.Result.Ok:
            future.set_result(value)
        else:
            future.set_exception(LinkError(doing, result.name, client_log().last_error()))

    def callback(result: Any, value: Any = None) -> None:
        _hand_over(loop, settle, result, value)

    start(callback)
    try:
        # not `wait_for`, which forgets that it was cancelled if the answer comes at the same moment (Python 3.11)
        async with asyncio.timeout(timeout):
            return await future
    except TimeoutError:
        raise LinkError(doing, f"no answer in {timeout:g} s", client_log().last_error()) from None


class _TokenFile:
    """Reads the token anew whenever the client asks, so that a rotated file is taken up without a restart."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._last = ""

    def __call__(self) -> str:
        try:
            token = self._path.read_text().strip()
            if token:
                self._last = token
        except (
            Exception
        ):  # on a thread of the extension, where nothing may be raised: the last token is the best answer
            pass
        return self._last


def make_client(settings: Settings) -> Any:
    """Make a client of pulsar-client; it connects later, on the first call that needs a broker.

    Raises:
        LinkError: the settings were refused.
    """
    authentication = None
    if settings.token_file:
        authentication = pulsar.AuthenticationToken(_TokenFile(settings.token_file))
    elif settings.tls_cert_file:
        authentication = pulsar.AuthenticationTLS(settings.tls_cert_file, settings.tls_key_file)
    try:
        return pulsar.Client(
            settings.service_url,
            authentication=authentication,
            operation_timeout_seconds=max(1, round(settings.operation_timeout)),
            connection_timeout_ms=round(settings.connect_timeout * 1000),
            stats_interval_in_seconds=0,
            tls_trust_certs_file_path=settings.tls_ca_file,
            tls_validate_hostname=settings.uses_tls and settings.tls_verify_hostname,
            tls_certificate_file_path=settings.tls_cert_file,
            tls_private_key_file_path=settings.tls_key_file,
            logger=client_log().logger(),
        )
    except Exception as error:
        raise LinkError("make a Pulsar client", str(error)) from error


class Link:
    """A live connection: sends in order, and reads in order from a given place on."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop, window: int = 1) -> None:
        """Take over a client; use `open_link` to make a whole link. At most `window` events will be under way."""
        self.generation = next(_generations)
        self.start: Position
        self._client = client
        self._loop = loop
        self._arrivals = _Arrivals(loop)
        self._producer: Any = None
        self._unsent: list[tuple[Any, Callable[[str, Any], None]]] = []
        self._under_way = 0
        self._window = window
        self._next_lot_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lot_distance = _LOT_DISTANCE[0]
        self._refused = False
        self._reader: Any = None  # a TopicReader, once there is one
        self._closed = False

    def is_connected(self) -> bool:
        """Tell whether both directions have a connection, as far as the client library knows."""
        return bool(self._producer.is_connected() and self._reader.is_connected())

    def suit(self, readers: int) -> None:
        """Keep such a distance between entries of several events as suits so many readers of the topic."""
        least, most = _LOT_DISTANCE
        self._lot_distance = min(max(least, readers / _DISPATCHES), most)

    def send(self, payload: bytes, properties: dict[str, str], done: Callable[[str, Any], None]) -> None:
        """Hand a message to the client library, in order; it never waits.

        `done` is called on the loop with an empty text and the message's raw id, or with the reason for a failure.
        """
        self._unsent.append((_message(payload, properties), done))
        if not self._under_way and len(self._unsent) in (1, self._window):
            # what is sent in the same turn of the loop goes along
            self._loop.call_soon(self._hand_on)

    def _hand_on(self) -> None:
        """Give the library everything that has come since it was last given something."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed or self._refused or self._under_way or not self._unsent:
            return
        if len(self._unsent) > 1:
            now = self._loop.time()
            if now < self._next_lot_at and len(self._unsent) < self._window:
                self._timer = self._loop.call_at(self._next_lot_at, self._hand_on)
                return
            self._next_lot_at = now + self._lot_distance
        unsent, self._unsent = self._unsent, []
        self._under_way = len(unsent)
        for message, done in unsent:
            self._producer.send_async(message, partial(self._arrivals.put, self._answered, done))
        # all of it as one entry: the library's own timer would cut it into several
        self._producer.flush_async(_flushed)

    def _answered(self, done: Callable[[str, Any], None], result: Any, message_id: Any) -> None:
        self._under_way -= 1
        reason = "" if result == _pulsar.Result.Ok else result.name
        # what will be sent again must not be overtaken by what was to follow it
        self._refused = self._refused or bool(reason and not self.is_poison(reason))
        try:
            done(reason, message_id)
        finally:
            self._hand_on()

    @staticmethod
    def is_poison(reason: str) -> bool:
        """Tell whether a failed message must not be sent again."""
        return reason in _POISON

    def read(self, on_messages: Callable[[list[Received]], None], on_broken: Callable[[str], None]) -> None:
        """Begin to read. Messages come in order and in lots.

        `on_broken` is called with the reason if reading ends before the link is closed.
        """
        self._reader.start(on_messages, on_broken)

    def pause(self) -> None:
        """Hand out no more messages; they stay where they are, mostly with the broker."""
        self._reader.pause()

    def resume(self) -> None:
        """Hand out messages again after `pause`, the first one not before this call has returned."""
        self._reader.resume()

    async def partitions(self, settings: Settings) -> list[str]:
        """Look up the topic's partitions; one that has none is its own only partition.

        Raises:
            LinkError: the look-up failed.
        """
        raw, doing = self._client._client, f"look up {settings.topic}"
        found = await _call(
            doing, lambda done: raw.get_topic_partitions_async(settings.topic, done), settings.operation_timeout + 1
        )
        return [str(partition) for partition in found]

    async def publish(self, payload: bytes, settings: Settings, properties: dict[str, str] | None = None) -> Position:
        """Publish one message and wait until a broker has it.

        Raises:
            LinkError: no broker took it in time.
        """
        message = _message(payload, properties or {})

        def start(done: Callable[..., None]) -> None:
            self._producer.send_async(message, done)
            self._producer.flush_async(_flushed)

        return Position(await _call("publish", start, settings.operation_timeout + 1))

    async def read_one(self, timeout: float) -> Received | None:
        """Wait for the next message, at most `timeout` seconds (0: for ever); None if there was none.

        Not to be mixed with `read`.

        Raises:
            LinkError: reading ended.
        """
        deadline = time.monotonic() + (timeout or float("inf"))
        while time.monotonic() < deadline:
            wait = min(0.2, deadline - time.monotonic())
            answer = await asyncio.to_thread(self._reader.next, max(1, round(wait * 1000)))
            if answer is not None:
                reason, raw = answer
                if reason:
                    raise LinkError("read", reason, client_log().last_error())
                return Received(raw)
        return None

    async def close(self, timeout: float) -> None:
        """End the link, waiting for the broker at most `timeout` seconds."""
        self.abandon()
        await disposed(timeout)

    def abandon(self) -> None:
        """End the link without waiting for the broker, which may be gone."""
        self._closed = True
        if self._reader is not None:
            self._reader.end()
        dispose(self._client)


def dispose(client: Any) -> None:
    """Have a client close itself, without waiting for it.

    Never by `shutdown`: the extension holds the interpreter's lock in there while it waits for its threads, and each of
    those may be waiting for the interpreter's lock to make one of our callbacks. Its `close_async` waits in a thread of
    the extension's own, after the operation timeout at the latest.
    """
    _closing.add(client)
    client._client.close_async(lambda _result: _closing.discard(client))


async def disposed(timeout: float) -> None:
    """Wait until clients have ended their threads, at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (reading.ended() and not _closing) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


async def open_link(
    settings: Settings,
    start: Position | None,
    sentinel: tuple[bytes, dict[str, str]],
) -> Link:
    """Connect, and make a producer and a reader on the topic.

    Args:
        settings: where to and how.
        start: the last message that was taken, where reading goes on: it is the first message that the reader gets, if
            the topic still has it. None on the first connection, which reads from its own sentinel on: a reader that
            starts at "latest" and has received nothing loses its place when it reconnects.
        sentinel: payload and properties of the message to publish where there is no `start`.

    Raises:
        LinkError: any step failed; nothing of the attempt is left behind.
    """
    link = Link(make_client(settings), asyncio.get_running_loop(), settings.in_flight)
    try:
        if await link.partitions(settings) != [settings.topic]:
            raise LinkError(f"use {settings.topic}", "it is a partitioned topic, which keeps no order")
        await make_producer(link, settings)
        payload, properties = sentinel
        link.start = start or await link.publish(payload, settings, properties)
        await make_reader(link, settings, link.start)
    except BaseException:
        link.abandon()
        raise
    return link


def _name() -> str:
    """Make a name by which an operator finds this process in Pulsar's statistics; no two may be the same."""
    return f"opal-{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


async def make_producer(link: Link, settings: Settings) -> None:
    """Give a link its producer.

    Raises:
        LinkError: the brokers did not accept one.
    """
    conf = _pulsar.ProducerConfiguration()
    conf.producer_name(_name())
    conf.schema(pulsar.schema.BytesSchema().schema_info())
    # the outbox decides how long to wait and what to repeat, never the library
    conf.send_timeout_millis(0)
    conf.max_pending_messages(settings.in_flight + 100)
    conf.block_if_queue_full(False)
    conf.batching_enabled(True)
    # a batch is what `Link` hands on at once, and flushes. The library's timer must have no part in it: it takes the
    # producer's lock and then the interpreter's, and `flush_async` has the interpreter's when it takes the producer's
    conf.batching_max_publish_delay_ms(3_600_000)
    raw = link._client._client
    link._producer = await _call(
        f"make a producer on {settings.topic}",
        lambda done: raw.create_producer_async(settings.topic, conf, done),
        settings.operation_timeout + 1,
    )


async def make_reader(link: Link, settings: Settings, start: Position | Literal["earliest", "latest"]) -> None:
    """Give a link its reader, which gets the message at `start` first.

    Raises:
        LinkError: the brokers did not accept one.
    """
    conf = _pulsar.ReaderConfiguration()
    conf.reader_name(_name())
    conf.subscription_role_prefix("opal-backbone")
    conf.receiver_queue_size(_RECEIVER_QUEUE)
    conf.schema(pulsar.schema.BytesSchema().schema_info())
    conf.start_message_id_inclusive(isinstance(start, Position))
    where = start.raw if isinstance(start, Position) else getattr(_pulsar.MessageId, start)
    raw = link._client._client
    reader = await _call(
        f"make a reader on {settings.topic}",
        lambda done: raw.create_reader_async(settings.topic, where, conf, done),
        settings.operation_timeout + 1,
    )
    link._reader = TopicReader(reader, link._loop)


def _flushed(_result: Any) -> None:
    """Take no notice: each message has an answer of its own."""


def _message(payload: bytes, properties: dict[str, str]) -> Any:
    """Build the extension's message."""
    builder = _pulsar.MessageBuilder()
    builder.content(payload)
    for name, value in properties.items():
        builder.property(name, value)
    return builder.build()
