"""The command `opal-backbone` against a broker: what doctor says of a topic that will not do, and tail at work."""

from __future__ import annotations

import subprocess

import pytest

from command_line import command_line, run
from pulsar_broker import Standalone


def doctor(broker: Standalone, channel: str, port: int = 0) -> tuple[int, str]:
    return run(broker.url, channel, "doctor", "--admin-url", f"http://127.0.0.1:{port or broker.web_port}")


@pytest.fixture
def namespace(broker: Standalone, channel: str) -> str:
    """A namespace of this test's own."""
    name = f"public/of-{channel}"
    broker.topic_admin("PUT", f"namespaces/{name}")
    return name


@pytest.mark.parametrize(
    ("retention", "status", "line"),
    [
        (None, 0, "skip  retention: not set for {}, the brokers' default holds"),
        ((0, 0), 1, "FAIL  retention: {} keeps nothing"),
        ((60, -1), 0, "ok    retention: {} keeps messages for 60 minutes"),
        ((-1, -1), 0, "ok    retention: {} keeps messages for ever"),
        ((1440, 512), 0, "ok    retention: {} keeps messages for 1440 minutes, at most 512 MB"),
    ],
)
def test_the_doctor_says_how_far_back_a_reader_can_catch_up(
    broker: Standalone, namespace: str, retention: tuple[int, int] | None, status: int, line: str
) -> None:
    if retention is not None:
        body = f'{{"retentionTimeInMinutes": {retention[0]}, "retentionSizeInMB": {retention[1]}}}'
        broker.topic_admin("POST", f"namespaces/{namespace}/retention", body)
    examined, text = doctor(broker, f"persistent://{namespace}/updates")
    assert line.format(namespace) in text
    assert examined == status, text


def test_the_doctor_refuses_a_topic_with_partitions(broker: Standalone, namespace: str) -> None:
    broker.topic_admin("PUT", f"persistent/{namespace}/updates/partitions", "3")
    topic = f"persistent://{namespace}/updates"
    status, text = doctor(broker, topic)
    assert f"FAIL  topic: {topic} has 3 partitions; order needs a topic without" in text
    assert status == 1, text


def test_the_doctor_names_a_namespace_that_does_not_exist(broker: Standalone) -> None:
    status, text = doctor(broker, "persistent://public/nowhere/updates")
    assert "FAIL  topic: look up persistent://public/nowhere/updates" in text
    assert "its tenant or namespace, does not exist" in text
    assert status == 1, text


def test_the_doctor_says_that_a_web_service_does_not_answer(broker: Standalone, channel: str) -> None:
    status, text = doctor(broker, channel, port=1)
    assert "FAIL  retention: http://127.0.0.1:1 did not tell" in text
    assert "ok    round trip" in text
    assert status == 1, text


def test_tail_follows_from_now_on(broker: Standalone, channel: str) -> None:
    def publish(reason: str) -> None:
        assert run(broker.url, channel, "publish", "--data", '{"a": 1}', "--reason", reason)[0] == 0

    publish("before it listens")
    follow = command_line(broker.url, channel, "tail", "--verbose", "--width", "500", "--count", "2", "--timeout", "30")
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stderr is not None
        assert tail.stderr.readline().startswith("following persistent://")
        publish("first")
        publish("second")
        shown, _ = tail.communicate(timeout=60)
    assert tail.returncode == 0
    first, second = shown.splitlines()
    assert '"first"' in first
    assert '"second"' in second
