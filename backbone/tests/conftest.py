"""Shared parts of the suites: brokers that live for a whole run, and fleets on topics of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet import AgentProcess, Fleet
from pulsar_broker import Standalone, running

_numbers = itertools.count(1)

FleetMaker = Callable[..., Fleet]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A standalone that tests may torment, as long as they leave it healthy."""
    with running(tmp_path_factory.mktemp("pulsar")) as standalone:
        yield standalone


@pytest.fixture
def channel() -> str:
    """A topic that no other test uses."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def make_fleet(tmp_path: Path, channel: str) -> Iterator[FleetMaker]:
    """Start agents on this test's topic."""
    fleets: list[Fleet] = []

    def make(uri: str, count: int = 4, settings: dict[str, str] | None = None) -> Fleet:
        fleet = Fleet([AgentProcess(f"agent{n}", uri, channel, tmp_path, settings) for n in range(count)])
        fleets.append(fleet)
        fleet.ready()
        return fleet

    yield make
    for fleet in fleets:
        fleet.close()
