"""An induction circuit in the starting values: what was seen before is expected again, before any training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from groundup.core.errors import ModelError
from groundup.model.config import TransformerConfig
from groundup.model.initialize import has_room_for_induction, plant_induction_circuit
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
@pytest.mark.parametrize("key_value_heads", [4, 2])
@pytest.mark.parametrize("width", [128, 256])
def test_a_repeated_random_sequence_is_expected_at_once(family: str, key_value_heads: int, width: int) -> None:
    model = build(config(family, width, key_value_heads), seed=0)
    first_before, second_before = losses(model)
    plant_induction_circuit(model, seed=3)
    first, second = losses(model)
    assert abs(second_before - first_before) < 0.2
    assert second < first - 1.0, (first, second)


def test_it_works_at_any_distance() -> None:
    model = build(config("qwen3", 256, 4), seed=0)
    plant_induction_circuit(model, seed=0)
    for period in (7, 20, 61, 120):
        first, second = losses(model, period=period)
        assert second < first - 1.0, (period, first, second)


def test_only_two_heads_and_the_embedding_differ() -> None:
    planted, normal = build(config("qwen3", 256, 4), seed=0), build(config("qwen3", 256, 4), seed=0)
    plant_induction_circuit(planted, seed=0)
    changed = {
        name
        for (name, a), (_, b) in zip(planted.named_parameters(), normal.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }
    heads = {f"layers.{i}.attn.{p}_proj.weight" for i in (0, 1) for p in "qkvo"}
    assert changed == {"embed.weight", *heads}
    assert torch.equal(planted.layers[0].attn.q_proj.weight[64:], normal.layers[0].attn.q_proj.weight[64:])


def test_the_seed_repeats_and_differs() -> None:
    models = [build(config("qwen3", 128, 4), seed=0) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        plant_induction_circuit(model, seed=seed)
    assert torch.equal(models[0].embed.weight, models[1].embed.weight)
    assert not torch.equal(models[0].embed.weight, models[2].embed.weight)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("gpt2", {}, "rotary self-attention"),
        ("qwen3", {"num_hidden_layers": 1}, "two layers"),
        ("qwen3", {"tie_word_embeddings": False}, "tied embeddings"),
        ("qwen3", {"head_dim": 12}, "multiple of 8"),
    ],
)
def test_a_model_without_room_is_refused(family: str, changes: dict[str, object], words: str) -> None:
    model = build(config(family, 128, 4, **changes), seed=0)
    assert not has_room_for_induction(model)
    with pytest.raises(ModelError, match=words):
        plant_induction_circuit(model, seed=0)


def losses(model: Transformer, period: int = 40, length: int = 240) -> tuple[float, float]:
    """Mean loss over the first period and over the repetitions of random token sequences."""
    generator = torch.Generator().manual_seed(period)
    once = torch.randint(400, (8, period), generator=generator)
    ids = once.repeat(1, -(-(length + 1) // period))[:, : length + 1]
    with torch.no_grad():
        logits = model.logits(model(ids[:, :-1]))
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return float(loss[:, : period - 1].mean()), float(loss[:, period:].mean())


def config(family: str, width: int, key_value_heads: int, **changes: object) -> TransformerConfig:
    fields: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 256,
    }
    if family != "gpt2":
        fields |= {"num_key_value_heads": key_value_heads, "head_dim": width // 4, "rope_theta": 10_000.0}
    return preset(family, **(fields | changes))
