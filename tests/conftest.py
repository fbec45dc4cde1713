"""Puts what tests share, the modules beside this file, on their path (pytest adds the folder of each conftest).

And makes the checkout importable as the collection that it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ansible" / "collections"))
