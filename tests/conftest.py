"""Shape checks for the whole suite: the annotations of every folder that handles tensors are enforced."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook


def _take_one_cpu() -> None:
    """Bind a worker of pytest-xdist, and every process it starts, to a CPU of its own, before torch makes its threads.

    Two processes whose threads share the CPUs wait for each other at every product: the suite would be slower than in
    one process.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw"):
        os.environ["OMP_NUM_THREADS"] = "1"
        if hasattr(os, "sched_setaffinity"):
            mine = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {mine[int(worker[2:]) % len(mine)]})


_take_one_cpu()

# The folders that are left out hold no tensors; beartype cannot check `Self` on single methods, which they use.
_hook = install_import_hook(
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
# numba compiles a kernel from its bytecode, which must be that of its source.
_instruments = _hook.hook.should_instrument
_hook.hook.should_instrument = lambda name: not name.endswith(("_numba", "_triton")) and _instruments(name)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}, which is not here")
    return SHARED_DATA


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome; `CHROMIUM` names another one."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser of the tests marked `browser`."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium here: install it, or name one in CHROMIUM")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and find_chromium() is None:
        pytest.skip("no chromium here: install it, or name one in CHROMIUM")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    import torch

    if torch.get_num_threads() > 2:
        torch.set_num_threads(2)
