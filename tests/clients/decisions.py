"""A fleet with clients as tests see it: where data and policy come from, and what each OPA decides by."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fleet import ROOT, Fleet, wait_until

SOURCE = "git1"
"""The host with the policy repository and the data that clients load."""

DATA = "/srv/data"
"""Where that host keeps the data."""

JSON = dict[str, Any]


@dataclass(frozen=True)
class Clients:
    """The clients of a fleet, their OPAs, and what feeds them."""

    fleet: Fleet

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The address of each host."""
        lines = self.fleet.ssh_config.read_text(encoding="utf-8").splitlines()
        words = [line.split() for line in lines if line.strip()]
        names = [pair[1] for pair in words if pair[0].lower() == "host" and pair[1] != "*"]
        found = [pair[1] for pair in words if pair[0].lower() == "hostname"]
        return dict(zip(names, found, strict=True))

    @property
    def hosts(self) -> list[str]:
        """The hosts with a client and an OPA."""
        return self.fleet.hosts("opal_client")

    @property
    def servers(self) -> list[str]:
        """The hosts with an OPAL-server."""
        return self.fleet.hosts("opal_server")

    @property
    def https_variables(self) -> JSON:
        """The role's variables for the policy repository over HTTPS, as tests/git_server/https.yml made it."""
        source = self.fleet.variables[SOURCE]
        return {
            "opal_server_policy_repo_url": f"https://{self.addresses[SOURCE]}/git/policy.git",
            "opal_server_policy_repo_ca_cert": (ROOT / ".cache" / "tls" / "ca.pem").read_text(encoding="utf-8"),
            "opal_server_policy_repo_username": source["git_server_user"],
            "opal_server_policy_repo_password": source["git_server_password"],
        }

    def container(self, host: str) -> str:
        """The container that a test host is."""
        labels = {
            "policyfleet.checkout": str(ROOT),
            "policyfleet.fleet": next(iter(self.fleet.variables.values()))["test_fleet"],
        }
        filters = [f"--filter=label={name}={value}" for name, value in labels.items()]
        command = ["docker", "ps", "--all", *filters, "--format", "{{.Names}}"]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return next(name for name in names if name.endswith(f"-{host}"))

    def get(self, host: str, url: str) -> tuple[int, str]:
        """Status and body that a host's own URL answers with; (0, "") where nothing answers."""
        output = self.fleet.shell(host, f"curl -s -m 5 -w '\\n%{{http_code}}' {url}", check=False)
        body, _newline, status = output.rpartition("\n")
        return int(status or 0), body

    def data(self, host: str, path: str) -> Any:
        """What the OPA of a host holds at a path of its data, None where it holds nothing."""
        _status, body = self.get(host, f"http://127.0.0.1:8181/v1/data{path}")
        return json.loads(body).get("result") if body else None

    def data_everywhere(self, path: str) -> dict[str, Any]:
        """What each OPA holds at a path of its data."""
        return {host: self.data(host, path) for host in self.hosts}

    def wait_for(self, path: str, value: Any, seconds: float = 30) -> float:
        """Wait until each OPA holds a value; return how long it took, in seconds.

        Raises TimeoutError, which says what they hold instead and what their hosts logged about it.
        """
        wanted = dict.fromkeys(self.hosts, value)
        try:
            return wait_until(lambda: self.data_everywhere(path) == wanted, f"{path} is {value!r} in each OPA", seconds)
        except TimeoutError as error:
            held = self.data_everywhere(path)
            raise TimeoutError(f"{error}; it is {held}; {self.standing()}\n{self.logged()}") from None

    def served(self, server: str) -> str:
        """The commit whose policy a server serves, or what it answers instead."""
        _status, body = self.get(server, "http://127.0.0.1:7002/policy")
        return str(json.loads(body).get("hash", body)) if body.startswith("{") else body

    def standing(self) -> str:
        """What servers serve, how they are, and to which of them clients are connected, in one line."""
        commits = {server: self.served(server)[:8] for server in self.servers}
        health = {server: self.get(server, "http://127.0.0.1:7002/healthcheck")[1] for server in self.servers}
        connected = {host: self.server_of(host) for host in self.hosts}
        return f"served {commits}, health {health}, connected {connected}"

    def logged(self) -> str:
        """The last lines that servers and clients wrote about policy, data and connections."""
        looks = {
            "opal-server": (self.servers, "git|policy|webhook|leader|ERROR|Traceback"),
            "opal-client": (self.hosts, "olicy|onnect|WARN|ERROR|Traceback"),
        }
        texts = []
        for unit, (hosts, pattern) in looks.items():
            for host in hosts:
                look = f"journalctl -u {unit} --no-pager -o cat -n 999 | grep -E '{pattern}' | tail -n 20 | cut -c -200"
                texts.append(f"--- {unit} on {host}\n{self.fleet.shell(host, look, check=False)}")
        return "\n".join(texts)

    def wait_healthy(self, server: str, seconds: float = 60) -> None:
        """Wait until a server's own health answer is good."""
        health = "http://127.0.0.1:7002/healthcheck"
        wait_until(lambda: self.get(server, health)[0] == 200, f"{server} is back", seconds)

    def backup(self, host: str) -> JSON:
        """The data in the backup that a client starts from while no server answers, empty where there is none."""
        text = self.fleet.shell(host, "cat /var/lib/opal-client/backup/opa.json", check=False)
        found: JSON = json.loads(text)["data"] if text else {}
        return found

    def healthy(self, host: str) -> JSON:
        """The body of a client's own health answer."""
        _status, body = self.get(host, "http://127.0.0.1:7000/healthy")
        answer: JSON = json.loads(body) if body else {}
        return answer

    def connected(self, host: str) -> bool:
        """Whether a client is connected to a healthy server now."""
        return self.get(host, "http://127.0.0.1:7003/connected")[0] == 200

    def server_of(self, host: str) -> list[str]:
        """The servers to which a client holds connections, by name."""
        _status, body = self.get(host, "http://127.0.0.1:7003/metrics")
        found = []
        for server in self.servers:
            name = f'server="{self.addresses[server]}:7002"'
            for line in body.splitlines():
                if line.startswith("haproxy_server_current_sessions") and name in line and not line.endswith(" 0"):
                    found.append(server)
        return found

    def go_home(self, host: str) -> str:
        """Let a client connect anew once all servers are healthy; return the server that it has then.

        A proxy that starts beside a server that is not healthy yet sends its client to the next one, where it stays.
        """
        for server in self.servers:
            self.wait_healthy(server)
        self.fleet.shell(host, "systemctl restart opal-client-proxy")
        wait_until(lambda: self.connected(host) and len(self.server_of(host)) == 1, f"{host} has one server", 30)
        return self.server_of(host)[0]

    def source(self) -> JSON:
        """The users as the data source has them."""
        users: JSON = json.loads(self.fleet.shell(SOURCE, f"cat {DATA}/users.json"))
        return users

    def move_bob(self, location: str) -> None:
        """Change the source: its list of users, and the part of it that an update points at."""
        users = {**self.source(), "bob": {"location": location}}
        for name, content in (("users.json", users), ("bob.json", location)):
            text = json.dumps(content).replace("'", "")
            self.fleet.shell(SOURCE, f"echo '{text}' > {DATA}/{name}.new && mv {DATA}/{name}.new {DATA}/{name}")

    def publish(self, server: str, dst_path: str, src_url: str = "", data: Any = None, sender: str = SOURCE) -> None:
        """Publish an update through a server, as OPAL's guide does. It is sent from a client's host."""
        program = "/opt/opal-client/current/bin/opal-client"
        what = f"--src-url {src_url}" if src_url else f"--data '{json.dumps(data)}' --src-url none"
        self.fleet.shell(
            self.hosts[0] if sender == SOURCE else sender,
            f"{program} publish-data-update --server-url http://{self.addresses[server]}:7002 {what} "
            f"-t policy_data --dst-path {dst_path}",
        )

    def publish_bob(self, server: str, sender: str = SOURCE) -> None:
        """Publish where Bob is, for clients to fetch from the source."""
        self.publish(server, "/users/bob/location", f"http://{self.addresses[SOURCE]}:8000/bob.json", sender=sender)

    def push_policy(self, number: int) -> None:
        """Push a commit to the policy repository that changes one decision."""
        self.fleet.shell(
            SOURCE,
            "rm -rf /tmp/policy && runuser -u git -- git clone -q /srv/git/policy.git /tmp/policy && cd /tmp/policy && "
            f"printf 'package release\\n\\nnumber = {number}\\n' > release.rego && "
            "runuser -u git -- git -c user.name=Policy -c user.email=policy@example.org "
            f"commit -q -a -m 'Release {number}' && runuser -u git -- git push -q origin main",
        )

    def settle(self, seconds: float = 60) -> None:
        """Wait until each client is connected and each OPA agrees with the source."""
        wait_until(lambda: all(self.connected(host) for host in self.hosts), "each client is connected", seconds)
        self.wait_for("/users", self.source(), seconds)
