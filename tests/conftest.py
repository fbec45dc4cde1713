"""Puts what tests share, the modules beside this file, on their path (pytest adds the folder of each conftest).

And makes the checkout importable as the collection that it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ansible" / "collections"))


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark of what `make test` leaves to `make test-slow`."""
    config.addinivalue_line("markers", "slow: takes long for what it tells; not in `make test`")
