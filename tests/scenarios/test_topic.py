"""The topic is made on a broker that clients use already: OPAL-servers of a fresh fleet may be there first."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import uuid
from collections.abc import Iterator

import pytest
from ansible_collections.policyfleet.opal.plugins.modules import pulsar_topic
from fleet import Fleet, wait_until

NAMESPACE = "public/default"


@pytest.fixture
def admin(fleet: Fleet) -> Iterator[pulsar_topic.Admin]:
    """The broker's admin API, which answers on the host itself only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (broker,) = fleet.hosts("pulsar_standalone")
    command = [
        "ssh",
        "-F",
        str(fleet.ssh_config),
        "-o",
        "ControlPath=none",
        "-N",
        "-L",
        f"{port}:127.0.0.1:8080",
        broker,
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as tunnel:
        try:
            wait_until(lambda: answers(port), "the tunnel to the broker", 30)
            yield pulsar_topic.Admin(f"http://127.0.0.1:{port}")
        finally:
            tunnel.terminate()


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_a_topic_that_a_client_has_made_meanwhile_is_as_good(admin: pulsar_topic.Admin) -> None:
    name = f"race-{uuid.uuid4().hex}"
    topic = f"persistent://{NAMESPACE}/{name}"
    before = pulsar_topic.read_state(admin, NAMESPACE, topic)
    assert before["topic"] == "absent"
    admin.call("PUT", f"persistent/{NAMESPACE}/{name}")
    try:
        pulsar_topic.write_state(admin, NAMESPACE, name, before, {**before, "topic": topic})
        assert pulsar_topic.read_state(admin, NAMESPACE, topic)["topic"] == topic
    finally:
        admin.call("DELETE", f"persistent/{NAMESPACE}/{name}")


def test_a_partitioned_topic_of_that_name_is_refused(admin: pulsar_topic.Admin) -> None:
    name = f"parted-{uuid.uuid4().hex}"
    topic = f"persistent://{NAMESPACE}/{name}"
    before = pulsar_topic.read_state(admin, NAMESPACE, topic)
    admin.call("PUT", f"persistent/{NAMESPACE}/{name}/partitions", 2)
    try:
        with pytest.raises(urllib.error.HTTPError, match="409"):
            pulsar_topic.write_state(admin, NAMESPACE, name, before, {**before, "topic": topic})
    finally:
        admin.call("DELETE", f"persistent/{NAMESPACE}/{name}/partitions")
