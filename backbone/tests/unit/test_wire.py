"""Messages: OPAL's schema in the payload, ours in the properties."""

from __future__ import annotations

import json

import pytest

from opal_backbone import wire


def test_a_stamp_survives_the_journey() -> None:
    stamp = wire.Stamp("host:1:ab", 12, "event", 1700000000.123456)
    assert wire.read_stamp(stamp.properties()) == stamp


def test_a_foreign_message_has_no_stamp() -> None:
    assert wire.read_stamp({"other": "x"}) is None


@pytest.mark.parametrize("broken", [{"number": "x"}, {"kind": "song"}, {"sent": ""}])
def test_a_broken_stamp_is_malformed(broken: dict[str, str]) -> None:
    properties = wire.Stamp("a", 1, "event", 1.0).properties()
    properties.update({f"opal-backbone-{name}": value for name, value in broken.items()})
    with pytest.raises(wire.MalformedError):
        wire.read_stamp(properties)


def test_a_heartbeat_is_a_valid_event_for_opal() -> None:
    wire.check_payload(wire.heartbeat_payload("me"))


def test_a_notification_is_what_opal_expects() -> None:
    payload = wire.notification_payload("me", ["a", "b"], {"x": [1]})
    assert json.loads(wire.check_payload(payload)) == {"notifier_id": "me", "topics": ["a", "b"], "data": {"x": [1]}}


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"\xff", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "no notifier_id"),
        (b'{"notifier_id": 1, "topics": []}', "no notifier_id"),
        (b'{"notifier_id": "a"}', "no topics"),
        (b'{"notifier_id": "a", "topics": [1]}', "no topics"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_malformed_messages_have_a_kind(payload: bytes, kind: str) -> None:
    with pytest.raises(wire.MalformedError) as caught:
        wire.check_payload(payload)
    assert caught.value.kind == kind
