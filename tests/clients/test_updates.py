"""An update ends in the decision that it changes, whichever way it comes."""

from __future__ import annotations

import json
import time
import uuid

import pytest
from decisions import SOURCE, Clients
from fleet import wait_until

RAW_EVENT = """
import json, sys, pulsar
client = pulsar.Client(sys.argv[1], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
producer = client.create_producer("persistent://public/default/broadcast")
producer.send(sys.stdin.read().encode())
client.close()
"""


def test_bobs_location_reaches_each_opa_through_each_server(settled: Clients) -> None:
    for server in settled.servers:
        place = f"Bern by {server} {uuid.uuid4().hex[:6]}"
        settled.move_bob(place)
        settled.publish_bob(server)
        settled.wait_for("/users/bob/location", place)


def test_a_decision_changes_with_the_data(settled: Clients) -> None:
    settled.move_bob("Rome")
    settled.publish_bob(settled.servers[0])
    settled.wait_for("/users/bob/location", "Rome")
    for host in settled.hosts:
        question = json.dumps({"input": {"user": "bob", "place": "Rome"}})
        answer = settled.fleet.shell(host, f"curl -sS -d '{question}' http://127.0.0.1:8181/v1/data/app/allow")
        assert json.loads(answer)["result"] is True


def test_an_event_published_straight_to_the_topic_reaches_each_opa(settled: Clients) -> None:
    place = f"Turin {uuid.uuid4().hex[:6]}"
    settled.move_bob(place)
    url = f"http://{settled.addresses[SOURCE]}:8000/bob.json"
    update = {
        "id": uuid.uuid4().hex,
        "reason": "straight to the topic",
        "entries": [{"url": url, "topics": ["policy_data"], "dst_path": "/users/bob/location"}],
    }
    event = {"notifier_id": uuid.uuid4().hex, "topics": ["policy_data"], "data": update}
    broker = settled.addresses[settled.fleet.hosts("pulsar_standalone")[0]]
    settled.fleet.shell(
        settled.servers[0],
        f"echo '{json.dumps(event)}' | /opt/opal-server/current/bin/python -c '{RAW_EVENT}' pulsar://{broker}:6650",
    )
    settled.wait_for("/users/bob/location", place)


def test_a_push_to_the_policy_repository_reaches_each_opa(settled: Clients) -> None:
    number = int(time.time())
    settled.push_policy(number)
    settled.wait_for("/release/number", number, 60)


@pytest.mark.slow
def test_data_whose_source_is_down_for_a_minute_arrive_when_it_is_back(settled: Clients) -> None:
    place = f"Cork {uuid.uuid4().hex[:6]}"
    settled.move_bob(place)
    settled.fleet.shell(SOURCE, "systemctl stop data-source")
    try:
        settled.publish_bob(settled.servers[0])
        time.sleep(60)
        assert place not in settled.data_everywhere("/users/bob/location").values()
    finally:
        settled.fleet.shell(SOURCE, "systemctl start data-source")
    settled.wait_for("/users/bob/location", place)


def test_clients_are_spread_over_the_servers(settled: Clients) -> None:
    assert sorted(settled.go_home(host) for host in settled.hosts) == sorted(settled.servers)


def test_a_client_whose_server_stops_goes_on_with_another(settled: Clients) -> None:
    host = settled.hosts[0]
    server = settled.go_home(host)
    (other,) = set(settled.servers) - {server}
    settled.fleet.shell(server, "systemctl stop opal-server")
    try:
        wait_until(lambda: settled.server_of(host) == [other], f"{host} is connected to {other}", 30)
        place = f"Nice {uuid.uuid4().hex[:6]}"
        settled.move_bob(place)
        settled.publish_bob(other)
        settled.wait_for("/users/bob/location", place)
    finally:
        settled.fleet.shell(server, "systemctl start opal-server")


def test_a_client_whose_server_hangs_goes_on_with_another(settled: Clients) -> None:
    host = settled.hosts[0]
    server = settled.go_home(host)
    (other,) = set(settled.servers) - {server}
    settled.fleet.shell(server, "systemctl kill --signal=SIGSTOP opal-server")
    try:
        wait_until(lambda: settled.server_of(host) == [other] and settled.connected(host), f"{host} uses {other}", 60)
    finally:
        settled.fleet.shell(server, "systemctl kill --signal=SIGCONT opal-server")


def test_decisions_go_on_while_the_client_is_restarted(settled: Clients) -> None:
    host = settled.hosts[0]
    loop = (
        "for i in $(seq 150); do curl -s -m 1 http://127.0.0.1:8181/v1/data/users/bob/location || echo refused; "
        "echo; sleep 0.1; done"
    )
    answers = settled.fleet.shell(host, f"(sleep 2; systemctl restart opal-client) & {loop}; wait")
    lines = {line for line in answers.splitlines() if line}
    assert len(lines) == 1, lines
    assert settled.source()["bob"]["location"] in lines.pop()


def test_an_opa_that_died_is_filled_again(settled: Clients) -> None:
    host = settled.hosts[0]
    settled.fleet.shell(host, "systemctl kill --signal=SIGKILL opa")
    wait_until(lambda: settled.data(host, "/users") == settled.source(), "the new OPA holds the data", 30)
    wait_until(lambda: settled.data(host, "/release/number") is not None, "the new OPA holds the policy", 30)


@pytest.mark.parametrize("sudden", [False, True])
def test_a_host_that_starts_without_any_server_decides_by_its_backup(settled: Clients, sudden: bool) -> None:
    hosts, users = settled.hosts, settled.source()
    wait_until(lambda: all(settled.backup(host).get("users") == users for host in hosts), "each backup is filled", 60)
    for server in settled.servers:
        settled.fleet.shell(server, "systemctl stop opal-server")
    end = "systemctl kill --signal=SIGKILL opal-client opa" if sudden else "systemctl restart opa opal-client"
    try:
        for host in hosts:
            settled.fleet.shell(host, end)
        settled.wait_for("/users", users)
        wait_until(lambda: {settled.healthy(host).get("online") for host in hosts} == {False}, "each is offline", 30)
        # the proxy learns by its checks that the servers are down
        wait_until(lambda: not any(settled.connected(host) for host in hosts), "no client is connected", 30)
    finally:
        for server in settled.servers:
            settled.fleet.shell(server, "systemctl start opal-server")
    wait_until(lambda: {settled.healthy(host).get("online") for host in hosts} == {True}, "each is online", 60)
