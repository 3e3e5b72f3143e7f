"""The four levels of one GPT: equal in loss and gradients, and measured as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundup.foundations.gpt import GPTShape, initial_weights
from groundup.model.plain_gpt import TorchGPT
from groundup.recipes import levels

SHAPE = GPTShape(vocab_size=13, hidden_size=8, num_layers=2, num_heads=2, context=7)


@pytest.mark.parametrize("seed", range(3))
def test_all_four_have_the_same_loss_and_the_same_gradients(seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, SHAPE.vocab_size, (1, SHAPE.context))
    found = levels.losses_and_gradients(SHAPE, initial_weights(SHAPE, seed, deviation=0.4), ids)
    assert list(found) == ["scalars", "arrays", "torch", "fast"]
    loss, gradients = found["torch"]
    assert min(float(np.abs(gradient).max()) for gradient in gradients.values()) > 0
    for level, (own_loss, own) in found.items():
        assert own_loss == pytest.approx(loss, abs=1e-9), level
        assert own.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert own[name].dtype == np.float64 and np.abs(own[name] - gradient).max() < 1e-9, (level, name)


def test_a_weight_that_differs_is_seen() -> None:
    weights = initial_weights(SHAPE, 0, deviation=0.4)
    ids = torch.tensor(np.random.default_rng(0).integers(0, SHAPE.vocab_size, (2, SHAPE.context)))
    before = TorchGPT(SHAPE, weights).loss(ids).item()
    for name in weights:
        if name.endswith(("k_proj.bias",)):
            continue  # every score of a query grows by the same, which softmax does not see
        moved = {
            **weights,
            name: weights[name] + 0.05 * np.sign(np.arange(weights[name].size).reshape(weights[name].shape) % 3 - 1),
        }
        assert abs(TorchGPT(SHAPE, moved).loss(ids).item() - before) > 1e-9, name


@pytest.mark.parametrize("level", levels.LEVELS)
def test_a_level_is_measured(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_MULTIPLES", (1,))
    cost = levels.measure_level(level, SHAPE, 2, seed=3, timed_s=0.01)
    again = levels.measure_level(level, SHAPE, 2, seed=3, timed_s=0.01)
    assert cost.level == level and cost.loss == pytest.approx(again.loss, rel=1e-3)
    assert cost.loss == pytest.approx(np.log(SHAPE.vocab_size), abs=0.1)
    assert cost.seconds_per_token > 0 and cost.bytes_per_token > 100


def test_what_a_graph_keeps_is_counted_once_and_without_the_weights() -> None:
    weight, x = torch.ones(4, 8, requires_grad=True), torch.ones(16, 4)
    # Saved: x (256 bytes) for the product, its result (512 bytes) for the tanh; the weight itself does not count.
    kept = levels._saved_bytes(lambda: (x @ weight).tanh().sum(), known=[weight])
    assert kept == 16 * 4 * 4 + 16 * 8 * 4
    assert levels._saved_bytes(lambda: (x @ weight).tanh().sum(), known=[weight, x]) == 16 * 8 * 4
    assert 4_000_000 < levels._traced_bytes(lambda: np.ones(500_000)) < 4_100_000


def test_scalars_keep_the_most_and_half_the_bytes_keep_half() -> None:
    kept = {name: levels.measure_level(name, SHAPE, 1, timed_s=0.0).bytes_per_token for name in list(levels.LEVELS)[:4]}
    assert kept["scalars"] > 10 * kept["arrays"] > 10 * kept["arrays, float32"] > 0
    assert kept["arrays"] > kept["torch"]
