"""Reading one topic in its order: places in it, messages from it, and a reader that hands them out on the event loop.

Never by the extension's `read_next_async`. While a message arrives, the client library looks whether a call is waiting,
lets go of its lock, and then puts the message into its queue (`ConsumerImpl::executeNotifyCallback`): a call that comes
in between finds the queue empty and waits, and is given the *next* message, which has then overtaken this one. One that
is alone lies there until another comes. The library's synchronous read knows the queue only, which is in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import _pulsar

_LOT = 200
"""Messages that are handed out at once, at most."""
_AT_HAND = 1_000
"""Messages that were taken and not handed out, at about which no more are taken: the broker keeps them."""
_WAIT_MS = 200
"""How long one wait for a message lasts, in milliseconds, and thus how long the reading thread takes to end."""
_ending: set[threading.Thread] = set()


class Position:
    """A place in the topic; comparable, and good for starting a reader again."""

    __slots__ = ("key", "raw")

    def __init__(self, raw: Any) -> None:
        """Wrap the extension's message id."""
        self.raw = raw
        # the index in a batch is -1 outside of one; an entry has one message then, which is its first
        self.key: tuple[int, int, int] = (raw.ledger_id(), raw.entry_id(), max(0, raw.batch_index()))

    def __str__(self) -> str:
        """Show the place as Pulsar's tools do: ledger:entry, and the index in a batch where there is one."""
        ledger, entry, batch = self.key
        return f"{ledger}:{entry}:{batch}" if batch else f"{ledger}:{entry}"


class Received:
    """A message as it came off the topic."""

    __slots__ = ("payload", "position", "properties", "publish_time", "unreadable")

    def __init__(self, raw: Any) -> None:
        """Copy what is needed out of the extension's message. `publish_time` is seconds of the broker's clock.

        `unreadable` says what is wrong with properties that cannot be had; it is empty otherwise.
        """
        self.position = Position(raw.message_id())
        self.payload: bytes = raw.data()
        self.properties: dict[str, str] = {}
        self.unreadable = ""
        try:
            self.properties = dict(raw.properties())
        except UnicodeDecodeError as error:  # Pulsar itself takes any bytes, and not every client checks
            self.unreadable = f"a property cannot be read: {error}"
        self.publish_time: float = raw.publish_timestamp() / 1000


class TopicReader:
    """Takes messages from a reader of the extension and hands them out in order, in lots, on the event loop.

    A thread takes them one by one, and wakes the loop once for all that it has not looked at yet. It never asks whether
    there is another: that there is none comes as an exception of the extension, which costs more than a message.
    """

    def __init__(self, reader: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take over a reader of the extension; `start` begins to read."""
        self._reader = reader
        self._loop = loop
        # the thread adds at its end, the loop takes from its beginning
        self._inbox: deque[tuple[str, Any]] = deque()
        self._woken = False
        self._paused = True
        self._ended = False
        self._go_on = threading.Event()
        self._thread: threading.Thread | None = None
        self._on_messages: Callable[[list[Received]], None] = lambda _messages: None
        self._on_broken: Callable[[str], None] = lambda _reason: None

    def is_connected(self) -> bool:
        """Tell whether there is a connection, as far as the client library knows."""
        return bool(self._reader.is_connected())

    def start(self, on_messages: Callable[[list[Received]], None], on_broken: Callable[[str], None]) -> None:
        """Begin to read; `on_broken` is called with the reason if that ends before `end` is called."""
        self._on_messages, self._on_broken = on_messages, on_broken
        self._thread = threading.Thread(target=self._read, name="opal-backbone reader", daemon=True)
        self._thread.start()
        self.resume()

    def pause(self) -> None:
        """Hand out no more messages; they stay where they are, mostly with the broker."""
        self._paused = True

    def resume(self) -> None:
        """Hand out messages again after `pause`, the first one not before this call has returned."""
        self._paused = False
        self._go_on.set()
        self._hand_out_by(self._loop.call_soon)

    def end(self) -> None:
        """Read no more, without waiting for anything."""
        self._ended = True
        self._go_on.set()
        if self._thread is not None:
            _ending.add(self._thread)

    def next(self, milliseconds: int) -> tuple[str, Any] | None:
        """Take the next message, waiting at most so long for it, which keeps no other thread from its work.

        Returns:
            An empty text and the extension's message; or the library's name for why reading has ended, and None; or
            None where no message came.
        """
        try:
            return "", self._reader.read_next(milliseconds)
        except _pulsar.Timeout:
            return None
        except Exception as error:
            return type(error).__name__, None

    def _read(self) -> None:
        """Take messages until reading ends; the thread's work."""
        # a process that comes to its end without ending its readers is not kept from it
        while not self._ended and threading.main_thread().is_alive():
            if self._is_to_wait():
                self._go_on.clear()
                if self._is_to_wait():  # what has changed since would not be told again
                    self._go_on.wait(_WAIT_MS / 1000)
                continue
            answer = self.next(_WAIT_MS)
            if answer is None:
                continue
            self._inbox.append(answer)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._hand_out_by(self._loop.call_soon_threadsafe)
            if answer[0]:
                return

    def _is_to_wait(self) -> bool:
        return self._paused or len(self._inbox) >= _AT_HAND

    def _hand_out_by(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        """Have messages handed out in a turn of the loop, unless one is to come anyway."""
        if not self._woken:
            self._woken = True
            call_soon(self._hand_out)

    def _hand_out(self) -> None:
        # first of all: what is put into the inbox from here on wakes the loop again
        self._woken = False
        if self._ended or self._paused or not self._inbox:
            return
        messages: list[Received] = []
        broken = ""
        while self._inbox and len(messages) < _LOT and not broken:
            broken, raw = self._inbox.popleft()
            if not broken:
                messages.append(Received(raw))
        if self._inbox:
            # everything else on the loop has its turn first
            self._hand_out_by(self._loop.call_soon)
        if not self._go_on.is_set():
            self._go_on.set()
        try:
            if messages:
                self._on_messages(messages)
        finally:
            if broken:
                self._paused = True
                self._on_broken(f"reading ended with {broken}")


def ended() -> bool:
    """Tell whether every reader that was told to end has done so."""
    _ending.difference_update([thread for thread in _ending if not thread.is_alive()])
    return not _ending
