"""Shape checks for the whole suite: every jaxtyping annotation of groundup is enforced by beartype."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("groundup", "beartype.beartype")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}, which is not here")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    import torch

    if torch.get_num_threads() > 2:
        torch.set_num_threads(2)
