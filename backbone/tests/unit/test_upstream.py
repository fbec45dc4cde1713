"""Upstream's parts are where this package expects them. A failure here means: an upgrade needs work in upstream.py."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator

import pytest
from ddtrace.trace import tracer
from fastapi_websocket_pubsub import event_broadcaster
from fastapi_websocket_pubsub.event_broadcaster import BroadcastNotification
from opal_common.config import opal_common_config
from opal_server import pubsub, pubsub_resilience, server
from opal_server.config import opal_server_config
from opal_server.policy.watcher.task import BasePolicyWatcherTask, PolicyWatcherTask

from opal_backbone import upstream


def test_everything_that_is_needed_is_there() -> None:
    upstream.check()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (pubsub_resilience.FreezablePubSubEndpoint, "_is_exempt"),
        (pubsub_resilience.ReconnectingBroadcaster, "_buffer_outbound"),
        (pubsub, "ReconnectingBroadcaster"),
    ],
)
def test_a_part_that_moved_is_named(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(upstream.UpstreamChangedError, match=name):
        upstream.check()


def test_an_attribute_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.OpalServer, "__init__", lambda self: None)
    with pytest.raises(upstream.UpstreamChangedError, match=r"OpalServer\(\)\.watcher"):
        upstream.check()


def test_another_way_to_watch_the_repository_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyWatcherTask, "start", BasePolicyWatcherTask.start)
    with pytest.raises(upstream.UpstreamChangedError, match=r"PolicyWatcherTask\.start"):
        upstream.check()


def test_opal_builds_its_pubsub_from_names_that_can_be_replaced() -> None:
    built = inspect.getsource(pubsub.PubSub.__init__)
    assert "ReconnectingBroadcaster(" in built
    assert "FreezablePubSubEndpoint(" in built
    assert "isinstance" in inspect.getsource(server.OpalServer)


def test_an_event_is_opened_published_and_closed_through_the_broadcast_type() -> None:
    source = inspect.getsource(event_broadcaster.EventBroadcaster.__broadcast_notifications__)
    assert "self._broadcast_type(" in source
    assert ".publish(" in source


def test_a_read_event_is_dropped_only_if_it_is_the_readers_own() -> None:
    source = inspect.getsource(pubsub_resilience.ReconnectingBroadcaster._handle_broadcast_event)
    assert "notification.notifier_id != self._id" in source
    assert "event.message" in source


def test_the_reader_takes_the_end_of_a_stream_for_a_gap() -> None:
    source = inspect.getsource(pubsub_resilience.ReconnectingBroadcaster)
    for part in ("_schedule_gap_recovery", "_flush_outbound_buffer", "channel.subscribe(channel=self._channel)"):
        assert part in source


def test_the_log_line_of_a_held_event_is_opals_own() -> None:
    words = "Broadcasting incoming event: "
    assert words in inspect.getsource(event_broadcaster)
    assert words in inspect.getsource(upstream)


def test_the_schema_is_the_one_that_is_written_to_the_topic() -> None:
    from opal_backbone import wire

    note = BroadcastNotification.parse_raw(wire.notification_payload("me", ["t"], {"a": 1}))
    assert (note.notifier_id, note.topics, note.data) == ("me", ["t"], {"a": 1})


@pytest.fixture
def as_before() -> Iterator[None]:
    level, enabled = logging.getLogger().level, tracer.enabled
    yield
    logging.getLogger().setLevel(level)
    tracer.enabled = enabled


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("level", "file_level", "least"),
    [("INFO", None, logging.INFO), ("DEBUG", None, logging.DEBUG), ("WARNING", "DEBUG", logging.DEBUG)],
)
def test_only_log_records_that_are_dropped_are_left_out(
    monkeypatch: pytest.MonkeyPatch, level: str, file_level: str | None, least: int
) -> None:
    monkeypatch.setattr(opal_common_config, "LOG_LEVEL", level)
    monkeypatch.setattr(opal_common_config, "LOG_TO_FILE", file_level is not None)
    monkeypatch.setattr(opal_common_config, "LOG_FILE_LEVEL", file_level)
    upstream.leave_out_what_nobody_reads()
    assert logging.getLogger("fastapi_ws_rpc.test").getEffectiveLevel() == least


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(("wanted", "datadog_says"), [(True, None), (False, None), (False, "true")])
def test_traces_are_made_for_somebody_only(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, datadog_says: str | None
) -> None:
    monkeypatch.setattr(opal_server_config, "ENABLE_DATADOG_APM", wanted)
    monkeypatch.delenv("DD_TRACE_ENABLED", raising=False)
    if datadog_says is not None:
        monkeypatch.setenv("DD_TRACE_ENABLED", datadog_says)
    tracer.enabled = True
    upstream.leave_out_what_nobody_reads()
    assert tracer.enabled == (wanted or datadog_says is not None)
