"""Everything that reaches into OPAL-server, fastapi-websocket-pubsub and permit-broadcaster, in one place.

`check` tells at start-up, and in the tests, whether an upgrade of one of them has moved what is relied upon here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import opal_server.pubsub as opal_pubsub
from broadcaster import Broadcast, Event
from broadcaster._base import Subscriber
from ddtrace.trace import tracer
from fastapi_websocket_pubsub import EventBroadcaster, PubSubEndpoint
from fastapi_websocket_pubsub.event_broadcaster import BroadcastNotification
from loguru import logger
from opal_common.config import opal_common_config
from opal_common.sources.base_policy_source import BasePolicySource
from opal_server.config import opal_server_config
from opal_server.policy.watcher.task import BasePolicyWatcherTask, PolicyWatcherTask
from opal_server.pubsub_resilience import FreezablePubSubEndpoint, ReconnectingBroadcaster
from opal_server.server import OpalServer

from opal_backbone.core import Core
from opal_backbone.outbox import BufferFullError

_HOPS_TO_SUBSCRIBER = 3
"""Rounds of the event loop from the reading of an event to the call of a subscriber, and one to spare."""


class UpstreamChangedError(RuntimeError):
    """An upgrade has moved something that this package needs; the message names it."""


# class -> names that must be there
_NEEDED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (Broadcast, ("connect", "disconnect", "publish", "subscribe")),
    (EventBroadcaster, ("__broadcast_notifications__", "get_context", "start_reader_task")),
    (
        ReconnectingBroadcaster,
        (
            "__broadcast_notifications__",
            "is_in_backbone_gap",
            "is_reader_healthy",
            "_buffer_outbound",
            "_flush_outbound_buffer",
            "_handle_broadcast_event",
            "_requeue_unsent",
        ),
    ),
    (FreezablePubSubEndpoint, ("publish", "notify", "_is_exempt")),
    (PubSubEndpoint, ("publish",)),
    (opal_pubsub, ("ReconnectingBroadcaster", "FreezablePubSubEndpoint", "PubSub")),
    (BasePolicySource, ("run",)),
    (opal_common_config, ("LOG_LEVEL", "LOG_TO_FILE", "LOG_FILE_LEVEL")),
    (opal_server_config, ("ENABLE_DATADOG_APM",)),
    (tracer, ("enabled", "trace")),
)
# class -> attributes that its instances must have
_ATTRIBUTES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (OpalServer, ("watcher",)),
    (EventBroadcaster, ("_id", "_broadcast_type")),
    (ReconnectingBroadcaster, ("_outbound_buffer", "_buffer_lock")),
    (BasePolicyWatcherTask, ("_tasks",)),
    (PolicyWatcherTask, ("_watcher",)),
    (BasePolicySource, ("_polling_task",)),
)
# function or class -> parameters that must be there
_PARAMETERS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (EventBroadcaster.__init__, ("broadcast_url", "notifier", "channel", "broadcast_type")),
    (ReconnectingBroadcaster.__init__, ("args", "kwargs", "reconnect_max_retries", "replay_buffer_size")),
    (FreezablePubSubEndpoint.__init__, ("freeze_on_disconnect", "freeze_exempt_topics")),
    (Event.__init__, ("channel", "message")),
    (Subscriber.__init__, ("queue",)),
)


def check() -> None:
    """Check that upstream's parts are where they are expected.

    Raises:
        UpstreamChangedError: naming everything that is missing.
    """
    missing = [
        f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
        for owner, names in _NEEDED
        for name in names
        if not hasattr(owner, name)
    ]
    missing += [
        f"{owner.__name__}().{name}"
        for owner, names in _ATTRIBUTES
        for name in names
        if f"self.{name}" not in inspect.getsource(owner.__init__)
    ]
    for function, parameters in _PARAMETERS:
        known = inspect.signature(function).parameters
        missing += [f"{function.__qualname__}({name})" for name in parameters if name not in known]
    if "self._task = " not in inspect.getsource(OpalServer):
        missing.append("OpalServer()._task")
    if "self._watcher.run()" not in inspect.getsource(PolicyWatcherTask.start):
        missing.append("PolicyWatcherTask.start: the call of BasePolicySource.run")
    fields = set(getattr(BroadcastNotification, "__fields__", {}))
    missing += [f"BroadcastNotification.{name}" for name in {"notifier_id", "topics", "data"} - fields]
    if FreezablePubSubEndpoint.notify is not FreezablePubSubEndpoint.publish:
        missing.append("FreezablePubSubEndpoint.notify as another name of publish")
    if missing:
        raise UpstreamChangedError(
            "these parts of OPAL-server and its libraries have moved, this version of opal-pulsar-backbone cannot work"
            f" with them: {', '.join(missing)}"
        )


class FanoutBroadcast(Broadcast):  # type: ignore[misc]
    """What OPAL opens for every event it publishes and for its reader: a nearly free view of the process's one core."""

    core: Core
    """Set on the subclass that `bind` makes, for the process."""

    def __init__(self, url: str) -> None:
        """Take no notice of the URL: it was read when the core was made. The base class would refuse pulsar+ssl."""

    @classmethod
    def bind(cls, core: Core) -> type[FanoutBroadcast]:
        """Make the class that OPAL is to use in this process."""
        return type("FanoutBroadcast", (cls,), {"core": core})

    async def connect(self) -> None:
        """Do nothing: the core keeps the connection."""

    async def disconnect(self) -> None:
        """Do nothing: the core keeps the connection."""

    async def publish(self, channel: str, message: Any) -> None:
        """Accept an event; it is published as soon as a broker takes it, in order.

        Raises:
            BufferFullError, RuntimeError: the event was not accepted.
        """
        self.core.publish(message if isinstance(message, bytes) else str(message).encode())

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Any]:
        """Listen to the topic; the stream ends when events were missed or may have been.

        Raises:
            ConnectionError: there is no connection; the caller tries again.
        """
        await self.core.ready(self.core.settings.operation_timeout)
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def stream(text: str | None) -> None:
            queue.put_nowait(None if text is None else Event(channel, text))

        self.core.attach(stream)
        try:
            yield Subscriber(queue)
        finally:
            self.core.detach(stream)


@dataclass(frozen=True)
class _Held:
    """Stands in OPAL's replay buffer for an event that was held back, and was refused: nobody has got it yet."""

    payload: bytes


class FanoutBroadcaster(ReconnectingBroadcaster):  # type: ignore[misc]
    """OPAL's reconnecting broadcaster on the core of this process."""

    core: Core

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take OPAL's arguments, and have it open our kind of channel."""
        super().__init__(*args, **{**kwargs, "broadcast_type": FanoutBroadcast.bind(self.core)})

    def is_reader_healthy(self) -> bool:
        """Add to OPAL's own judgement whether the topic is heard."""
        return bool(super().is_reader_healthy()) and not self.core.unhealthy()

    @property
    def _held_id(self) -> str:
        # any notifier but ourselves, or OPAL would take the event for one that was delivered here already
        return f"held:{self.core.publisher_id}"

    async def _handle_broadcast_event(self, event: Any) -> None:
        """Pass an event on as OPAL does, and note when it was one that had been held back here."""
        await super()._handle_broadcast_event(event)
        if self.core.has_deferred and event.message.startswith('{"notifier_id": "' + self._held_id):
            # OPAL notifies in a task that starts further tasks, one for each topic's subscribers: what is published
            # next must find them under way, or it would overtake this event
            for _ in range(_HOPS_TO_SUBSCRIBER):
                await asyncio.sleep(0)
            self.core.deferred_delivered()

    async def defer(self, topics: list[str], data: Any) -> None:
        """Publish to the topic only; this worker's subscribers get the event from there, as all others do."""
        for topic in topics:
            logger.info(f"Broadcasting incoming event: { {'topic': topic, 'notifier_id': self._id} } (held)")
            note = BroadcastNotification(notifier_id=self._held_id, topics=[topic], data=data)
            payload = note.json().encode()
            try:
                self.core.publish(payload, echo=True)
            except (BufferFullError, RuntimeError) as error:
                await self._buffer_outbound(topic, _Held(payload), error)

    async def _flush_outbound_buffer(self) -> None:
        """Publish again what was refused; what had been held back is for this worker's own subscribers too."""
        async with self._buffer_lock:
            waiting = list(self._outbound_buffer)
            self._outbound_buffer.clear()
            self._outbound_buffer.extend(item for item in waiting if not isinstance(item[1], _Held))
        held = [item for item in waiting if isinstance(item[1], _Held)]
        for done, (_topic, event) in enumerate(held):
            try:
                self.core.publish(event.payload, echo=True)
            except (BufferFullError, RuntimeError):
                # in front of those that were refused after it
                await self._requeue_unsent(held[done:])
                break
        await super()._flush_outbound_buffer()


class HoldingPubSubEndpoint(FreezablePubSubEndpoint):  # type: ignore[misc]
    """OPAL's endpoint, which holds events while the fleet cannot get them instead of dropping them.

    OPAL freezes publishing while its backbone is away, so that no worker's clients run ahead of the fleet, and drops
    what is published meanwhile: the resynchronisation afterwards brings back what the configured sources hold, and an
    update with inline data is lost. Here such an event goes into the buffer of the backbone, and everybody's clients,
    this worker's included, get it from the topic, in the topic's order.
    """

    core: Core

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take OPAL's arguments."""
        super().__init__(*args, **kwargs)
        self._held = 0

    def _holding(self, topics: Any) -> bool:
        if self.core.settings.while_away != "hold" or self._is_exempt(topics):
            return False
        # an event must not overtake those that were held back before it
        return bool(self.core.has_deferred or self.broadcaster.is_in_backbone_gap() or self.core.away())

    async def publish(self, topics: Any, data: Any = None) -> None:
        """Publish to everybody at once, or hold the event until the fleet can get it."""
        if not self._holding(topics):
            if self._held:
                logger.warning(f"Backbone: back; {self._held} event(s) that were held have reached this worker too")
                self._held = 0
            # past OPAL's own gate, which would drop the event
            await PubSubEndpoint.publish(self, topics, data)
            return
        self._held += 1
        if self._held == 1:
            why = self.core.away() or "events held before this one are on their way"
            logger.warning(f"Backbone: away ({why}); holding events until the whole fleet can get them")
        await self.broadcaster.defer([topics] if isinstance(topics, str) else list(topics), data)

    # the base class binds this name to its own publish
    notify = publish


@contextlib.contextmanager
def in_place_of_upstream(core: Core) -> Iterator[None]:
    """Have OPAL-server build itself with our broadcaster and endpoint while this lasts."""
    check()
    originals = opal_pubsub.ReconnectingBroadcaster, opal_pubsub.FreezablePubSubEndpoint
    opal_pubsub.ReconnectingBroadcaster = type("FanoutBroadcaster", (FanoutBroadcaster,), {"core": core})
    opal_pubsub.FreezablePubSubEndpoint = type("HoldingPubSubEndpoint", (HoldingPubSubEndpoint,), {"core": core})
    try:
        yield
    finally:
        opal_pubsub.ReconnectingBroadcaster, opal_pubsub.FreezablePubSubEndpoint = originals


def verify_built(server: OpalServer) -> None:
    """Check that a server was built with our parts.

    Raises:
        UpstreamChangedError: it was not.
    """
    pubsub = server.pubsub
    if not isinstance(pubsub.broadcaster, FanoutBroadcaster) or not isinstance(pubsub.endpoint, HoldingPubSubEndpoint):
        raise UpstreamChangedError("OPAL-server was not built with the backbone's broadcaster and endpoint")
    if not issubclass(pubsub.broadcaster._broadcast_type, FanoutBroadcast):
        raise UpstreamChangedError("OPAL-server does not open the backbone's channel")


def leave_out_what_nobody_reads() -> None:
    """Have a worker make no log records that are dropped, and no traces that nobody collects.

    OPAL sends all records of Python's own loggers to its log, which looks at the level last. The websocket library
    makes several of each event for each subscriber, which took a quarter of a worker's time. And where OPAL says that
    Datadog's tracing is disabled, it traces every publish all the same, for an agent that is not there. Whoever sets
    Datadog's own DD_TRACE_ENABLED is obeyed.
    """
    levels = [opal_common_config.LOG_LEVEL]
    if opal_common_config.LOG_TO_FILE:
        levels.append(opal_common_config.LOG_FILE_LEVEL)
    logging.getLogger().setLevel(min(logger.level(level).no for level in levels))
    if not opal_server_config.ENABLE_DATADOG_APM and "DD_TRACE_ENABLED" not in os.environ:
        tracer.enabled = False


def policy_watch(server: OpalServer) -> dict[str, asyncio.Task[Any]]:
    """Return the tasks in which this worker watches the policy repository, by name; none where that is not its part.

    OPAL starts them and never looks at them again: an exception ends one without a word, and the server goes on with
    the policy that it had.
    """
    watcher = server.watcher
    named = {"background": getattr(server, "_task", None)}
    if isinstance(watcher, PolicyWatcherTask):
        run = BasePolicySource.run.__name__
        for task in watcher._tasks:
            name = task.get_coro().__name__
            named["repository" if name == run else name] = task
        named["polling"] = watcher._watcher._polling_task
    return {name: task for name, task in named.items() if task is not None}


def watch_repository_again(server: OpalServer) -> None:
    """Start again what `policy_watch` calls "repository", as OPAL starts it."""
    watcher = server.watcher
    ended = policy_watch(server)["repository"]
    again = asyncio.create_task(watcher._watcher.run(), name="opal-backbone policy watch")
    watcher._tasks[watcher._tasks.index(ended)] = again


def replayable(broadcaster: Any) -> int:
    """Count events in OPAL's own replay buffer."""
    return len(broadcaster._outbound_buffer)


__all__ = [
    "FanoutBroadcast",
    "FanoutBroadcaster",
    "HoldingPubSubEndpoint",
    "UpstreamChangedError",
    "check",
    "in_place_of_upstream",
    "leave_out_what_nobody_reads",
    "policy_watch",
    "replayable",
    "verify_built",
    "watch_repository_again",
]
