#!/usr/bin/env python3
"""Build the systemd images that test hosts are made from, where the engine does not hold them yet.

An image's tag is a hash of all that goes into it: this recipe, and what the hosts must have in common with the machine
they run on to reach the same mirrors (package sources, apt's transport options, certificates of its own, package
indexes). So an unchanged recipe costs one look at the engine, and a changed one can't be mistaken for the old.
Nothing of that machine is written into the checkout.

Usage: build.py RELEASE...    prints one line 'RELEASE REFERENCE' for each, progress on standard error
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = "policyfleet/test-host"
SUITES = {"debian12": "bookworm", "debian13": "trixie"}
PACKAGES = [
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iptables",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
]
# A timer that takes dpkg's lock in the middle of a test is a flaky test.
MASKED_UNITS = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
]
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
APT_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv4")
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")


@dataclass(frozen=True)
class Machine:
    """What a host takes over from the machine it runs on."""

    mirror: str
    security_mirror: str
    apt_options: tuple[str, ...]
    certificates: tuple[str, ...]
    python_index: str

    def sources(self, suite: str) -> list[str]:
        """Package sources of a Debian release (`suite` is its code name), one 'deb' line each."""
        return [
            f"deb {self.mirror} {suite} main",
            f"deb {self.mirror} {suite}-updates main",
            f"deb {self.security_mirror} {suite}-security main",
        ]


def output_of(*command: str) -> str:
    """Standard output of a command; raises CalledProcessError if it fails."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def as_root(*command: str) -> list[str]:
    """The command, through sudo for everybody but root."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def package_mirrors() -> tuple[str, str]:
    """URIs of the machine's Debian mirror and of its mirror of security updates."""
    codename = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )["VERSION_CODENAME"].strip('"')
    by_release = {}
    for line in output_of("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)").splitlines():
        release, uri = line.split(" ", 1)
        by_release[release] = uri.rstrip("/")
    if codename not in by_release:
        raise SystemExit(f"build: apt knows no source for {codename}; test hosts are built from this machine's mirror")
    mirror = by_release[codename]
    return mirror, by_release.get(f"{codename}-security", mirror.removesuffix("debian") + "debian-security")


def transport_options() -> tuple[str, ...]:
    """Apt's options on this machine that say how packages are reached, as lines of its configuration."""
    return tuple(line for line in output_of("apt-config", "dump").splitlines() if line.startswith(APT_OPTIONS))


def own_certificates() -> tuple[str, ...]:
    """Certificates (PEM) that this machine trusts beyond those of Debian's package."""

    def certificates(text: str) -> list[str]:
        end = "-----END CERTIFICATE-----"
        return [part[part.index("-----BEGIN") :] + end for part in text.split(end) if "-----BEGIN" in part]

    if not BUNDLE.exists():
        return ()
    packaged = {
        ssl.PEM_cert_to_DER_cert(pem)
        for path in Path("/usr/share/ca-certificates").rglob("*.crt")
        for pem in certificates(path.read_text(encoding="ascii"))
    }
    trusted = certificates(BUNDLE.read_text(encoding="ascii"))
    return tuple(pem + "\n" for pem in trusted if ssl.PEM_cert_to_DER_cert(pem) not in packaged)


def this_machine() -> Machine:
    """Look at the machine that the hosts will run on."""
    mirror, security_mirror = package_mirrors()
    index = next((os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)), "")
    return Machine(mirror, security_mirror, transport_options(), own_certificates(), index)


def recipe(release: str, machine: Machine) -> str:
    """All that goes into an image, as a text whose hash is the image's tag."""
    parts = [Path(__file__).read_text(encoding="utf-8"), (HERE / "first-process").read_text(encoding="utf-8")]
    return json.dumps([release, *parts, machine.__dict__], sort_keys=True)


def write_overlay(tarball: Path, machine: Machine) -> None:
    """Pack the files that the image has besides its packages, all of them root's."""
    pip_index = f"index-url = {machine.python_index}\n" if machine.python_index else ""
    uv_index = f'\n[[index]]\nurl = "{machine.python_index}"\ndefault = true\n' if machine.python_index else ""
    files = {
        "usr/local/sbin/first-process": (0o755, (HERE / "first-process").read_text(encoding="utf-8")),
        "etc/sudoers.d/operator": (0o440, "operator ALL=(ALL:ALL) NOPASSWD: ALL\n"),
        "etc/ssh/sshd_config.d/test-host.conf": (0o644, "PasswordAuthentication no\nMaxStartups 64\nMaxSessions 64\n"),
        "etc/dpkg/dpkg.cfg.d/test-host": (0o644, "force-unsafe-io\n"),
        "etc/pip.conf": (0o644, f"[global]\ncert = {BUNDLE}\n{pip_index}"),
        "etc/uv/uv.toml": (0o644, f"system-certs = true\n{uv_index}"),
    }
    for number, certificate in enumerate(machine.certificates):
        files[f"usr/local/share/ca-certificates/machine-{number}.crt"] = (0o644, certificate)
    with tarfile.open(tarball, "w") as archive:
        for path, (mode, text) in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = mode, len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def finishing_steps() -> str:
    """Shell commands that finish the image's file tree, which mmdebstrap gives as $1."""
    masked = " ".join(f'"$1/etc/systemd/system/{unit}"' for unit in MASKED_UNITS)
    return "\n".join(
        [
            "set -e",
            'chroot "$1" useradd --create-home --shell /bin/bash --gid operator operator',
            'chroot "$1" install -d -m 700 -o operator -g operator /home/operator/.ssh',
            f'for unit in {masked}; do ln -sf /dev/null "$unit"; done',
            'chroot "$1" systemctl enable ssh.service >/dev/null 2>&1',
            'chroot "$1" update-ca-certificates >/dev/null 2>&1',
            # Java's package links its manual pages, and fails where their folder has been left out.
            'install -d "$1/usr/share/man/man1"',
            'rm -f "$1"/etc/ssh/ssh_host_*_key* "$1"/etc/machine-id',
            'touch "$1/etc/machine-id"',
        ]
    )


def build(release: str, reference: str, machine: Machine) -> None:
    """Make the image and hand it to the engine under `reference`; raises CalledProcessError if a step fails."""
    if not shutil.which("mmdebstrap"):
        print("images: installing mmdebstrap", file=sys.stderr)
        subprocess.run(as_root("apt-get", "update", "-qq"), check=True)
        install = [
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-qq",
            "-y",
            "--no-install-recommends",
        ]
        subprocess.run(
            as_root(*install, "mmdebstrap", "debian-archive-keyring"),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    with tempfile.TemporaryDirectory() as folder:
        overlay, tarball = Path(folder) / "overlay.tar", Path(folder) / "image.tar"
        write_overlay(overlay, machine)
        suite = SUITES[release]
        subprocess.run(
            as_root(
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                "--quiet",
                f"--include={','.join(PACKAGES)}",
                *[f"--aptopt={option}" for option in machine.apt_options],
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                f"--customize-hook=tar-in {overlay} /",
                f"--customize-hook={finishing_steps()}",
                suite,
                str(tarball),
                *machine.sources(suite),
            ),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        change = 'CMD ["/usr/local/sbin/first-process"]'
        subprocess.run(
            ["docker", "import", "--change", change, str(tarball), reference], check=True, stdout=subprocess.DEVNULL
        )


def main(releases: list[str]) -> None:
    """Build what is missing of the named releases and print where each is found."""
    unknown = sorted(set(releases) - set(SUITES))
    if unknown or not releases:
        raise SystemExit(f"build: want one or more of {', '.join(SUITES)}, not {', '.join(unknown) or 'nothing'}")
    machine = this_machine()
    for release in releases:
        tag = hashlib.sha256(recipe(release, machine).encode()).hexdigest()[:12]
        reference = f"{REPOSITORY}:{release}-{tag}"
        inspected = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, check=False)
        if inspected.returncode != 0:
            print(f"images: building {reference}", file=sys.stderr)
            started = time.monotonic()
            build(release, reference, machine)
            print(f"images: built {reference} in {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(release, reference)


if __name__ == "__main__":
    main(sys.argv[1:])
