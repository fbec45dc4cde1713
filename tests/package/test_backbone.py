"""The backbone as a stranger gets it: its wheel, with nothing beside it but what it names itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fleet import BIN, ROOT

UV = str(BIN / "uv")
STARTS = "from opal_backbone import gunicorn_conf, metrics, upstream; upstream.check()"


def test_what_it_names_is_what_it_needs(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([UV, "build", "--quiet", "--out-dir", tmp_path, ROOT / "backbone"], check=True)
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    python = environment / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True)
    subprocess.run([python, "-c", STARTS], cwd=tmp_path, check=True)
    told = subprocess.run(
        [environment / "bin" / "opal-backbone", "--version"], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"opal-pulsar-backbone 0" in told.stdout
