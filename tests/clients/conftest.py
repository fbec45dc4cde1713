"""Fixtures of the tests that follow updates into OPA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from decisions import Clients
from fleet import chosen_fleet


@pytest.fixture(scope="session")
def clients() -> Clients:
    """The fleet's clients."""
    return Clients(chosen_fleet())


@pytest.fixture
def settled(clients: Clients) -> Iterator[Clients]:
    """The fleet's clients, all connected and agreed before a test and after it."""
    clients.settle()
    yield clients
    clients.settle()
