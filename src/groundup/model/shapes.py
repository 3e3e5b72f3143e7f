"""The shape of every parameter, from a config alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from groundup.core.errors import ModelError
from groundup.model.config import (
    AttentionConfig,
    FilePartConfig,
    GatedMLPConfig,
    HeadsConfig,
    LayerConfig,
    LayerNormConfig,
    Norm,
    TransformerConfig,
)

Shape = tuple[int, ...]


def parameter_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """The names and shapes of `Transformer.state_dict`, in its order, without making the model.

    Raises:
        ModelError: for a part of kind `file`, whose parameters only the built module knows.
    """
    return dict(_parameters(config))


def _parameters(config: TransformerConfig) -> Iterator[tuple[str, Shape]]:
    width = config.hidden_size
    yield "embed.weight", (config.vocab_size, width)
    if config.positions is not None:
        yield "embed_positions.weight", (config.max_position_embeddings, width)
    if config.type_vocab_size:
        yield "embed_types.weight", (config.type_vocab_size, width)
    yield from _norm("embed_norm", config.embedding_norm, width)
    for index, layer in enumerate(config.layers()):
        yield from _layer(f"layers.{index}", layer, width)
    yield from _norm("final_norm", config.final_norm, width)
    if config.has_head and not config.tie_word_embeddings:
        yield "head.weight", (config.vocab_size, width)


def _layer(name: str, layer: LayerConfig, width: int) -> Iterator[tuple[str, Shape]]:
    if isinstance(layer.mixer, FilePartConfig):
        raise ModelError(
            f"the parameters of the part {layer.mixer.name!r} in {layer.mixer.path} cannot be known from the config: "
            "build the model"
        )
    has_second = layer.placement == "sandwich"
    yield from _norm(f"{name}.attn_norm", layer.norm, width)
    yield from _heads(f"{name}.attn", layer.mixer, width, width)
    yield from _norm(f"{name}.attn_post_norm", layer.norm if has_second else None, width)
    if layer.cross_attention is not None:
        yield from _norm(f"{name}.cross_attn_norm", layer.norm, width)
        yield from _heads(
            f"{name}.cross_attn", layer.cross_attention, width, layer.cross_attention.memory_size or width
        )
        yield from _norm(f"{name}.cross_attn_post_norm", layer.norm if has_second else None, width)
    yield from _norm(f"{name}.mlp_norm", layer.norm, width)
    inner = layer.mlp.intermediate_size
    for part in ("gate", "up") if isinstance(layer.mlp, GatedMLPConfig) else ("up",):
        yield from _linear(f"{name}.mlp.{part}_proj", width, inner, layer.mlp.bias)
    yield from _linear(f"{name}.mlp.down_proj", inner, width, layer.mlp.bias)
    yield from _norm(f"{name}.mlp_post_norm", layer.norm if has_second else None, width)


def _heads(name: str, heads: HeadsConfig, width: int, memory: int) -> Iterator[tuple[str, Shape]]:
    query, key = (count * heads.head_dim for count in (heads.num_attention_heads, heads.num_key_value_heads))
    if isinstance(heads, AttentionConfig) and heads.sink_logits:
        yield f"{name}.sink_logits", (heads.num_attention_heads,)
    yield from _linear(f"{name}.q_proj", width, query, heads.qkv_bias)
    yield from _linear(f"{name}.k_proj", memory, key, heads.qkv_bias)
    yield from _linear(f"{name}.v_proj", memory, key, heads.qkv_bias)
    yield from _linear(f"{name}.o_proj", query, width, heads.output_bias)
    sizes = (query, key) if heads.qk_norm_scope == "all" else (heads.head_dim, heads.head_dim)
    yield from _norm(f"{name}.q_norm", heads.qk_norm, sizes[0])
    yield from _norm(f"{name}.k_norm", heads.qk_norm, sizes[1])


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, norm: Norm | None, size: int) -> Iterator[tuple[str, Shape]]:
    if norm is not None:
        yield f"{name}.weight", (size,)
        if isinstance(norm, LayerNormConfig) and norm.bias:
            yield f"{name}.bias", (size,)
