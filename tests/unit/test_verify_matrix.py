"""What a verification makes of what the hosts returned."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_matrix
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_findings import report_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_types import Cell, HostResult, Report

HOSTS = ("opal1", "opal2", "opal3")
PIDS = {"opal1": (11, 12), "opal2": (21, 22), "opal3": (31, 32)}
SENT_AT = 1000.0


def topic(host: str) -> str:
    return f"verify-r-from-{host}"


def worker(pid: int, latency: float = 0.01) -> dict[str, Any]:
    """A worker that received the update of every host, so many seconds after it was sent."""
    return {
        "pid": pid,
        "state": "sleeping (S)",
        "covered": True,
        "ready": True,
        "note": "",
        "closed": "",
        "deliveries": {topic(host): [(0, SENT_AT + latency)] for host in HOSTS},
    }


def raw_events(hosts: tuple[str, ...] = HOSTS) -> dict[str, Any]:
    return {
        "topic": "t",
        "problem": "",
        "events": {topic(h): {"message_id": "(1,2,-1,-1)", "numbers": [0]} for h in hosts},
    }


def host_result(host: str) -> HostResult:
    workers = [worker(pid) for pid in PIDS[host]]
    broadcast = {
        "logged": True,
        "pid": PIDS[host][0],
        "at": SENT_AT,
        "frozen": False,
        "line": "Broadcasting",
        "lines": 1,
    }
    return {
        "host": host,
        "topic": topic(host),
        "expected_workers": 2,
        "listening": {"up": True, "problem": "", "workers": workers, "raw": raw_events(())},
        "published": {
            "up": True,
            "problem": "",
            "topic": topic(host),
            "published_at": [SENT_AT],
            "broadcast": broadcast,
        },
        "collected": {"up": True, "problem": "", "workers": workers, "raw": raw_events(), "backbone": []},
    }


@pytest.fixture
def fleet() -> dict[str, HostResult]:
    return {host: host_result(host) for host in HOSTS}


def judged(fleet: dict[str, HostResult], raw: bool = True, **more: Any) -> Report:
    arguments: dict[str, Any] = {
        "run": "r",
        "started_at": SENT_AT,
        "ended_at": SENT_AT + 5,
        "backbone": "pulsar://b:6650" if raw else "redis://b:6379",
        "channel": "broadcast",
        "raw_applicable": raw,
        "upstream_pulsar": False,
        "not_tested": [],
    }
    return report_of(list(fleet.values()), **{**arguments, **more})


def cell(report: Report, sender: str, pid: int) -> Cell:
    return next(c for c in report["matrices"][0]["cells"] if c["sender"] == sender and c["pid"] == pid)


def deliveries(fleet: dict[str, HostResult], host: str, pid: int) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = next(
        w["deliveries"] for w in fleet[host]["collected"]["workers"] if w["pid"] == pid
    )
    return found


def down(fleet: dict[str, HostResult], host: str, problem: str) -> None:
    fleet[host] |= {"listening": {"up": False, "problem": problem}, "published": {}, "collected": {}}
    for other in HOSTS:
        for each in fleet[other]["collected"].get("workers", []):
            each["deliveries"].pop(topic(host), None)


def test_a_full_matrix_passes(fleet: dict[str, HostResult]) -> None:
    report = judged(fleet)
    assert report["passed"]
    assert report["failures"] == report["warnings"] == []
    assert len(report["matrices"][0]["cells"]) == 18
    assert {c["state"] for c in report["matrices"][0]["cells"]} == {"delivered"}
    assert report["latency_ms"] == {"p50": 10.0, "p99": 10.0, "max": 10.0}


def test_one_missing_cell_fails_and_names_sender_and_receiver(fleet: dict[str, HostResult]) -> None:
    del deliveries(fleet, "opal2", 22)[topic("opal1")]
    report = judged(fleet)
    assert not report["passed"]
    assert cell(report, "opal1", 22)["state"] == "missing"
    assert [f for f in report["failures"] if "opal2 worker 22 did not receive the update of opal1," in f]
    assert "receiving failed" in report["failures"][0]


def test_a_duplicate_is_shown_and_no_reason_to_fail(fleet: dict[str, HostResult]) -> None:
    deliveries(fleet, "opal2", 22)[topic("opal1")].append((0, SENT_AT + 0.5))
    report = judged(fleet)
    assert report["passed"]
    assert cell(report, "opal1", 22) == {
        "sender": "opal1",
        "host": "opal2",
        "pid": 22,
        "state": "duplicate",
        "expected": 1,
        "received": 1,
        "copies": 2,
        "latency_ms": 10.0,
        "max_ms": 10.0,
    }
    assert "opal1 to opal2 worker 22 (2)" in report["warnings"][0]


def several(fleet: dict[str, HostResult], host: str, updates: int) -> None:
    """Let a host send several updates, a second apart, which all arrive."""
    fleet[host]["published"] |= {"published_at": [SENT_AT + n for n in range(updates)]}
    fleet[host]["published"]["broadcast"]["lines"] = updates
    for other in HOSTS:
        fleet[other]["collected"]["raw"]["events"][topic(host)]["numbers"] = list(range(updates))
        for pid in PIDS[other]:
            deliveries(fleet, other, pid)[topic(host)] = [(n, SENT_AT + n + 0.01 * (n + 1)) for n in range(updates)]


def test_several_updates_have_a_middle_and_a_largest_time(fleet: dict[str, HostResult]) -> None:
    several(fleet, "opal1", 3)
    report = judged(fleet)
    assert report["passed"]
    found = cell(report, "opal1", 21)
    assert (found["expected"], found["received"], found["latency_ms"], found["max_ms"]) == (3, 3, 20.0, 30.0)
    assert report["latency_ms"]["max"] == 30.0


def test_one_of_several_updates_missing_fails(fleet: dict[str, HostResult]) -> None:
    several(fleet, "opal1", 3)
    del deliveries(fleet, "opal2", 22)[topic("opal1")][1]
    report = judged(fleet)
    assert not report["passed"]
    assert (cell(report, "opal1", 22)["state"], cell(report, "opal1", 22)["received"]) == ("missing", 2)
    assert "opal2 worker 22 did not receive every update of opal1," in report["failures"][0]


def test_a_duplicate_does_not_stand_in_for_a_missing_update(fleet: dict[str, HostResult]) -> None:
    several(fleet, "opal1", 2)
    deliveries(fleet, "opal2", 22)[topic("opal1")][1] = (0, SENT_AT + 0.2)
    assert cell(judged(fleet), "opal1", 22)["state"] == "missing"


def test_fewer_log_lines_than_updates_fail(fleet: dict[str, HostResult]) -> None:
    several(fleet, "opal1", 3)
    fleet["opal1"]["published"]["broadcast"] |= {"logged": False, "lines": 2}
    assert "OPAL-server logged 2 broadcasts for 3 updates" in judged(fleet)["failures"][0]


def test_a_stopped_worker_is_named_with_its_state(fleet: dict[str, HostResult]) -> None:
    note = "it is stopped (T) and accepted no connection"
    stopped = {**worker(31), "covered": False, "state": "stopped (T)", "note": note, "deliveries": {}}
    fleet["opal3"]["collected"]["workers"][0] = stopped
    report = judged(fleet)
    assert not report["passed"]
    assert len(report["failures"]) == 1
    assert f"opal3 worker 31 did not receive the update of opal1, opal2, opal3: {note}" in report["failures"][0]


def test_a_worker_that_is_stopped_during_the_run_is_named_with_its_state(fleet: dict[str, HostResult]) -> None:
    fleet["opal3"]["collected"]["workers"][0] |= {"state": "stopped (T)", "deliveries": {}}
    assert "opal1, opal2, opal3: it is stopped (T). Look at" in judged(fleet)["failures"][0]


def test_fewer_workers_than_expected_fail(fleet: dict[str, HostResult]) -> None:
    fleet["opal1"]["expected_workers"] = 3
    report = judged(fleet)
    assert not report["passed"]
    assert "opal1 has 2 of 3 worker processes" in report["failures"][0]
    assert cell(report, "opal2", 0)["state"] == "missing"


def test_more_workers_than_expected_are_told(fleet: dict[str, HostResult]) -> None:
    fleet["opal1"]["expected_workers"] = 1
    report = judged(fleet)
    assert report["passed"]
    assert report["warnings"] == ["opal1 has 2 workers and the inventory says 1"]


def test_an_unreachable_host_is_a_missing_row_and_column_and_the_others_are_tested(
    fleet: dict[str, HostResult],
) -> None:
    down(fleet, "opal2", "cannot be reached: timed out")
    report = judged(fleet)
    assert report["failures"] == ["opal2: cannot be reached: timed out"]
    missing = {(c["sender"], c["host"]) for c in report["matrices"][0]["cells"] if c["state"] == "missing"}
    assert missing == {(a, b) for a in HOSTS for b in HOSTS if "opal2" in (a, b)}
    assert len(report["matrices"][0]["cells"]) == 18
    assert [s["raw"] for s in report["senders"]] == ["read", "not sent", "read"]


def test_all_hosts_down_is_a_failure_of_each(fleet: dict[str, HostResult]) -> None:
    for host in HOSTS:
        down(fleet, host, "opal-server.service is inactive")
    report = judged(fleet)
    assert [f.split(":")[0] for f in report["failures"]] == list(HOSTS)
    assert report["latency_ms"] == {}


def test_no_host_is_a_failure() -> None:
    assert not judged({})["passed"]


def test_an_update_that_is_not_in_the_topic_was_not_sent(fleet: dict[str, HostResult]) -> None:
    for host in HOSTS:
        fleet[host]["collected"]["raw"] = raw_events(("opal1", "opal3"))
        for each in fleet[host]["collected"]["workers"]:
            del each["deliveries"][topic("opal2")]
    fleet["opal2"]["collected"]["backbone"] = [{"pid": 21, "reason": "deaf for 39 s"}]
    report = judged(fleet)
    assert len(report["failures"]) == 1
    assert "the update of opal2 was logged as broadcast and is not in Pulsar's topic" in report["failures"][0]
    assert "opal1 worker 11, opal1 worker 12, opal2 worker 21" in report["failures"][0]
    assert "Its backbone says: deaf for 39 s." in report["failures"][0]


def test_a_reader_that_cannot_read_is_told_and_others_count(fleet: dict[str, HostResult]) -> None:
    fleet["opal2"]["collected"]["raw"] = {"topic": "t", "problem": "ConnectError", "events": {}}
    report = judged(fleet)
    assert report["passed"]
    assert report["warnings"] == ["opal2 could not read Pulsar's topic with pulsar-client: ConnectError"]


def test_a_topic_that_nobody_can_read_fails(fleet: dict[str, HostResult]) -> None:
    for host in HOSTS:
        fleet[host]["collected"]["raw"] = {"topic": "t", "problem": "ConnectError", "events": {}}
    report = judged(fleet)
    assert report["failures"] == ["no host could read Pulsar's topic with pulsar-client: ConnectError"]
    assert {s["raw"] for s in report["senders"]} == {"unknown"}


def test_another_backbone_has_no_topic_to_read(fleet: dict[str, HostResult]) -> None:
    for host in HOSTS:
        fleet[host]["listening"]["raw"] = fleet[host]["collected"]["raw"] = None
    report = judged(fleet, raw=False)
    assert report["passed"]
    assert {s["raw"] for s in report["senders"]} == {"not applicable"}


def test_a_missing_log_line_fails_even_if_everything_arrived(fleet: dict[str, HostResult]) -> None:
    fleet["opal3"]["published"]["broadcast"] |= {"logged": False, "pid": 0, "lines": 0}
    report = judged(fleet)
    assert len(report["failures"]) == 1
    assert "opal3 did not send its update: OPAL-server accepted the update and did not log" in report["failures"][0]


def test_a_frozen_publish_is_told_as_such(fleet: dict[str, HostResult]) -> None:
    fleet["opal3"]["published"]["broadcast"] |= {"logged": False, "frozen": True, "lines": 0}
    assert "it has lost the backbone" in judged(fleet)["failures"][0]


def test_a_refused_publish_is_told_with_its_reason(fleet: dict[str, HostResult]) -> None:
    fleet["opal1"]["published"] = {"up": False, "problem": "http://127.0.0.1:7002/data/config answers 401"}
    for host in HOSTS:
        for each in fleet[host]["collected"]["workers"]:
            del each["deliveries"][topic("opal1")]
    report = judged(fleet)
    assert len(report["failures"]) == 1
    assert "opal1 did not send its update: http://127.0.0.1:7002/data/config answers 401" in report["failures"][0]


def test_a_worker_that_ends_during_the_run_is_named(fleet: dict[str, HostResult]) -> None:
    each = fleet["opal1"]["collected"]["workers"][0]
    each |= {"state": "gone", "closed": "10:02:03", "deliveries": {}}
    report = judged(fleet)
    assert "opal1 worker 11 did not receive the update of opal1, opal2, opal3: it ended" in report["failures"][0]


def test_a_worker_that_closes_after_everything_arrived_is_told(fleet: dict[str, HostResult]) -> None:
    fleet["opal1"]["collected"]["workers"][0]["closed"] = "10:02:03"
    report = judged(fleet)
    assert report["passed"]
    assert "opal1 worker 11 received everything, but it closed the connection" in report["warnings"][0]


def test_a_lost_listener_leaves_every_cell_of_its_host_missing(fleet: dict[str, HostResult]) -> None:
    fleet["opal1"]["collected"] = {"up": False, "problem": "the listener ended early"}
    for each in fleet["opal1"]["listening"]["workers"]:
        each["deliveries"] = {}
    report = judged(fleet)
    assert not report["passed"]
    assert "opal1 worker 12 did not receive the update of opal1, opal2, opal3: the listener" in report["failures"][1]


def test_a_part_of_a_fleet_says_so(fleet: dict[str, HostResult]) -> None:
    del fleet["opal3"]
    report = judged(fleet, not_tested=["opal3"])
    assert report["passed"]
    assert report["warnings"] == ["this was a part of the fleet; not tested: opal3"]


def test_one_worker_alone_proves_nothing_about_the_backbone(fleet: dict[str, HostResult]) -> None:
    one = fleet["opal1"]
    one["expected_workers"] = 1
    del one["collected"]["workers"][1], one["listening"]["workers"][1:]
    report = judged({"opal1": one})
    assert report["passed"]
    assert "nothing had to pass over the backbone" in report["warnings"][0]


def test_the_upstream_backend_is_pointed_out(fleet: dict[str, HostResult]) -> None:
    assert "'fanout' gives it to every one" in judged(fleet, upstream_pulsar=True)["warnings"][0]


def test_clocks_that_differ_are_flagged_and_not_hidden(fleet: dict[str, HostResult]) -> None:
    fleet["opal2"]["published"]["published_at"][0] += 0.2
    for pid in PIDS["opal2"]:
        for times in deliveries(fleet, "opal2", pid).values():
            times[0] = (0, times[0][1] + 0.2)
    report = judged(fleet)
    assert report["passed"]
    assert cell(report, "opal2", 11)["latency_ms"] == -190.0
    assert cell(report, "opal1", 21)["latency_ms"] == 210.0
    assert "the clock of opal2 is about 200 ms ahead of that of opal1" in report["warnings"][0]
    assert len(report["warnings"]) == 2


def test_uneven_latencies_alone_are_no_skew(fleet: dict[str, HostResult]) -> None:
    for pid in PIDS["opal2"]:
        for times in deliveries(fleet, "opal2", pid).values():
            times[0] = (0, times[0][1] + 0.3)
    assert judged(fleet)["warnings"] == []


def test_percentiles_are_values_that_occurred() -> None:
    assert verify_matrix.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert verify_matrix.percentile([1.0], 0.99) == 1.0
    assert verify_matrix.percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
