"""The slow suite's own brokers: one on an address that a network namespace can be cut off from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pulsar_broker import Standalone, running
from pulsar_cluster import Cluster

NAMESPACE = "opal-bb-far"
NEAR, FAR = "10.203.77.1", "10.203.77.2"


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


class Island:
    """A network namespace that stands for another host, and can be cut off so that packets are dropped."""

    prefix = ("ip", "netns", "exec", NAMESPACE)

    def cut(self) -> None:
        for chain in ("INPUT", "OUTPUT"):
            run(*self.prefix, "iptables", "-A", chain, "-j", "DROP")

    def heal(self) -> None:
        run(*self.prefix, "iptables", "-F")


@pytest.fixture(scope="module")
def island() -> Iterator[Island]:
    subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "link", "add", "opal-bb0", "type", "veth", "peer", "name", "opal-bb1")
        run("ip", "link", "set", "opal-bb1", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{NEAR}/30", "dev", "opal-bb0")
        run("ip", "link", "set", "opal-bb0", "up")
        run(*Island.prefix, "ip", "addr", "add", f"{FAR}/30", "dev", "opal-bb1")
        run(*Island.prefix, "ip", "link", "set", "opal-bb1", "up")
        yield Island()
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)


@pytest.fixture(scope="module")
def near_broker(island: Island, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    address = {"bindAddress": NEAR, "advertisedAddress": NEAR}
    with running(tmp_path_factory.mktemp("near"), settings=address, address=NEAR) as standalone:
        yield standalone


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pair = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()
