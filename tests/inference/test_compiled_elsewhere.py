"""The compiled step where something is missing: other processors, no numba, no threading layer. By environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.core.jit import numba_works, target_features

if not numba_works():
    pytest.skip("the kernels need numba", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
# Integer products of every form, on all pairs of extreme codes and on random ones.
DOTS = """
import numpy as np
from groundup.core.jit import kernel, target_features
from groundup.core.vectors_numba import dot_u7, dot_u8, load_i32, load_u8, splat_i32, store_i8, to_f32, store_f32

@kernel
def large(codes, numbers, out):
    store_f32(out, to_f32(dot_u8(splat_i32(3), load_u8(codes), load_i32(numbers))))

@kernel
def small(codes, numbers, out):
    store_f32(out, to_f32(dot_u7(splat_i32(-5), load_u8(codes), load_i32(numbers))))

draw = np.random.default_rng(0)
out = np.zeros(16, np.float32)
for round in range(300):
    for function, most, start in ((large, 255, 3), (small, 127, -5)):
        codes = draw.choice([0, 1, most - 1, most], 64) if round % 2 else draw.integers(0, most + 1, 64)
        numbers = draw.choice([-127, -1, 0, 127], 64) if round % 3 else draw.integers(-127, 128, 64)
        codes, numbers = codes.astype(np.uint8), numbers.astype(np.int8)
        function(codes.ctypes.data, numbers.ctypes.data, out.ctypes.data)
        expected = (codes.astype(int) * numbers).reshape(16, 4).sum(1) + start
        assert np.array_equal(out, expected), (function, codes, numbers, out, expected)
print(",".join(sorted(target_features() & {"avx512vnni", "avxvnni", "avx2", "sse4.2"})))
"""
# A step beside the modules; prints its threads.
STEP = """
import torch
from groundup.core.jit import parallel_layer
from groundup.inference.compiled import usable_threads
from groundup.inference.fast import FastModel
from groundup.inference.fast_tensors import FastTensors
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.model.weights.module_tiles import ModuleTiles

config = preset("qwen3", vocab_size=97, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, intermediate_size=96, max_position_embeddings=64)
model = build(config, seed=1).eval()
ids = torch.arange(30)[None]
with torch.no_grad():
    expected = model.logits(model(ids))
step = FastTensors(FastModel(config, ModuleTiles(model.state_dict()), threads=usable_threads(2)))
found = step.logits(step(ids))
assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
print(parallel_layer(), step.model.step.threads)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("generic", ""),
        ("haswell", "+avx,+avx2,+fma,+f16c,+sse4.2"),
        ("alderlake", "+avx,+avx2,+avxvnni,+fma,+f16c"),
        ("skylake-avx512", "+avx2,+avx512f,+avx512bw,+avx512vl,+fma,+f16c"),
        ("icelake-server", "+avx2,+avx512f,+avx512bw,+avx512vl,+avx512vnni,+fma,+f16c"),
    ],
)
def test_dot_products_of_bytes_on_other_processors(tmp_path: Path, name: str, features: str) -> None:
    wanted = {feature.lstrip("+") for feature in features.split(",") if feature}
    if not wanted <= target_features():
        pytest.skip(f"this processor lacks {', '.join(sorted(wanted - target_features()))}")
    done = run(DOTS, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip().split(",")) - {""} <= wanted


@pytest.mark.slow
@pytest.mark.parametrize(("name", "features"), [("generic", ""), ("haswell", "+avx,+avx2,+fma,+f16c")])
def test_the_whole_step_on_other_processors(tmp_path: Path, name: str, features: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/model/test_tiles.py",
         "tests/inference/test_compiled_step.py"],
        env={**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_without_a_threading_layer_one_thread_computes() -> None:
    done = run(STEP, NUMBA_THREADING_LAYER="workqueue")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", "1"]


def test_without_numba_torch_computes_and_says_so(tmp_path: Path) -> None:
    make = """
import sys
from pathlib import Path
from groundup.model.directory import save_model_directory
from groundup.model.presets import preset
from groundup.model.transformer import build
from groundup.tokenizer.bpe import ByteBPE

config = preset("qwen3", vocab_size=256, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, head_dim=16, intermediate_size=32, max_position_embeddings=64)
tokenizer = ByteBPE.from_merges([], special_tokens=())
save_model_directory(Path(sys.argv[1]), build(config), tokenizer, chat_template=None, lineage={})
"""
    made = subprocess.run([sys.executable, "-c", make, str(tmp_path / "model")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    command = [sys.executable, "-m", "groundup", "generate", str(tmp_path / "model"), "ab", "--max-new-tokens", "8"]
    command += ["--temperature", "0"]
    texts = []
    for environment in ({}, {"NUMBA_DISABLE_JIT": "1"}):
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True)
        assert done.returncode == 0, done.stderr
        said = b"torch computes, several times slower than the compiled step: numba cannot be used here" in done.stderr
        assert said == bool(environment)
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    forced = subprocess.run(
        [*command, "--engine", "compiled"], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert forced.returncode == 2
    assert "--engine compiled is not possible: numba cannot be used here" in forced.stderr
