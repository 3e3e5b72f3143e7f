"""Tiny random models of three families, large enough in their weights that their outputs differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groundup.model.cache import StackCache
from groundup.model.presets import preset
from groundup.model.transformer import Transformer, build
from groundup.tokenizer import ByteBPE, train_bpe

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


class ScriptedModel(nn.Module):
    """Obeys the model's contract and says what it is told: after `n` tokens comes `script[n - 1]`."""

    def __init__(self, script: list[int], vocab_size: int = 260, max_length: int = 10_000) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size, max_position_embeddings=max_length)
        self.script = nn.Parameter(torch.tensor(script or [0]), requires_grad=False)

    def forward(
        self,
        inputs: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
        cache: StackCache | None = None,
    ) -> torch.Tensor:
        past = 0 if cache is None else cache.length
        if positions is None:
            positions = (torch.arange(inputs.shape[1]) + past).expand(*inputs.shape)
        if cache is not None:
            cache.update(inputs.shape[1], mask)
        return positions.float()[..., None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        wanted = self.script[hidden[..., 0].long().clamp(max=len(self.script) - 1)]
        return nn.functional.one_hot(wanted, self.config.vocab_size).float() * 5

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StackCache:
        return StackCache([], batch_size)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedModel]:
    """`scripted(script)` builds a model that generates the ids of `script` after a prompt of one token."""
    return ScriptedModel


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteBPE:
    """256 bytes and the four special tokens: nothing merged, so a character of several bytes is several tokens."""
    return train_bpe(["abc"], 260)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads make tiny tensors no faster, and several times slower where other processes want the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
