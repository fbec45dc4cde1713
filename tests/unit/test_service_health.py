"""How the gate reads an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.policyfleet.opal.plugins.modules.service_health import unexpected

WELL = {"pid": 1, "healthy": True, "reason": ""}
DEAF = {"pid": 2, "healthy": False, "reason": "heard nothing for 20 s"}


@pytest.mark.parametrize(
    ("body", "expect", "processes", "words"),
    [
        ({"online": True}, {"online": True}, 0, ""),
        ({"online": False}, {"online": True}, 0, "online=false"),
        ({}, {"online": True}, 0, "online=null"),
        ([WELL, {**WELL, "pid": 2}], {"healthy": True}, 2, ""),
        ([WELL], {"healthy": True}, 2, "1 of 2 processes"),
        ([], {"healthy": True}, 1, "0 of 1 processes"),
        ([WELL, DEAF], {"healthy": True}, 2, "process 2 (heard nothing for 20 s): healthy=false"),
        ("well", {"online": True}, 0, "no JSON object"),
    ],
)
def test_an_answer_is_held_against_what_is_expected(
    body: Any, expect: dict[str, Any], processes: int, words: str
) -> None:
    found = unexpected(json.dumps(body), expect, processes)
    assert words in found and bool(found) == bool(words)


def test_an_answer_that_is_no_json_is_shown() -> None:
    assert "<html>" in unexpected("<html>", {"online": True}, 0)
