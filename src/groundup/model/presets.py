"""Families of models as presets: each takes Hugging Face's field names and returns a typed composition.

The defaults are those of the smallest published model of the family (GPT-2 124M, Llama 3.2 1B, Qwen3 0.6B), except
that num_key_value_heads follows num_attention_heads unless it is given (the two publish 8).
Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from groundup.core.errors import ConfigError, suggest
from groundup.model.config import (
    Activation,
    AttentionConfig,
    DenseMLPConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    RMSNormConfig,
    RotaryConfig,
    TransformerConfig,
)


def gpt2(
    *,
    vocab_size: int = 50257,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int | None = None,
    max_position_embeddings: int = 1024,
    hidden_act: Activation = "gelu_new",
    layer_norm_epsilon: float = 1e-5,
    tie_word_embeddings: bool = True,
    initializer_range: float = 0.02,
    bos_token_id: int | None = None,
    eos_token_id: int | tuple[int, ...] | None = None,
    pad_token_id: int | None = None,
) -> TransformerConfig:
    """GPT-2 (Radford et al. 2019): learned positions, layer norms before each branch, dense MLP, biases."""
    norm = LayerNormConfig(layer_norm_epsilon=layer_norm_epsilon)
    head_dim = _split(hidden_size, num_attention_heads)
    layer = LayerConfig(
        mixer=AttentionConfig(
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_attention_heads,
            head_dim=head_dim,
            qkv_bias=True,
            output_bias=True,
        ),
        mlp=DenseMLPConfig(intermediate_size=intermediate_size or 4 * hidden_size, activation=hidden_act),
        norm=norm,
    )
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_position_embeddings=max_position_embeddings,
        stack=((num_hidden_layers, layer),),
        positions=LearnedPositionsConfig(),
        final_norm=norm,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        initializer_range=initializer_range,
    )


def llama3(
    *,
    vocab_size: int = 128256,
    hidden_size: int = 2048,
    num_hidden_layers: int = 16,
    num_attention_heads: int = 32,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int = 8192,
    max_position_embeddings: int = 8192,
    hidden_act: Activation = "silu",
    rms_norm_eps: float = 1e-5,
    rope_theta: float = 500_000.0,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    tie_word_embeddings: bool = True,
    initializer_range: float = 0.02,
    bos_token_id: int | None = None,
    eos_token_id: int | tuple[int, ...] | None = None,
    pad_token_id: int | None = None,
    qk_norm: bool = False,
) -> TransformerConfig:
    """Llama 3 (Dubey et al. 2024, arXiv:2407.21783): rotary, grouped queries, RMS norms, gated MLP, no biases."""
    norm = RMSNormConfig(rms_norm_eps=rms_norm_eps)
    head_dim = head_dim or _split(hidden_size, num_attention_heads)
    layer = LayerConfig(
        mixer=AttentionConfig(
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads or num_attention_heads,
            head_dim=head_dim,
            rotary=RotaryConfig(rope_theta=rope_theta),
            qk_norm=norm if qk_norm else None,
            qkv_bias=attention_bias,
            output_bias=attention_bias,
        ),
        mlp=GatedMLPConfig(intermediate_size=intermediate_size, activation=hidden_act, bias=mlp_bias),
        norm=norm,
    )
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_position_embeddings=max_position_embeddings,
        stack=((num_hidden_layers, layer),),
        final_norm=norm,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        initializer_range=initializer_range,
    )


def qwen3(
    *,
    vocab_size: int = 151936,
    hidden_size: int = 1024,
    num_hidden_layers: int = 28,
    num_attention_heads: int = 16,
    num_key_value_heads: int | None = None,
    head_dim: int = 128,
    intermediate_size: int = 3072,
    max_position_embeddings: int = 40960,
    hidden_act: Activation = "silu",
    rms_norm_eps: float = 1e-6,
    rope_theta: float = 1_000_000.0,
    attention_bias: bool = False,
    tie_word_embeddings: bool = True,
    initializer_range: float = 0.02,
    bos_token_id: int | None = None,
    eos_token_id: int | tuple[int, ...] | None = None,
    pad_token_id: int | None = None,
) -> TransformerConfig:
    """Qwen 3 (Yang et al. 2025, arXiv:2505.09388): Llama's layer with a norm on each query and key head."""
    return llama3(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_position_embeddings,
        hidden_act=hidden_act,
        rms_norm_eps=rms_norm_eps,
        rope_theta=rope_theta,
        attention_bias=attention_bias,
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=initializer_range,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        qk_norm=True,
    )


PRESETS: dict[str, Callable[..., TransformerConfig]] = {"gpt2": gpt2, "llama3": llama3, "qwen3": qwen3}


def preset(name: str, **fields: Any) -> TransformerConfig:
    """Return the config of a named family, with any of its fields changed.

    Args:
        name: `gpt2`, `llama3` or `qwen3`.
        fields: Hugging Face's field names (`hidden_size`, `num_hidden_layers`, ...), for every family the same.

    Raises:
        ConfigError: for an unknown family or field (the nearest name is suggested) or a value that does not fit.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset named {name!r}{suggest(name, tuple(PRESETS))}")
    known = tuple(inspect.signature(PRESETS[name]).parameters)
    for field in fields:
        if field not in known:
            raise ConfigError(f"the preset {name!r} has no field {field!r}{suggest(field, known)}")
    return PRESETS[name](**fields)


def _split(hidden_size: int, num_attention_heads: int) -> int:
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_attention_heads}), "
            "unless the family has a head_dim of its own"
        )
    return hidden_size // num_attention_heads
