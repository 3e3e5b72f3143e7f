"""Shares the helpers of the trainer's tests; tests marked gpu skip without CUDA by themselves."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
