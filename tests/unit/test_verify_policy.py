"""What is said about the policy that servers serve and OPAs decide by."""

from __future__ import annotations

from ansible_collections.policyfleet.opal.plugins.modules import policy_probe
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_policy as policy_of
from ansible_collections.policyfleet.opal.plugins.plugin_utils import verify_text
from ansible_collections.policyfleet.opal.plugins.plugin_utils.verify_policy import Found
from sample_report import sample_report

NEW, OLD = "a1" * 20, "b2" * 20


def fleet() -> Found:
    """Return two servers and two clients that agree."""
    return {
        "served": {host: {"problem": "", "commit": NEW, "modules": {"app.rego": "1"}} for host in ("s1", "s2")},
        "held": {host: {"problem": "", "differs": [], "more": []} for host in ("c1", "c2")},
    }


def test_nothing_is_said_where_all_agree() -> None:
    assert policy_of.policy_failures(fleet()) == []
    assert policy_of.policy_warnings(fleet()) == []
    report = {**sample_report(), "policy": policy_of.policy_of(fleet())}
    assert verify_text.policy_line(report) == "Policy: commit a1a1a1a1a1 from 2 hosts, held by 2 of 2 OPAs"  # type: ignore[arg-type]
    assert verify_text.policy_line(sample_report()) == ""


def test_a_server_that_is_behind_is_named_with_its_commit() -> None:
    found = fleet()
    found["served"]["s2"]["commit"] = OLD
    (failure,) = policy_of.policy_failures(found)
    assert "a1a1a1a1a1 by s1; b2b2b2b2b2 by s2" in failure


def test_a_server_without_a_policy_is_named_with_the_reason() -> None:
    found = fleet()
    found["served"]["s2"] = {"problem": "no policy came from http://127.0.0.1:7002 (HTTP Error 503)"}
    (failure,) = policy_of.policy_failures(found)
    assert failure.startswith("s2 serves no policy: no policy came from http://127.0.0.1:7002 (HTTP Error 503)")


def test_an_opa_with_another_policy_is_named_with_the_modules() -> None:
    found = fleet()
    found["held"]["c2"]["differs"] = [f"{number}.rego" for number in range(7)]
    (failure,) = policy_of.policy_failures(found)
    assert "the OPA of c2 does not decide by the policy that its servers serve" in failure
    assert "0.rego, 1.rego, 2.rego, 3.rego, 4.rego and 2 more differ." in failure


def test_a_client_that_cannot_be_asked_is_no_silent_pass() -> None:
    found = fleet()
    found["held"]["c1"] = {"unreachable": True, "msg": "no route to host"}
    assert policy_of.policy_failures(found) == ["the policy of c1 could not be seen: no route to host"]


def test_a_module_that_nobody_serves_is_worth_knowing() -> None:
    found = fleet()
    found["held"]["c1"]["more"] = ["own.rego"]
    assert policy_of.policy_failures(found) == []
    assert policy_of.policy_warnings(found) == ["the OPA of c1 also holds own.rego, which no server serves"]


def test_a_client_is_compared_with_the_directories_that_it_follows() -> None:
    served = {"app.rego": "1", "sales/a.rego": "2", "salesforce/b.rego": "3"}
    assert policy_probe.compared(served, served, ["."]) == {"differs": [], "more": []}
    assert policy_probe.compared({"sales/a.rego": "2"}, served, ["sales"]) == {"differs": [], "more": []}
    assert policy_probe.compared({"sales/a.rego": "9", "x.rego": "1"}, served, ["sales/"]) == {
        "differs": ["sales/a.rego"],
        "more": ["x.rego"],
    }
    assert policy_probe.compared({}, served, ["."])["differs"] == ["app.rego", "sales/a.rego", "salesforce/b.rego"]
