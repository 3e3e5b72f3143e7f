"""Families of models as presets: each takes Hugging Face's field names and returns a typed composition.

The defaults are those of a small published model of the family, named in its docstring; where num_attention_heads is
given and num_key_value_heads is not, there are as many. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from groundup.core.config import Config
from groundup.core.errors import ConfigError, suggest
from groundup.model.config import (
    Activation,
    AttentionConfig,
    DenseMLPConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    PoolingConfig,
    RMSNormConfig,
    RotaryConfig,
    RotaryScaling,
    TransformerConfig,
    check_depth,
    stack_of,
)

FULL, SLIDING = "full_attention", "sliding_attention"


class Whole(TypedDict, total=False):
    """Fields of the whole model that every family has."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    initializer_range: float
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    pad_token_id: int | None


class Heads(TypedDict, total=False):
    """Fields of a layer with rotary grouped-query attention and a gated MLP, which most decoders share."""

    num_attention_heads: int
    num_key_value_heads: int | None
    head_dim: int | None
    intermediate_size: int
    hidden_act: Activation
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RotaryScaling | Mapping[str, Any] | None


class Decoder(Whole, Heads, total=False):
    """Fields of a whole decoder of such layers."""

    num_hidden_layers: int


def _decoder(
    fields: Decoder,
    defaults: Decoder,
    change: Callable[[int, LayerConfig], LayerConfig] = lambda index, layer: layer,
    **whole: Any,
) -> TransformerConfig:
    """A decoder of `llama_layer`s.

    Args:
        fields: what the caller gave.
        defaults: of the family.
        change: what the family makes of layer `index`.
        whole: further fields of the TransformerConfig.
    """
    given: dict[str, Any] = {**defaults, **fields}
    if "num_attention_heads" in fields and "num_key_value_heads" not in fields:
        given["num_key_value_heads"] = None
    layer = llama_layer(given["hidden_size"], **{key: given[key] for key in Heads.__annotations__ if key in given})
    check_depth(given["num_hidden_layers"])
    layers = [change(index, layer) for index in range(given["num_hidden_layers"])]
    return TransformerConfig(
        stack=stack_of(layers),
        final_norm=layer.norm,
        **{key: given[key] for key in Whole.__annotations__ if key in given},
        **whole,
    )


def llama_layer(hidden_size: int, **fields: Unpack[Heads]) -> LayerConfig:
    """Llama's layer (Touvron et al. 2023, arXiv:2302.13971): rotary attention, gated MLP, RMS norms before each."""
    heads = fields["num_attention_heads"]
    return LayerConfig(
        mixer=AttentionConfig(
            num_attention_heads=heads,
            num_key_value_heads=fields.get("num_key_value_heads") or heads,
            head_dim=fields.get("head_dim") or _split(hidden_size, heads),
            rotary=RotaryConfig(rope_theta=fields.get("rope_theta", 10_000.0), scaling=fields.get("rope_scaling")),
        ),
        mlp=GatedMLPConfig(intermediate_size=fields["intermediate_size"], activation=fields.get("hidden_act", "silu")),
        norm=RMSNormConfig(rms_norm_eps=fields.get("rms_norm_eps", 1e-6)),
    )


def _changed(layer: LayerConfig, **mixer: Any) -> LayerConfig:
    """A copy of a layer with other fields of its mixer."""
    plain = {key: value.to_dict() if isinstance(value, Config) else value for key, value in mixer.items()}
    return layer.replace(mixer=plain)


def gpt2(
    *,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int | None = None,
    hidden_act: Activation = "gelu_new",
    layer_norm_epsilon: float = 1e-5,
    **whole: Unpack[Whole],
) -> TransformerConfig:
    """GPT-2 124M (Radford et al. 2019): learned positions, layer norms before each branch, dense MLP, biases."""
    defaults = Whole(vocab_size=50257, hidden_size=768, max_position_embeddings=1024, tie_word_embeddings=True)
    given = Whole(**{**defaults, **whole})
    width, norm = given["hidden_size"], LayerNormConfig(layer_norm_epsilon=layer_norm_epsilon)
    layer = LayerConfig(
        mixer=AttentionConfig(
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_attention_heads,
            head_dim=_split(width, num_attention_heads),
            qkv_bias=True,
            output_bias=True,
        ),
        mlp=DenseMLPConfig(intermediate_size=intermediate_size or 4 * width, activation=hidden_act),
        norm=norm,
    )
    return TransformerConfig(
        stack=((num_hidden_layers, layer),), positions=LearnedPositionsConfig(), final_norm=norm, **given
    )


def llama3(
    *, attention_bias: bool = False, mlp_bias: bool = False, qk_norm: bool = False, **fields: Unpack[Decoder]
) -> TransformerConfig:
    """Llama 1 to 3.2, here 3.2 1B without its rotary scaling (Grattafiori et al. 2024, arXiv:2407.21783).

    TinyLlama and SmolLM2 are Llamas too.
    """
    defaults = Decoder(
        vocab_size=128256,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
    )

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        norm = layer.norm if qk_norm else None
        layer = layer.replace(mlp={"bias": mlp_bias})
        return _changed(layer, qkv_bias=attention_bias, output_bias=attention_bias, qk_norm=norm)

    return _decoder(fields, defaults, change)


def mistral(*, sliding_window: int | None = 4096, **fields: Unpack[Decoder]) -> TransformerConfig:
    """Mistral 7B v0.1 (Jiang et al. 2023, arXiv:2310.06825): Llama's layer that sees a window."""
    defaults = Decoder(
        vocab_size=32000,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
    )
    return _decoder(fields, defaults, lambda index, layer: _changed(layer, sliding_window=sliding_window))


def qwen2(
    *,
    sliding_window: int | None = None,
    layer_types: Sequence[str] | None = None,
    **fields: Unpack[Decoder],
) -> TransformerConfig:
    """Qwen 2 and 2.5, here 0.5B (Yang et al. 2024, arXiv:2407.10671): Llama's layer with biases on q, k and v."""
    defaults = Decoder(
        vocab_size=151936,
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        max_position_embeddings=32768,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
    )
    window = _windows(sliding_window, layer_types, lambda index: False)
    return _decoder(fields, defaults, lambda index, layer: _changed(layer, qkv_bias=True, sliding_window=window(index)))


def qwen3(
    *,
    attention_bias: bool = False,
    sliding_window: int | None = None,
    layer_types: Sequence[str] | None = None,
    **fields: Unpack[Decoder],
) -> TransformerConfig:
    """Qwen 3 0.6B (Yang et al. 2025, arXiv:2505.09388): Llama's layer with a norm on each query and key head."""
    defaults = Decoder(
        vocab_size=151936,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=40960,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
    )
    window = _windows(sliding_window, layer_types, lambda index: False)

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        bias = {"qkv_bias": attention_bias, "output_bias": attention_bias}
        return _changed(layer, qk_norm=layer.norm, sliding_window=window(index), **bias)

    return _decoder(fields, defaults, change)


def gemma2(
    *,
    attention_bias: bool = False,
    query_pre_attn_scalar: int | float = 256,
    sliding_window: int | None = 4096,
    layer_types: Sequence[str] | None = None,
    attn_logit_softcapping: int | float | None = 50.0,
    final_logit_softcapping: int | float | None = 30.0,
    **fields: Unpack[Decoder],
) -> TransformerConfig:
    """Gemma 2 2B (Riviere et al. 2024, arXiv:2408.00118): sandwich norms, GeGLU, caps, every second layer a window."""
    defaults = Decoder(
        vocab_size=256000,
        hidden_size=2304,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        intermediate_size=9216,
        max_position_embeddings=8192,
        hidden_act="gelu_new",
        tie_word_embeddings=True,
    )
    window = _windows(sliding_window, layer_types, lambda index: index % 2 == 0)
    bias = {"qkv_bias": attention_bias, "output_bias": attention_bias}
    capped = {"query_pre_attn_scalar": query_pre_attn_scalar, "attn_logit_softcapping": attn_logit_softcapping, **bias}
    return _gemma(
        fields,
        defaults,
        lambda index, layer: _changed(layer, sliding_window=window(index), **capped),
        final_logit_softcapping=final_logit_softcapping,
    )


def gemma3(
    *,
    attention_bias: bool = False,
    query_pre_attn_scalar: int | float = 256,
    sliding_window: int | None = 512,
    layer_types: Sequence[str] | None = None,
    rope_local_base_freq: int | float = 10_000.0,
    attn_logit_softcapping: int | float | None = None,
    final_logit_softcapping: int | float | None = None,
    **fields: Unpack[Decoder],
) -> TransformerConfig:
    """Gemma 3 1B, its text part (Kamath et al. 2025, arXiv:2503.19786): five windows to one full layer, query norms."""
    defaults = Decoder(
        vocab_size=262144,
        hidden_size=1152,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_size=6912,
        max_position_embeddings=32768,
        hidden_act="gelu_new",
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
    )
    window = _windows(sliding_window, layer_types, lambda index: (index + 1) % 6 != 0)
    bias = {"qkv_bias": attention_bias, "output_bias": attention_bias}
    capped = {"query_pre_attn_scalar": query_pre_attn_scalar, "attn_logit_softcapping": attn_logit_softcapping, **bias}

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        layer = _changed(layer, sliding_window=window(index), qk_norm=layer.norm, **capped)
        local = RotaryConfig(rope_theta=rope_local_base_freq)
        return layer if window(index) is None else _changed(layer, rotary=local)

    return _gemma(fields, defaults, change, final_logit_softcapping=final_logit_softcapping)


def _gemma(
    fields: Decoder, defaults: Decoder, change: Callable[[int, LayerConfig], LayerConfig], **whole: Any
) -> TransformerConfig:
    """What the Gemmas share: norms with a unit offset on both sides of a branch, and an embedding times sqrt(D)."""
    width = Decoder(**{**defaults, **fields})["hidden_size"]

    def sandwich(index: int, layer: LayerConfig) -> LayerConfig:
        return change(index, layer.replace(norm={"unit_offset": True}, placement="sandwich"))

    made = _decoder(fields, defaults, sandwich, embedding_multiplier=width**0.5, **whole)
    return made.model_copy(update={"final_norm": made.layers()[0].norm})


def olmo2(*, attention_bias: bool = False, **fields: Unpack[Decoder]) -> TransformerConfig:
    """OLMo 2 1B (OLMo team 2024, arXiv:2501.00656): norms after each branch, queries and keys normalised whole."""
    defaults = Decoder(
        vocab_size=100352,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=16,
        intermediate_size=8192,
        max_position_embeddings=4096,
        rope_theta=500_000.0,
    )

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        bias = {"qkv_bias": attention_bias, "output_bias": attention_bias}
        return _changed(layer.replace(placement="output"), qk_norm=layer.norm, qk_norm_scope="all", **bias)

    return _decoder(fields, defaults, change)


def smollm3(
    *,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    no_rope_layers: Sequence[int] | None = None,
    no_rope_layer_interval: int = 4,
    **fields: Unpack[Decoder],
) -> TransformerConfig:
    """SmolLM3 3B (Bakouch et al. 2025): Llama's layer, in every fourth without rotary positions (NoPE)."""
    defaults = Decoder(
        vocab_size=128256,
        hidden_size=2048,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        intermediate_size=11008,
        max_position_embeddings=65536,
        rope_theta=5_000_000.0,
        tie_word_embeddings=True,
    )

    def change(index: int, layer: LayerConfig) -> LayerConfig:
        layer = _changed(layer.replace(mlp={"bias": mlp_bias}), qkv_bias=attention_bias, output_bias=attention_bias)
        if no_rope_layers is not None and index >= len(no_rope_layers):
            raise ConfigError(f"no_rope_layers names {len(no_rope_layers)} layers, layer {index} is not among them")
        turns = (index + 1) % no_rope_layer_interval if no_rope_layers is None else no_rope_layers[index]
        return layer if turns else _changed(layer, rotary=None)

    return _decoder(fields, defaults, change)


def bert(
    *,
    num_hidden_layers: int = 6,
    num_attention_heads: int = 12,
    intermediate_size: int = 1536,
    hidden_act: Activation = "gelu",
    layer_norm_eps: float = 1e-12,
    type_vocab_size: int = 2,
    pooling: PoolingConfig | None = None,
    **whole: Unpack[Whole],
) -> TransformerConfig:
    """BERT (Devlin et al. 2018, arXiv:1810.04805) as an encoder, here MiniLM-L6: all tokens see each other, post norms."""
    defaults = Whole(vocab_size=30522, hidden_size=384, max_position_embeddings=512, tie_word_embeddings=False)
    given = Whole(**{**defaults, **whole})
    norm = LayerNormConfig(layer_norm_epsilon=layer_norm_eps)
    layer = LayerConfig(
        mixer=AttentionConfig(
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_attention_heads,
            head_dim=_split(given["hidden_size"], num_attention_heads),
            qkv_bias=True,
            output_bias=True,
            is_causal=False,
        ),
        mlp=DenseMLPConfig(intermediate_size=intermediate_size, activation=hidden_act),
        norm=norm,
        placement="post",
    )
    return TransformerConfig(
        stack=((num_hidden_layers, layer),),
        positions=LearnedPositionsConfig(),
        embedding_norm=norm,
        type_vocab_size=type_vocab_size,
        has_head=False,
        pooling=pooling,
        **given,
    )


PRESETS: dict[str, Callable[..., TransformerConfig]] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "olmo2": olmo2,
    "smollm3": smollm3,
    "bert": bert,
}


def preset(name: str, **fields: Any) -> TransformerConfig:
    """Return the config of a named family, with any of its fields changed.

    Args:
        name: one of `PRESETS`.
        fields: Hugging Face's field names (`hidden_size`, `num_hidden_layers`, ...), for every family the same.

    Raises:
        ConfigError: for an unknown family or field (the nearest name is suggested) or a value that does not fit.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset named {name!r}{suggest(name, tuple(PRESETS))}")
    known = preset_fields(PRESETS[name])
    for field in fields:
        if field not in known:
            raise ConfigError(f"the preset {name!r} has no field {field!r}{suggest(field, known)}")
    return PRESETS[name](**fields)


def preset_fields(make: Callable[..., TransformerConfig]) -> tuple[str, ...]:
    """The names of all fields that a preset takes."""
    own = list(inspect.signature(make).parameters.values())
    names = [p.name for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    kinds = {"Unpack[Whole]": Whole, "Unpack[Decoder]": Decoder}
    shared = [kinds[str(p.annotation)] for p in own if p.kind is inspect.Parameter.VAR_KEYWORD]
    return (*names, *(key for kind in shared for key in kind.__annotations__))


def _windows(
    size: int | None, layer_types: Sequence[str] | None, slides: Callable[[int], bool]
) -> Callable[[int], int | None]:
    """The window of layer `index`, None where it sees everything: as the file's layer_types say, or as `slides` does."""
    odd = sorted(set(layer_types or ()) - {FULL, SLIDING})
    if odd:
        raise ConfigError(f"layer_types has {', '.join(odd)}; known here are {FULL} and {SLIDING}")
    if layer_types is not None and SLIDING in layer_types and size is None:
        raise ConfigError(f"layer_types has {SLIDING}, and sliding_window is not given")

    def window(index: int) -> int | None:
        if layer_types is None:
            return size if slides(index) else None
        if index >= len(layer_types):
            raise ConfigError(f"layer_types names {len(layer_types)} layers, layer {index} is not among them")
        return size if layer_types[index] == SLIDING else None

    return window


def _split(hidden_size: int, num_attention_heads: int) -> int:
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_attention_heads}), "
            "unless the family has a head_dim of its own"
        )
    return hidden_size // num_attention_heads
