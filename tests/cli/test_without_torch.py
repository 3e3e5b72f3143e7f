"""Generating and chatting imports no torch, and no numba once its kernels were compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.core.jit import numba_works
from groundup.model.directory import save_model_directory
from groundup.model.ops.integers import IntegerFormat
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.model.weights.gguf_model import save_gguf
from groundup.tokenizer.base import SPECIAL_TOKENS
from groundup.tokenizer.bpe import ByteBPE
from groundup.tokenizer.chat import DEFAULT_CHAT_TEMPLATE

if not numba_works():
    pytest.skip("the kernels need numba", allow_module_level=True)

#: Runs the command line and says which of the heavy libraries were imported.
RUN = """
import sys
from groundup.cli.app import run
code = run(sys.argv[1:])
heavy = ("torch", "scipy", "transformers", "numba", "jaxtyping")
print("\\nimported:", *(name for name in heavy if name in sys.modules))
sys.exit(code)
"""


@pytest.fixture(scope="module", params=["file", "directory", "rounded"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chat model in a GGUF file, in a directory, and in a directory of int8 weights."""
    folder = tmp_path_factory.mktemp("models")
    config = preset(
        "llama3",
        vocab_size=260,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    tokenizer = ByteBPE.from_merges([], special_tokens=SPECIAL_TOKENS)
    if request.param == "file":
        path = folder / "small.gguf"
        save_gguf(path, build(config, seed=1), tokenizer, type="Q8_0", chat_template=DEFAULT_CHAT_TEMPLATE)
        return path
    rounded = IntegerFormat(8) if request.param == "rounded" else None
    options = {"chat_template": DEFAULT_CHAT_TEMPLATE, "lineage": {}, "rounded": rounded}
    save_model_directory(folder / "small", build(config, seed=1), tokenizer, **options)
    return folder / "small"


def imported(*arguments: str, text: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, *arguments], input=text, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.strip().splitlines()
    assert said, "nothing was generated"
    return last.removeprefix("imported:").split()


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        (("generate", "Hello", "--max-new-tokens", "4", "--temperature", "0"), ""),
        (("generate", "Hello", "--max-new-tokens", "4", "--seed", "3", "--top-p", "0.9", "--top-k", "40"), ""),
        (("chat", "--max-new-tokens", "4", "--system", "Be short."), "Hello\n/temperature 0.8\nAgain\n"),
    ],
    ids=["greedy", "sampled", "chat"],
)
def test_no_torch_and_no_numba_is_imported(model: Path, verb: tuple[str, ...], text: str) -> None:
    name, *rest = verb
    arguments = (name, str(model), *rest)
    assert "torch" not in imported(*arguments, text=text)  # compiles kernels, where that was not done before
    assert imported(*arguments, text=text) == []


def test_a_command_that_needs_torch_still_gets_it(model: Path) -> None:
    arguments = ("generate", str(model), "Hello", "--max-new-tokens", "2", "--engine", "torch")
    assert "torch" in imported(*arguments)


def test_kernels_that_are_missing_where_numba_broke_meanwhile(model: Path, tmp_path: Path) -> None:
    """numba compiled some once, and now cannot be imported, as after an update of numpy: torch computes."""
    cache, stub = tmp_path / "cache", tmp_path / "stub"
    (stub / "numba").mkdir(parents=True)
    (stub / "numba" / "__init__.py").write_text("raise ImportError('numba needs another numpy')")
    version = Path(importlib.util.find_spec("numba").origin).with_name("_version.py")  # type: ignore[union-attr, arg-type]
    shutil.copy(version, stub / "numba")
    arguments = [sys.executable, "-W", "error", "-m", "groundup", "generate", str(model), "Hello", "--temperature", "0"]
    arguments += ["--max-new-tokens", "3"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    first = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    path = os.pathsep.join(filter(None, [str(stub), os.environ.get("PYTHONPATH")]))
    broken = environment | {"PYTHONPATH": path}
    kept = subprocess.run(arguments, env=broken, capture_output=True, text=True, timeout=300)
    assert kept.returncode == 0 and kept.stdout == first.stdout and "torch computes" not in kept.stderr
    next(cache.rglob("products_numba-product*.code")).unlink()
    done = subprocess.run(arguments, env=broken, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torch computes, several times slower" in done.stderr and done.stdout.startswith("Hello")
    forced = subprocess.run(
        [*arguments, "--engine", "compiled"], env=broken, capture_output=True, text=True, timeout=300
    )
    assert forced.returncode == 2 and "--engine compiled is not possible: numba cannot be used here" in forced.stderr
