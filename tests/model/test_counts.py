"""Counts from the config alone equal those of the built module and of torch's counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.core.errors import ModelError
from groundup.model.config import AttentionConfig, FilePartConfig, TransformerConfig
from groundup.model.counts import count_parameters, flops_per_token, training_memory_bytes
from groundup.model.ops.attention import visible_keys
from groundup.model.presets import FULL, SLIDING
from groundup.model.transformer import build

CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": False, "intermediate_size": 50}),
    ("llama3", {}),
    ("llama3", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": False, "num_key_value_heads": 6}),
    ("mistral", {}),
    ("qwen2", {}),
    ("gemma2", {"tie_word_embeddings": False, "attention_bias": True}),
    ("gemma3", {}),
    ("olmo2", {}),
    ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    ("sinks", {}),
    ("bert", {}),
]


@pytest.mark.parametrize(("name", "changes"), CASES)
@pytest.mark.parametrize("has_cross_attention", [False, True])
def test_parameters(
    name: str, changes: dict[str, Any], has_cross_attention: bool, small_config: Callable[..., TransformerConfig]
) -> None:
    config = small_config(name, **changes)
    if has_cross_attention:
        cross = {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "memory_size": 21,
            "qkv_bias": True,
            "output_bias": True,
            "qk_norm": {"kind": "layer_norm"},
        }
        config = config.with_layers(lambda layer: layer.replace(cross_attention=cross))
    model, counts = build(config), count_parameters(config)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    tables = [model.embed, model.embed_positions, model.embed_types]
    assert counts.embedding == sum(table.weight.numel() for table in tables if table is not None)
    assert counts.non_embedding == counts.total - counts.embedding


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_flops_equal_torchs_counter(
    name: str, changes: dict[str, Any], small_config: Callable[..., TransformerConfig]
) -> None:
    # The explicit path computes every score, seen or not; what a window saves is checked below.
    whole = {} if name == "bert" else {"sliding_window": None, "num_sink_tokens": 0}
    config = small_config(name, **changes).with_layers(lambda layer: layer.replace(mixer=whole))
    model, context = build(config), 20
    text = torch.zeros(2, context, dtype=torch.long)
    for layer in model.layers:  # the explicit path: its products are counted one by one
        layer.attn.pattern.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = model(text)
        loss = (model.logits(hidden) if config.has_head else hidden).sum()
    assert counter.get_total_flops() == flops_per_token(config, context) * 2 * context
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert counter.get_total_flops() == 2 * flops_per_token(config, context) * 2 * context


@pytest.mark.parametrize("name", ["mistral", "qwen2", "gemma3", "sinks"])
def test_a_window_leaves_out_the_scores_of_keys_it_does_not_see(
    name: str, small_config: Callable[..., TransformerConfig]
) -> None:
    config, context = small_config(name), 20
    whole = config.with_layers(lambda layer: layer.replace(mixer={"sliding_window": None, "num_sink_tokens": 0}))
    unseen = 0
    for layer in config.layers():
        heads = layer.mixer
        assert isinstance(heads, AttentionConfig)
        if heads.sliding_window is not None:
            seen = visible_keys(
                context,
                context,
                is_causal=True,
                window=heads.sliding_window,
                sinks=(torch.arange(context) < heads.num_sink_tokens)[None],
            )
            unseen += 4 * heads.num_attention_heads * heads.head_dim * (context - int(seen[0, 0, -1].sum()))
    assert unseen > 0
    assert flops_per_token(whole, context) - flops_per_token(config, context) == unseen
    assert flops_per_token(whole, 3) == flops_per_token(config, 3)


def test_file_parts_cannot_be_counted(small_config: Callable[..., TransformerConfig]) -> None:
    part = FilePartConfig(path="my.py", name="Mine")
    config = small_config("gpt2").with_layers(lambda layer: layer.model_copy(update={"mixer": part}))
    with pytest.raises(ModelError, match=r"part 'Mine' in my\.py cannot be counted"):
        count_parameters(config)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "changes"), [case for case in CASES if not case[1] or case[0] == "gemma2"], ids=lambda value: str(value)
)
def test_memory_counts_what_autograd_keeps(
    name: str, changes: dict[str, Any], precision: Any, small_config: Callable[..., TransformerConfig]
) -> None:
    """The activations of the formula against the bytes that autograd really saves (a count, not a measurement)."""
    wide = {"hidden_size": 192} | ({} if name == "gpt2" else {"intermediate_size": 512})
    if name in ("qwen2", "gemma3"):
        wide["layer_types"] = (FULL, SLIDING, SLIDING, SLIDING)  # type: ignore[assignment]
    config = small_config(name, num_hidden_layers=4, max_position_embeddings=128, **wide)
    model = build(config)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            kept[pointer] = tensor.untyped_storage().nbytes()
            alive.append(tensor)  # or its address would be used again
        return tensor

    text = torch.zeros(4, 128, dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        hidden = model(text)
    assert hidden.requires_grad
    weights = count_parameters(config).total * (16 if precision == "float32" else 18)
    predicted = training_memory_bytes(config, 4, 128, precision) - weights
    copies = sum(p.numel() * 2 for p in model.parameters() if p.dim() == 2) if precision == "bfloat16" else 0
    assert 1 / 1.35 < predicted / (sum(kept.values()) - copies) < 1.35
