"""Tiny random models of three families, large enough in their weights that their outputs differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from groundup.model.transformer import Transformer, build

from groundup.model.presets import preset

FAMILIES = ("gpt2", "llama3", "qwen3")
VOCAB = 61


def make_tiny(family: str = "qwen3", seed: int = 0, max_length: int = 48, vocab_size: int = VOCAB) -> Transformer:
    fields = {"num_key_value_heads": 2, "head_dim": 8} if family != "gpt2" else {}
    config = preset(
        family,
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=max_length,
        # The published 0.02 makes a random model nearly uniform: then every comparison of tokens would be a tie.
        initializer_range=0.3,
        **fields,
    )
    return build(config, seed=seed)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Transformer]:
    """`tiny(family, seed, max_length, vocab_size)` builds a model."""
    return make_tiny


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
