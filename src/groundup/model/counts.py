"""Parameters, operations and memory of a model, from its config alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from groundup.core.errors import ModelError
from groundup.core.execution import Precision
from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    FilePartConfig,
    GatedMLPConfig,
    HeadsConfig,
    LayerConfig,
    LayerNormConfig,
    Norm,
    TransformerConfig,
)

FilePartCount = Callable[[FilePartConfig], int]


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters; a tied head counts once.

    Attributes:
        total: all of them.
        embedding: the tables of tokens, learned positions and kinds of text.
        non_embedding: the rest, an untied head included.
    """

    total: int
    embedding: int
    non_embedding: int


def count_parameters(config: TransformerConfig, *, file_part: FilePartCount | None = None) -> Counts:
    """Count what the built module has.

    Args:
        config: the model.
        file_part: gives the parameters of a part of kind `file`, which only the built module knows.

    Raises:
        ModelError: for a part of kind `file` without `file_part`.
    """
    embedding = config.vocab_size * config.hidden_size
    if config.positions is not None:
        embedding += config.max_position_embeddings * config.hidden_size
    embedding += config.type_vocab_size * config.hidden_size
    rest = config.vocab_size * config.hidden_size if config.has_head and not config.tie_word_embeddings else 0
    rest += norm_parameters(config.final_norm, config.hidden_size)
    rest += norm_parameters(config.embedding_norm, config.hidden_size)
    for layer in config.layers():
        width = config.hidden_size
        branches = 2 if layer.cross_attention is None else 3
        norms = branches * (2 if layer.placement == "sandwich" else 1)
        rest += norms * norm_parameters(layer.norm, width) + mlp_parameters(layer, width)
        if isinstance(layer.mixer, FilePartConfig) and file_part is not None:
            rest += file_part(layer.mixer)
        rest += sum(heads_parameters(heads, width) for heads in _heads(layer, skip_file=file_part is not None))
    return Counts(embedding + rest, embedding, rest)


def heads_parameters(heads: HeadsConfig, width: int) -> int:
    """Parameters of an attention: projections, biases, query and key norms, sinks."""
    key_size = heads.num_key_value_heads * heads.head_dim
    sizes = (
        (heads.num_attention_heads * heads.head_dim, key_size)
        if heads.qk_norm_scope == "all"
        else (heads.head_dim,) * 2
    )
    norms = sum(norm_parameters(heads.qk_norm, size) for size in sizes)
    sinks = heads.num_attention_heads if isinstance(heads, AttentionConfig) and heads.sink_logits else 0
    return _head_weights(heads, width) + _head_biases(heads, width) + norms + sinks


def mlp_parameters(layer: LayerConfig, width: int) -> int:
    """Parameters of a layer's MLP, biases included."""
    return _mlp_weights(layer, width) + _mlp_biases(layer, width)


def flops_per_token(
    config: TransformerConfig, context: int, *, memory_length: int = 0, file_part: FilePartCount | None = None
) -> int:
    """Floating-point operations of one token's forward; training takes three times as many.

    A matrix product counts two per weight and token. Attention is counted over the whole context, causal or not
    (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B), so that shares of the peak compare with published
    ones; with a sliding window no more than the window (and its sinks) is counted. Norms, activations and rotations
    are left out.

    Args:
        config: the model.
        context: tokens in a sequence.
        memory_length: vectors that cross-attention reads.
        file_part: gives the operations per token of a part of kind `file`.

    Raises:
        ModelError: for a part of kind `file` without `file_part`.
    """
    operations = 2 * config.vocab_size * config.hidden_size if config.has_head else 0  # tied or not
    for layer in config.layers():
        operations += 2 * _mlp_weights(layer, config.hidden_size)
        if isinstance(layer.mixer, FilePartConfig) and file_part is not None:
            operations += file_part(layer.mixer)
        for heads in _heads(layer, skip_file=file_part is not None):
            query_width = heads.num_attention_heads * heads.head_dim
            if isinstance(heads, CrossAttentionConfig):
                width = heads.memory_size or config.hidden_size
                from_memory = 2 * width * heads.num_key_value_heads * heads.head_dim
                from_tokens = _head_weights(heads, config.hidden_size) - from_memory
                operations += 2 * from_tokens + 2 * from_memory * memory_length // context
                operations += 4 * query_width * memory_length
            else:
                seen = seen_keys(heads, context)
                operations += 2 * _head_weights(heads, config.hidden_size) + 4 * query_width * seen
    return operations


def seen_keys(heads: HeadsConfig, context: int) -> int:
    """Most keys that one query of self-attention sees in a text of `context` tokens."""
    if not isinstance(heads, AttentionConfig) or heads.sliding_window is None:
        return context
    return min(context, heads.sliding_window + heads.num_sink_tokens)


def training_memory_bytes(
    config: TransformerConfig, micro_batch: int, context: int, precision: Precision, *, stores_pattern: bool = False
) -> int:
    """Peak bytes of one training process, without those of the interpreter and its libraries.

    parameters x 16 (float32 value, gradient and AdamW's two moments), x 18 in bfloat16 (a copy for the products),
    plus what the forward keeps for the backward: per token and layer, with products of p bytes per value,

        8 D                        inputs of the two norms (float32)
        p (2 D + 2 Q + 2 KV)       inputs of the projections, queries and output of attention, keys and values
        p (Q + KV)                 queries and keys before their norm, if they have one
        p 4 F  or  p 2 F           gated or dense MLP
        H S (4, p if p < 4, p with a cap) + 2 p Q
                                   where a cap or a learned sink keeps attention off the fused kernel: the scores of
                                   H heads in a context of S tokens, and keys and values repeated for each head
        p H S / 2                  the pattern, where the plan stores it (`attention_stored`)

    with D the width, Q = heads x d, KV = key-value heads x d, F the MLP's width, and 16 D outside the layers. The
    largest temporary of the backward (one gated MLP, or the scores of a layer) is added once. Logits are left out:
    they exist in pieces.

    Args:
        config: the model.
        micro_batch: sequences in one forward and backward.
        context: tokens in a sequence.
        precision: of the matrix products.
        stores_pattern: attention is stored for the backward pass.
    """
    size = 4 if precision == "float32" else 2
    weights = count_parameters(config).total * (16 if precision == "float32" else 18)
    per_token, widest = 16 * config.hidden_size, 0
    for layer in config.layers():
        kept = 8 * config.hidden_size + size * 2 * config.hidden_size
        for heads in _heads(layer):
            query = heads.num_attention_heads * heads.head_dim
            key = heads.num_key_value_heads * heads.head_dim
            kept += size * ((2 * query + 2 * key) + (query + key if heads.qk_norm is not None else 0))
            scores = _score_bytes(heads, context, size)
            if scores:
                kept += scores + 2 * size * query
                widest = max(widest, 4 * heads.num_attention_heads * context)
            elif stores_pattern and isinstance(heads, AttentionConfig) and seen_keys(heads, context) == context:
                kept += size * heads.num_attention_heads * context // 2
        mlp = (4 if isinstance(layer.mlp, GatedMLPConfig) else 2) * layer.mlp.intermediate_size
        per_token += kept + size * mlp
        widest = max(widest, size * mlp)
    return weights + micro_batch * context * (per_token + widest)


def _score_bytes(heads: HeadsConfig, context: int, size: int) -> int:
    """Bytes per token that explicit attention keeps of its scores; none for the fused kernel.

    The softmax is kept in float32 and, for the product with narrower values, rounded; under a cap the tanh too.
    """
    if not isinstance(heads, AttentionConfig) or (heads.attn_logit_softcapping is None and not heads.sink_logits):
        return 0
    each = 4 + (size if size < 4 else 0) + (size if heads.attn_logit_softcapping is not None else 0)
    return heads.num_attention_heads * context * each


def _heads(layer: LayerConfig, *, skip_file: bool = False) -> list[HeadsConfig]:
    cross = [] if layer.cross_attention is None else [layer.cross_attention]
    if not isinstance(layer.mixer, AttentionConfig):
        if skip_file:
            return [*cross]
        raise ModelError(
            f"the parameters of the part {layer.mixer.name!r} in {layer.mixer.path} cannot be counted from the config: "
            "build the model and count those of the module"
        )
    return [layer.mixer, *cross]


def _head_weights(heads: HeadsConfig, width: int) -> int:
    memory = (heads.memory_size or width) if isinstance(heads, CrossAttentionConfig) else width
    return heads.head_dim * (2 * width * heads.num_attention_heads + 2 * memory * heads.num_key_value_heads)


def _head_biases(heads: HeadsConfig, width: int) -> int:
    projected = heads.head_dim * (heads.num_attention_heads + 2 * heads.num_key_value_heads)
    return projected * heads.qkv_bias + width * heads.output_bias


def _mlp_weights(layer: LayerConfig, width: int) -> int:
    return (3 if isinstance(layer.mlp, GatedMLPConfig) else 2) * width * layer.mlp.intermediate_size


def _mlp_biases(layer: LayerConfig, width: int) -> int:
    inner = (2 if isinstance(layer.mlp, GatedMLPConfig) else 1) * layer.mlp.intermediate_size
    return (inner + width) * layer.mlp.bias


def norm_parameters(norm: Norm | None, size: int) -> int:
    """Parameters of a norm over `size` values, 0 for none."""
    if norm is None:
        return 0
    return 2 * size if isinstance(norm, LayerNormConfig) and norm.bias else size
