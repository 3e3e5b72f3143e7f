"""Shape checks for the whole suite: the annotations of every folder that handles tensors are enforced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# The folders below hold no tensors; beartype cannot check `Self` on single methods, which they use.
install_import_hook(
    [
        f"groundup.{folder}"
        for folder in (
            "data.batch",
            "data.sampler",
            "data.conversations",
            "model",
            "train",
            "align",
            "inference",
            "evaluate",
        )
    ],
    "beartype.beartype",
)

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
