"""The forward pass of a model as flat pseudo-code with what each line costs, from the config alone. Imports no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from groundup.core.errors import ModelError
from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    FilePartConfig,
    HeadsConfig,
    LayerConfig,
    TransformerConfig,
    divisors,
)
from groundup.model.counts import heads_parameters, seen_keys
from groundup.model.explain_lines import Cost, Lines, Row, total_cost

Dtype = Literal["bfloat16", "float16", "float32", "float64"]
BYTES: dict[Dtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
DEFAULT_CONTEXT = 4096
DEFAULT_WINDOW = 1024
# Published models have some 1e12 parameters; a config.json may say anything, and its numbers are to fit a column.
MAX_SIZE = 10**14


@dataclass(frozen=True, kw_only=True)
class Block:
    """Lines that stand together: the embedding, a layer and those equal to it, the output.

    Attributes:
        name: `embedding`, `layer` or `output`.
        rows: of one layer.
        layers: first and last index of each run of equal layers; empty outside of the layers.
        about: what these layers do, in words.
        dimensions: letters of the rows whose values belong to these layers.
    """

    name: str
    rows: tuple[Row, ...]
    layers: tuple[tuple[int, int], ...]
    about: str
    dimensions: dict[str, int]

    @property
    def times(self) -> int:
        """How often the lines run in one forward."""
        return sum(last - first + 1 for first, last in self.layers) if self.layers else 1

    @property
    def cost(self) -> Cost:
        """Of the lines run once."""
        return total_cost((1, row) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A model's forward.

    Attributes:
        context: tokens in a text; what attention costs depends on it.
        memory_length: vectors that cross-attention reads, 0 without one.
        dtype: of the weights and the cache.
        dimensions: letters whose values belong to the whole model.
        blocks: embedding, layers and output, in the order of the forward.
        definitions: names in the lines -> what they stand for.
        unknown: parts from files, whose cost no sum holds.
    """

    context: int
    memory_length: int
    dtype: Dtype
    dimensions: dict[str, int]
    blocks: tuple[Block, ...]
    definitions: dict[str, str]
    unknown: tuple[str, ...]

    @property
    def cost(self) -> Cost:
        """Of the whole model."""
        return total_cost((block.times, block.cost) for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The self-attention of a model with other heads or another window; the rest of the model stays.

    Attributes:
        name: `MHA`, `GQA`, `MQA`, `window`, or `own` for a model that is none of the first three.
        key_value_heads: of its layers, ascending.
        windows: of its layers, ascending; empty where all see everything.
        is_own: True for the model as it is.
        parameters: of all attention layers, their query and key norms included.
        flops: per token at the context, of all attention layers.
        kv_bytes: that each token adds to the cache.
        kv_bytes_at_context: that a text of the context's length needs.
    """

    name: str
    key_value_heads: tuple[int, ...]
    windows: tuple[int, ...]
    is_own: bool
    parameters: int
    flops: int
    kv_bytes: int
    kv_bytes_at_context: int


def explain(
    config: TransformerConfig,
    *,
    context: int | None = None,
    memory_length: int | None = None,
    dtype: Dtype = "bfloat16",
) -> Explanation:
    """Write down the forward pass of a model.

    Args:
        config: the model.
        context: tokens in a text; max_position_embeddings where not given, and 4,096 at most.
        memory_length: vectors that cross-attention reads; as many as the context where not given.
        dtype: of the weights and the cache.

    Raises:
        ModelError: for sizes that no machine could hold.
    """
    context = context or default_context(config)
    has_cross = any(layer.cross_attention is not None for _, layer in config.stack)
    memory_length = (context if memory_length is None else memory_length) if has_cross else 0
    lines = Lines(config.hidden_size, context, memory_length, BYTES[dtype])
    blocks = [_block("embedding", lines.embedding(config))]
    for layer, runs in _equal_layers(config):
        blocks.append(_block("layer", lines.layer(layer), runs, _about(layer), _dimensions(layer, config.hidden_size)))
    output = lines.output(config)
    blocks += [_block("output", output)] if output else []
    dimensions = {"S": context, "D": config.hidden_size, "V": config.vocab_size, "L": config.num_hidden_layers}
    files = [layer.mixer for _, layer in config.stack if isinstance(layer.mixer, FilePartConfig)]
    explanation = Explanation(
        context=context,
        memory_length=memory_length,
        dtype=dtype,
        dimensions=dimensions | ({"M": memory_length} if has_cross else {}),
        blocks=tuple(blocks),
        definitions=lines.definitions,
        unknown=tuple(dict.fromkeys(f"{part.name!r} of {part.path!r}" for part in files)),
    )
    _check_size("parameters", explanation.cost.parameters)
    _check_size("operations per token", explanation.cost.flops)
    _check_size("tokens (max_position_embeddings)", config.max_position_embeddings)
    return explanation


def default_context(config: TransformerConfig) -> int:
    """Tokens to count with: as many as the model takes, and no more than 4,096."""
    cut = None if config.pooling is None else config.pooling.max_length  # where an encoder cuts texts
    return min(config.max_position_embeddings, cut or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def kv_cache_bytes(config: TransformerConfig, num_tokens: int, dtype: Dtype = "bfloat16") -> int:
    """Bytes of the keys and values that the token after a text of `num_tokens` can still see.

    Layers with a window need no more than the window and its sinks; parts from files count nothing.
    """
    kept = (times * _kv_values(layer) * _seen(layer, num_tokens) for times, layer in config.stack)
    return BYTES[dtype] * sum(kept)


def compare_attention(
    config: TransformerConfig, *, context: int | None = None, dtype: Dtype = "bfloat16"
) -> tuple[Variant, ...]:
    """The model's attention beside what it could be: multi-head, grouped-query, multi-query, and with a window.

    The first three see everything; grouped-query has the model's own groups, or about four heads to a group. The one
    with a window has the model's own heads and its own windows, or 1,024 tokens in every layer (a quarter of the
    context where that is shorter).

    Args:
        config: the model; parts from files and cross-attention are left out.
        context: tokens in a text, as in `explain`.
        dtype: of the cache.
    """
    context = context or default_context(config)
    mixers = [layer.mixer for _, layer in config.stack if isinstance(layer.mixer, AttentionConfig)]
    if not mixers:
        return ()
    window = DEFAULT_WINDOW if context > DEFAULT_WINDOW else max(1, context // 4)
    has_window = any(mixer.sliding_window for mixer in mixers)

    def full(mixer: AttentionConfig, key_value_heads: int) -> AttentionConfig:
        changes = {"num_key_value_heads": key_value_heads, "sliding_window": None, "num_sink_tokens": 0}
        return mixer.model_copy(update=changes)

    def windowed(mixer: AttentionConfig) -> AttentionConfig:
        return mixer if has_window or not mixer.is_causal else mixer.model_copy(update={"sliding_window": window})

    changes: dict[str, Callable[[AttentionConfig], AttentionConfig]] = {
        "MHA": lambda mixer: full(mixer, mixer.num_attention_heads),
        "GQA": lambda mixer: full(mixer, _grouped(mixer)),
        "MQA": lambda mixer: full(mixer, 1),
        **({} if has_window else {"own": lambda mixer: mixer}),
        "window": windowed,
    }
    variants: dict[str, tuple[tuple[int, LayerConfig], ...]] = {}
    for name, change in changes.items():
        stack = tuple((times, _with_mixer(layer, change)) for times, layer in config.stack)
        # Two heads have no groups between all and one, and attention in both directions has no window.
        if stack not in variants.values():
            variants[name] = stack
    return tuple(_variant(name, config, stack, context, dtype) for name, stack in variants.items())


def _variant(
    name: str, own: TransformerConfig, stack: tuple[tuple[int, LayerConfig], ...], context: int, dtype: Dtype
) -> Variant:
    lines = Lines(own.hidden_size, context, 0, BYTES[dtype])
    cost, mixers = Counter[str](), list[AttentionConfig]()
    for times, layer in stack:
        if isinstance(layer.mixer, AttentionConfig):
            mixers.append(layer.mixer)
            cost["parameters"] += times * heads_parameters(layer.mixer, own.hidden_size)
            cost["flops"] += times * sum(row.flops for row in lines.attention(layer, layer.mixer, "x"))
            cost["kv_bytes"] += times * _kv_values(layer) * BYTES[dtype]
    return Variant(
        name=name,
        key_value_heads=tuple(sorted({mixer.num_key_value_heads for mixer in mixers})),
        windows=tuple(sorted({mixer.sliding_window for mixer in mixers if mixer.sliding_window is not None})),
        is_own=stack == own.stack,
        kv_bytes_at_context=kv_cache_bytes(own.model_copy(update={"stack": stack}), context, dtype),
        **cost,
    )


def _with_mixer(layer: LayerConfig, change: Callable[[AttentionConfig], AttentionConfig]) -> LayerConfig:
    if not isinstance(layer.mixer, AttentionConfig):
        return layer
    return layer.model_copy(update={"mixer": change(layer.mixer)})


def _grouped(mixer: AttentionConfig) -> int:
    """Key-value heads between 1 and all: the model's own, else those nearest to a quarter; all where none fit."""
    heads, own = mixer.num_attention_heads, mixer.num_key_value_heads
    between = [own] if 1 < own < heads else divisors(heads)[1:-1]
    return min(between, key=lambda number: abs(number - heads / 4), default=heads)


def _kv_values(layer: LayerConfig) -> int:
    """Values that a token adds to the cache of a layer; attention in both directions has no cache."""
    mixer = layer.mixer
    if not isinstance(mixer, AttentionConfig) or not mixer.is_causal:
        return 0
    return 2 * mixer.num_key_value_heads * mixer.head_dim


def _seen(layer: LayerConfig, context: int) -> int:
    return seen_keys(layer.mixer, context) if isinstance(layer.mixer, AttentionConfig) else 0


def _block(
    name: str,
    rows: list[Row],
    layers: tuple[tuple[int, int], ...] = (),
    about: str = "",
    dimensions: dict[str, int] | None = None,
) -> Block:
    return Block(name=name, rows=tuple(rows), layers=layers, about=about, dimensions=dimensions or {})


def _equal_layers(config: TransformerConfig) -> list[tuple[LayerConfig, tuple[tuple[int, int], ...]]]:
    """Each different layer with the runs of indices where it stands, by its first index."""
    layers: dict[str, LayerConfig] = {}
    runs: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for times, layer in config.stack:
        key = repr(layer)
        layers.setdefault(key, layer)
        known = runs.setdefault(key, [])
        if known and known[-1][1] == start - 1:
            known[-1] = (known[-1][0], start + times - 1)
        else:
            known.append((start, start + times - 1))
        start += times
    return [(layer, tuple(runs[key])) for key, layer in layers.items()]


def _dimensions(layer: LayerConfig, hidden_size: int) -> dict[str, int]:
    """The letters of one layer; those of its cross-attention have a prime."""
    found: dict[str, int] = {}
    for heads, prime in ((layer.mixer, ""), (layer.cross_attention, "'")):
        if isinstance(heads, HeadsConfig):
            sizes = {"H": heads.num_attention_heads, "K": heads.num_key_value_heads, "d": heads.head_dim}
            found |= {letter + prime: size for letter, size in sizes.items()}
        if isinstance(heads, CrossAttentionConfig):
            found["E"] = heads.memory_size or hidden_size
    return found | {"F": layer.mlp.intermediate_size}


def _about(layer: LayerConfig) -> str:
    mixer = layer.mixer
    if isinstance(mixer, FilePartConfig):
        return f"a part from the file {mixer.path!r}"
    heads, key_value_heads = mixer.num_attention_heads, mixer.num_key_value_heads
    kind = f"grouped-query attention, {heads // key_value_heads} query heads to a key-value head"
    if key_value_heads == heads:
        kind = "multi-head attention"
    elif key_value_heads == 1:
        kind = f"multi-query attention, {heads} query heads to one key-value head"
    if not mixer.is_causal:
        return f"{kind}, every token sees all"
    if mixer.sliding_window is None:
        return kind
    sinks = f" and the first {mixer.num_sink_tokens:,}" if mixer.num_sink_tokens else ""
    return f"{kind}, window of {mixer.sliding_window:,} tokens{sinks}"


def _check_size(name: str, size: int) -> None:
    if size > MAX_SIZE:
        raise ModelError(
            f"this model has about 1e{int(math.log10(size))} {name}, and up to 1e{int(math.log10(MAX_SIZE))} are explained: "
            "a size in its config is wrong"
        )
