"""Two brokers on one ZooKeeper and one bookie, for topics that move between brokers. Loopback only."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path

from pulsar_broker import Process, admin, edited, free_ports, home, wait_healthy

SMALL = "-Xms64m -Xmx192m -XX:MaxDirectMemorySize=128m -XX:+UseSerialGC"
MEDIUM = "-Xms128m -Xmx384m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC"


class Cluster:
    """Starts everything in order, and stops it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        zookeeper_port, bookie_port, self.port_a, self.web_a, self.port_b, self.web_b = free_ports(6)
        template = home() / "conf"
        self._zookeeper = f"127.0.0.1:{zookeeper_port}"
        edited(
            template / "zookeeper.conf",
            directory / "zookeeper.conf",
            {
                "dataDir": str(directory / "zookeeper"),
                "clientPort": str(zookeeper_port),
                "clientPortAddress": "127.0.0.1",
                "admin.enableServer": "false",
                "metricsProvider.className": "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
            },
        )
        edited(
            template / "bookkeeper.conf",
            directory / "bookkeeper.conf",
            {
                "bookiePort": str(bookie_port),
                "listeningInterface": "lo",
                "allowLoopback": "true",
                "advertisedAddress": "127.0.0.1",
                "journalDirectory": str(directory / "journal"),
                "ledgerDirectories": str(directory / "ledgers"),
                "metadataServiceUri": f"metadata-store:zk:{self._zookeeper}",
                "httpServerEnabled": "false",
                "enableStatistics": "false",
                "statsProviderClass": "org.apache.bookkeeper.stats.NullStatsProvider",
                "autoRecoveryDaemonEnabled": "false",
            },
        )
        self.zookeeper = self._process("zookeeper", SMALL, PULSAR_ZK_CONF="zookeeper.conf")
        self.bookie = self._process("bookie", MEDIUM, PULSAR_BOOKKEEPER_CONF="bookkeeper.conf")
        self.brokers = [self._broker("a", self.port_a, self.web_a), self._broker("b", self.port_b, self.web_b)]
        self.webs = [self.web_a, self.web_b]

    def _broker(self, name: str, port: int, web_port: int) -> Process:
        edited(
            home() / "conf" / "broker.conf",
            self.directory / f"broker-{name}.conf",
            {
                "metadataStoreUrl": f"zk:{self._zookeeper}",
                "configurationMetadataStoreUrl": f"zk:{self._zookeeper}",
                "clusterName": "test",
                "bindAddress": "127.0.0.1",
                "advertisedAddress": "127.0.0.1",
                "brokerServicePort": str(port),
                "webServicePort": str(web_port),
                "managedLedgerDefaultEnsembleSize": "1",
                "managedLedgerDefaultWriteQuorum": "1",
                "managedLedgerDefaultAckQuorum": "1",
                "brokerDeleteInactiveTopicsEnabled": "false",
                "defaultRetentionTimeInMinutes": "1440",
                "defaultRetentionSizeInMB": "1024",
                "brokerShutdownTimeoutMs": "5000",
                "loadBalancerEnabled": "true",
                "defaultNumberOfNamespaceBundles": "1",
                "transactionCoordinatorEnabled": "false",
            },
        )
        return self._process("broker", MEDIUM, f"broker-{name}", PULSAR_BROKER_CONF=f"broker-{name}.conf")

    def _process(self, command: str, memory: str, name: str = "", **conf: str) -> Process:
        environment = {variable: str(self.directory / file) for variable, file in conf.items()}
        logs = str(self.directory / (name or command))
        return Process(
            name or command,
            [str(home() / "bin" / "pulsar"), command],
            self.directory,
            {"PULSAR_MEM": memory, "BOOKIE_MEM": memory, "PULSAR_GC": " ", "PULSAR_LOG_DIR": logs, **environment},
        )

    @property
    def url(self) -> str:
        return f"pulsar://127.0.0.1:{self.port_a},127.0.0.1:{self.port_b}"

    def start(self) -> None:
        self.zookeeper.start()
        time.sleep(4)
        subprocess.run(
            [
                *(str(home() / "bin" / "pulsar"), "initialize-cluster-metadata", "--cluster", "test"),
                *(
                    "--metadata-store",
                    f"zk:{self._zookeeper}",
                    "--configuration-metadata-store",
                    f"zk:{self._zookeeper}",
                ),
                *("--web-service-url", f"http://127.0.0.1:{self.web_a},127.0.0.1:{self.web_b}"),
                *("--broker-service-url", self.url),
            ],
            check=True,
            timeout=120,
            capture_output=True,
        )
        self.bookie.start()
        time.sleep(3)
        for broker, web in zip(self.brokers, self.webs, strict=True):
            broker.start()
            wait_healthy(web, 180, broker)

    def move_topics(self) -> None:
        """Take the topics' bundle off its broker; the load balancer gives it to one or the other."""
        for web in self.webs:
            try:
                admin(web, "PUT", "namespaces/public/default/unload")
                return
            except OSError:
                continue

    def owner(self, topic: str) -> str:
        """Return the URL of the broker that serves a topic."""
        url = f"http://127.0.0.1:{self.web_a}/lookup/v2/topic/persistent/public/default/{topic}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(json.load(answer)["brokerUrl"])

    def stop(self) -> None:
        for process in (*self.brokers, self.bookie, self.zookeeper):
            process.kill()
