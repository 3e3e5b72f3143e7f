"""Small configs and models for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.model.config import TransformerConfig
from groundup.model.presets import FULL, SLIDING, preset
from groundup.model.transformer import Transformer, build

_GROUPED: dict[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
}
_GEMMA = {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 6}
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3},
    "llama3": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 7},
    "qwen2": {**_GROUPED, "sliding_window": 5, "layer_types": (FULL, SLIDING, SLIDING)},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3": {**_GEMMA, "layer_types": (SLIDING, FULL, SLIDING)},
    "olmo2": _GROUPED,
    "smollm3": {**_GROUPED, "no_rope_layers": (1, 0, 1)},
    "bert": {key: value for key, value in _GROUPED.items() if key != "num_key_value_heads"},
    "qwen3": {
        "hidden_size": 40,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "num_hidden_layers": 3,
        "intermediate_size": 72,
    },
}
# Parts that no preset has, put into a preset's mixers.
MIXERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sinks": (
        "llama3",
        {
            "sliding_window": 5,
            "num_sink_tokens": 2,
            "sink_logits": True,
            "rotary": {"kind": "rotary", "partial_rotary_factor": 0.5},
        },
    ),
}


@pytest.fixture
def small_config() -> Callable[..., TransformerConfig]:
    """`small_config("qwen3", **changes)`: a config of that family, a few thousand parameters."""

    def make(name: str, **changes: Any) -> TransformerConfig:
        family, mixer = MIXERS.get(name, (name, {}))
        fields = {"vocab_size": 97, "max_position_embeddings": 64, "initializer_range": 0.2, **SMALL[family], **changes}
        config = preset(family, **fields)
        return config.with_layers(lambda layer: layer.replace(mixer=mixer)) if mixer else config

    return make


@pytest.fixture
def small_model(small_config: Callable[..., TransformerConfig]) -> Callable[..., Transformer]:
    """`small_model("qwen3", seed=1, **changes)`: built and in evaluation mode, large weights so that all parts matter."""

    def make(name: str, seed: int = 0, **changes: Any) -> Transformer:
        model = build(small_config(name, **changes), seed=seed).eval()
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():  # biases and norms away from zero and one, or an error in them would not show
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return model

    return make


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Transformer, Any]]:
    """`pair(case)`: our model and theirs with the same weights, of a case of `benchmarks.families`; made once."""
    pytest.importorskip("transformers")
    from benchmarks.families import CASES, load_ours, make_theirs

    @cache
    def make(case: str) -> tuple[Transformer, Any]:
        theirs = make_theirs(CASES[case])
        folder: Path = tmp_path_factory.mktemp("pair")
        return load_ours(theirs, folder), theirs

    return make


@pytest.fixture
def ids() -> Callable[..., torch.Tensor]:
    """`ids(rows, length, seed=0)`: random token ids below 97."""

    def make(rows: int, length: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(autouse=True)
def _global_state_untouched() -> Iterator[None]:
    """Nothing in the model may use or change the global generator or the default dtype."""
    before, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "a test or the code under it used the global generator"
    assert torch.get_default_dtype() == dtype


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors of a few thousand values are slower on two threads, by far when other processes use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
