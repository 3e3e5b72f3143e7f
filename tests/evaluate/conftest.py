"""A tiny random model and a tokenizer of single bytes, both the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.tokenizer import ByteBPE, train_bpe

VOCAB = 260


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteBPE:
    """256 bytes and the four special tokens: nothing merged, so every character of a test is a token or more."""
    return train_bpe(["abc"], VOCAB)


@pytest.fixture(scope="session")
def tiny_lm() -> Callable[..., Transformer]:
    """`tiny_lm(seed, max_length)` builds a random model over the byte tokenizer's vocabulary."""

    def make(seed: int = 0, max_length: int = 24, vocab_size: int = VOCAB) -> Transformer:
        config = preset(
            "qwen3",
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            max_position_embeddings=max_length,
            initializer_range=0.3,
        )
        return build(config, seed=seed)

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads make tiny tensors no faster, and several times slower where other processes want the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
