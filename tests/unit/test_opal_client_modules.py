"""The pure parts of what probes decisions and of what makes OPA a release."""

from __future__ import annotations

from typing import Any

from ansible_collections.policyfleet.opal.plugins.modules import archive_release, decision_probe


def test_an_update_is_noted_once_with_its_time() -> None:
    wanted = {"s1-0": ("s1", 0), "s1-1": ("s1", 1)}
    seen: dict[str, list[Any]] = {"s1": []}
    decision_probe.note({"s1-1": {}}, wanted, seen, 5.0)
    decision_probe.note({"s1-0": {}, "s1-1": {}}, wanted, seen, 6.0)
    assert seen == {"s1": [[1, 5.0], [0, 6.0]]}
    assert wanted == {}


def test_the_removal_takes_the_path_as_a_whole() -> None:
    want = {"run": "ab", "topics": ["policy_data"]}
    update = decision_probe.update_of(want, decision_probe.path_of("ab"), "PATCH", [{"op": "remove", "path": ""}])
    (entry,) = update["entries"]
    assert (entry["dst_path"], entry["save_method"]) == ("/policyfleet_verify_ab", "PATCH")
    assert entry["topics"] == ["policy_data"]


def test_no_key_below_the_path_is_taken_for_a_place_in_a_list() -> None:
    assert not decision_probe.name_of("10", 0).isdigit()


def test_a_single_program_becomes_executable_under_its_name() -> None:
    command = archive_release.filling_command("/opt/opa/opa-c0ffee", "/opt/opa/releases/.x.partial", "opa")
    assert command == ["install", "--mode", "0755", "/opt/opa/opa-c0ffee", "/opt/opa/releases/.x.partial/opa"]
