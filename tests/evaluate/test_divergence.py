"""Divergence of two models on a text: known distributions, itself, and the ends of windows."""

from __future__ import annotations

import math

import pytest
import torch

from groundup.core.errors import UsageError
from groundup.evaluate.divergence import divergence_of, measure_divergence, summarize
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build


def model(seed: int, vocab_size: int = 50) -> Transformer:
    config = preset(
        "llama3",
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    return build(config, seed=seed).eval()


def test_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]])
    found = summarize(divergence_of(p.log(), q.log() + 3, following=[0, 2]))
    assert found.kl == pytest.approx(0.5 * (0.5 * math.log(2) - 0.25 * math.log(2)), rel=1e-6)
    assert found.top1 == 0.5 and found.positions == 2
    assert found.reference_perplexity == pytest.approx(math.exp(-0.5 * (math.log(0.5) + math.log(0.7))), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(-0.5 * (math.log(0.25) + math.log(0.7))), rel=1e-6)
    assert found.margin == pytest.approx(math.log(2), rel=1e-6)
    assert found.kl_99 == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_a_model_is_not_apart_from_itself() -> None:
    one = model(0)
    found = measure_divergence(one, one, list(range(40)), window=16)
    # Windows of 16, 16 and 8 tokens predict 15, 15 and 7.
    assert found.positions == 37
    assert found.kl == 0 and found.top1 == 1 and found.largest == 0
    assert found.perplexity == found.reference_perplexity


def test_perplexity_is_that_of_the_losses() -> None:
    one, other, ids = model(0), model(1), [3, 1, 4, 1, 5, 9, 2, 6]
    steps: list[int] = []
    found = measure_divergence(one, other, ids, window=32, on_progress=lambda done, total: steps.append(done))
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            other.logits(other(torch.tensor([ids])))[0, :-1], torch.tensor(ids[1:])
        )
    assert found.perplexity == pytest.approx(float(losses.exp()), rel=1e-5)
    assert found.kl > 0.01
    assert steps == [0, 8]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match=r"a text of 1 tokens in windows of 16 predicts nothing"):
        measure_divergence(model(0), model(0), [1], window=16)
    with pytest.raises(UsageError, match=r"the models know 50 and 60 tokens"):
        measure_divergence(model(0), model(0, 60), [1, 2], window=16)
