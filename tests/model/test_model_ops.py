"""Each fast path equals its reference, in values and in gradients."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch

import groundup.model.ops.pairs  # noqa: F401  # registers them
from groundup.core.registry import Pair, pairs
from groundup.model.config import RotaryConfig
from groundup.model.ops.activation import relu2
from groundup.model.ops.attention import attention_fast, visible_keys
from groundup.model.ops.norm import rms_norm_fast
from groundup.model.ops.paths import compute_paths
from groundup.model.ops.rotary import rotary_fast, rotary_reference, rotary_tables
from groundup.model.presets import preset
from groundup.model.transformer import build

# Products with blocks are of numpy and have no gradient; tests/project/test_pairs.py and test_tiles.py hold them.
OWN = {name: pair for name, pair in pairs().items() if name.startswith("model.") and name != "model.multiply_blocks"}


def largest_relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def test_the_registry_holds_the_hot_operations() -> None:
    assert set(OWN) >= {"model.attention", "model.rms_norm", "model.layer_norm", "model.rotary", "model.gelu_new"}
    assert attention_fast is OWN["model.attention"].fast


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pair", OWN.values(), ids=OWN)
def test_fast_equals_reference(pair: Pair, seed: int) -> None:
    arguments = pair.inputs(seed)
    assert largest_relative_difference(pair.fast(*arguments), pair.reference(*arguments)) <= pair.tolerance


#: oneDNN knows no float64.
FLOAT32_ONLY = {"model.linear_onednn"}


def _leaves(arguments: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(
        a.to(dtype).requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pair", OWN.values(), ids=OWN)
def test_gradients_of_fast_equal_those_of_reference(pair: Pair, seed: int) -> None:
    gradients = []
    dtype, tolerance = (torch.float32, 1e-5) if pair.name in FLOAT32_ONLY else (torch.float64, 1e-9)
    for function in (pair.reference, pair.fast):
        arguments = _leaves(pair.inputs(seed), dtype)
        result = function(*arguments)
        weight = torch.linspace(-1, 1, result.numel(), dtype=dtype).view_as(result)
        (result * weight).sum().backward()
        tables = pair.name == "model.rotary"  # its tables are constants
        gradients.append([a.grad for a in arguments[: 1 if tables else None] if isinstance(a, torch.Tensor)])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for expected, got in zip(*gradients, strict=True):
        if expected is not None:
            assert got is not None
            assert largest_relative_difference(got, expected) <= tolerance


def test_rms_norm_gradient_against_central_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm_fast(a, b, 1e-6), (x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_keep_the_dtype_and_compute_wide(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (1000 + torch.randn(4, 64, generator=generator)).to(dtype)  # bfloat16 sums would lose the variance
    weight = torch.ones(64)
    for pair in (OWN["model.rms_norm"], OWN["model.layer_norm"]):
        more = (None, 1e-5) if pair.name == "model.layer_norm" else (1e-5,)
        weights = weight.to(dtype) if pair.name == "model.layer_norm" else weight
        exact = pair.reference(x.double(), weight.double(), *more)
        for function in (pair.reference, pair.fast):
            got = function(x, weights, *more)
            assert got.dtype == dtype
            assert largest_relative_difference(got.double(), exact) <= (1e-4 if dtype == torch.float32 else 1e-2)


def test_rotary_depends_on_distance_alone_and_keeps_length() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 32, dtype=torch.float64, generator=generator) for _ in range(2))

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        cos, sin = rotary_tables(torch.tensor([[position]]), 32, RotaryConfig(), torch.float64)
        return rotary_fast(x, cos, sin)

    products = [float((turned(query, start + 5) * turned(key, start)).sum()) for start in (0, 3, 40, 900)]
    assert max(products) - min(products) < 1e-3  # angles are float32
    assert float(turned(query, 17).norm()) == pytest.approx(float(query.norm()), rel=1e-6)
    assert torch.equal(turned(query, 0), query)


def test_rotary_works_on_strided_heads_and_long_positions() -> None:
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    cos, sin = rotary_tables(
        torch.tensor([[0, 1, 2, 3, 131_071]]), 8, RotaryConfig(rope_theta=500_000.0), torch.float32
    )
    got = rotary_fast(x, cos, sin)
    assert largest_relative_difference(got, rotary_reference(x, cos, sin)) <= 1e-6
    assert float(got[0, 0, 4, 0]) == pytest.approx(
        float(x[0, 0, 4, 0]) * math.cos(131_071) - float(x[0, 0, 4, 4]) * math.sin(131_071), abs=1e-4
    )


def test_visible_keys_by_hand() -> None:
    mask = torch.tensor([[False, True, True, True]])
    got = visible_keys(2, 4, is_causal=True, mask=mask)
    assert got.tolist() == [[[[False, True, True, False], [False, True, True, True]]]]
    segments = torch.tensor([[0, 0, 1, 1]])
    got = visible_keys(4, 4, is_causal=True, segments=segments)
    assert got[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert visible_keys(4, 4, is_causal=True, mask=mask)[0, 0, 0].tolist() == [True, False, False, False]
    assert visible_keys(2, 2, is_causal=False).all()


def test_relu2() -> None:
    assert relu2(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_paths_are_taken_while_the_plan_lasts_and_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for place, name in (("linear", "linear_onednn"), ("attention", "attention_stored")):
        # By its path: the package's names are the functions.
        module = importlib.import_module(f"groundup.model.ops.{place}")
        own = getattr(module, name)

        def watched(*arguments: Any, own: Any = own, name: str = name) -> torch.Tensor:
            taken.append(name)
            result: torch.Tensor = own(*arguments)
            return result

        monkeypatch.setattr(module, name, watched)
    config = preset("qwen3", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, head_dim=8, vocab_size=50)
    model = build(config, seed=1)
    ids = torch.arange(40).view(2, 20)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.logits(model(ids)).square().sum().backward()
        found = model.embed.weight.grad
        assert found is not None
        return found.clone()

    expected = gradient()
    assert not taken
    with compute_paths("onednn", "stored"):
        got = gradient()
        seen, _ = list(taken), taken.clear()
        with torch.no_grad():
            model(ids)
        assert "attention_stored" not in taken  # nothing to store for
        taken.clear()
        with torch.autocast("cpu", torch.bfloat16):
            model(ids)
        assert "linear_onednn" not in taken  # autocast's products are oneDNN's already
    assert seen.count("attention_stored") == 1
    assert seen.count("linear_onednn") == 8  # four of attention, three of the MLP, the head
    assert largest_relative_difference(got, expected) <= 1e-5
    taken.clear()
    gradient()
    assert not taken
