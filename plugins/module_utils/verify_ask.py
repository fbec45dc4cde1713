# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""How the probes of a verification ask OPAL-server and OPA on their own host."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.urls import open_url


def ask(url: str, method: str = "GET", body: Any = None, token: str = "", timeout: float = 5) -> Any:
    """Return the JSON that a URL answers with within so many seconds, None for an empty answer.

    Raises an exception where it refuses or takes longer.
    """
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = "Bearer %s" % token
    data = None if body is None else json.dumps(body)
    answer = open_url(
        url,
        method=method,
        data=data,
        headers=headers,
        timeout=timeout,
        use_proxy=False,
        http_agent="policyfleet",
    )
    text = answer.read().decode("utf-8")
    return json.loads(text) if text else None
