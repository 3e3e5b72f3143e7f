"""Metadata of GGUF files to and from a typed composition. Imports no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from groundup.core.errors import ConfigError, ModelError
from groundup.model.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    PoolingConfig,
    RotaryScaling,
    TransformerConfig,
    YarnScaling,
    check_depth,
)
from groundup.model.hf_config import family_of
from groundup.model.presets import FULL, PRESETS, SLIDING, preset_fields
from groundup.model.weights.gguf_format import Typed

log = logging.getLogger("groundup.model.gguf")

#: general.architecture -> our preset.
ARCHITECTURES = {
    "llama": "llama3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "olmo2": "olmo2",
    "smollm3": "smollm3",
    "gpt2": "gpt2",
    "bert": "bert",
}
_WRITTEN_AS = {"mistral": "llama", "gemma3_text": "gemma3"}
_ACTIVATION = {"gemma2": "gelu_new", "gemma3": "gelu_new", "gpt2": "gelu_new", "bert": "gelu"}
_POOLING = {"mean": 1, "cls": 2, "last": 3}
# Layers of the 27B models, the only ones whose scores llama.cpp does not divide by the root of head_dim.
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}
_PERIOD = {"gemma2": 2, "gemma3": 6}
# Llama 3.1's scaling as published; a file holds only the factors that come of it.
_TRAINED_LENGTH = 8192


def config_from_gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: Any = None
) -> TransformerConfig:
    """Read a composition off a file.

    Args:
        metadata: plain values by key.
        shapes: of the tensors by name, outermost dimension first; biases and an untied head are seen by their names.
        rope_factors: values of the tensor `rope_freqs.weight` where there is one.

    Raises:
        ModelError: for an architecture that is not known here, or a key that is missing or does not fit.
    """
    try:
        return _read_config(metadata, shapes, rope_factors)
    except ConfigError as error:
        raise ModelError(f"the metadata do not describe a model: {error}") from None


def _read_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: Any
) -> TransformerConfig:
    read = _Reader(metadata)
    name = read.architecture
    if "token_embd.weight" not in shapes:
        raise ModelError("the file has no tensor token_embd.weight: it holds a vocabulary or a part of a model only")
    is_llama_like = name not in ("gpt2", "bert")
    check_depth(read.count("block_count"))  # before anything is made for each layer
    heads = read.count("attention.head_count")
    fields: dict[str, Any] = {
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": read.count("embedding_length"),
        "num_hidden_layers": read.count("block_count"),
        "num_attention_heads": heads,
        "intermediate_size": read.count("feed_forward_length"),
        "max_position_embeddings": read.count("context_length"),
        "tie_word_embeddings": name != "bert" and "output.weight" not in shapes,
        **read.special_ids(shapes["token_embd.weight"][0]),
    }
    if is_llama_like:
        fields |= {
            "num_key_value_heads": read.count("attention.head_count_kv", heads),
            "head_dim": read.count("attention.key_length", max(1, fields["hidden_size"] // heads)),
            "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
            "rope_theta": read.number("rope.freq_base", 1e6 if name == "gemma3" else 1e4),
            "rope_scaling": read.scaling(rope_factors, fields),
            "attention_bias": "blk.0.attn_output.bias" in shapes,
            "mlp_bias": "blk.0.ffn_up.bias" in shapes,
        }
    else:
        epsilon = read.number("attention.layer_norm_epsilon")
        fields |= {"layer_norm_epsilon": epsilon, "layer_norm_eps": epsilon}
    if name in _PERIOD:
        fields |= _gemma_fields(name, read, fields)
    if name == "bert":
        fields |= {"type_vocab_size": read.count("token_type_count", 2), "pooling": read.pooling()}
    if name == "olmo2" and read.number("attention.sliding_window", 0.0):
        raise ModelError("attention.sliding_window in an olmo2 file makes it an OLMo 3, which is not known here")
    if (experts := read.number("expert_count", 0.0)) > 0:
        raise ModelError(f"{name}.expert_count = {experts:g}: mixture-of-experts MLPs are not known here")
    known = preset_fields(PRESETS[ARCHITECTURES[name]])
    return PRESETS[ARCHITECTURES[name]](**{key: value for key, value in fields.items() if key in known})


class _Reader:
    """Values of one architecture, checked one by one."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        name = metadata.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ModelError(f"general.architecture {name!r} is not known here (known: {', '.join(ARCHITECTURES)})")
        self.architecture = name

    def number(self, key: str, default: float | None = None) -> float:
        """A real number; a float32 as the shortest decimal that rounds to it (1e-05, not 9.999999747378752e-06)."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the metadata lack {self.architecture}.{key}")
        if (
            isinstance(value, bool | np.bool_)
            or not isinstance(value, int | float | np.number)
            or not math.isfinite(value)
        ):
            raise ModelError(f"{self.architecture}.{key} is {_short(value)}, not a number")
        return float(str(np.float32(value)))

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1, and the same for all layers where the file has one for each."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise ModelError(f"the metadata lack {self.architecture}.{key}")
        values = value if isinstance(value, np.ndarray | list) else [value]
        if not all(_is_whole(one) and one >= 1 for one in values) or len({int(one) for one in values}) != 1:
            raise ModelError(f"{self.architecture}.{key} is {_short(value)}, not one number of at least 1")
        return int(values[0])

    def word(self, key: str, default: str) -> str:
        """A text."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, str):
            raise ModelError(f"{self.architecture}.{key} is {_short(value)}, not a text")
        return value

    def special_ids(self, vocab_size: int) -> dict[str, Any]:
        """Ids of bos, eos (and end of turn, where the file names one) and pad."""

        def known(role: str) -> int | None:
            value = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
            if value is None:
                return None
            if not _is_whole(value):
                raise ModelError(f"tokenizer.ggml.{role}_token_id is {_short(value)}, not a number")
            if not 0 <= value < vocab_size:
                # Converters write -1 as 4294967295 where a model has no such token; llama.cpp passes over it too.
                log.warning(
                    "tokenizer.ggml.%s_token_id is %d, outside of the %d tokens, and was left out",
                    role,
                    value,
                    vocab_size,
                )
                return None
            return int(value)

        ends = [id for id in (known("eos"), known("eot")) if id is not None]
        eos: int | tuple[int, ...] | None = tuple(ends) if len(set(ends)) > 1 else (ends[0] if ends else None)
        return {"bos_token_id": known("bos"), "eos_token_id": eos, "pad_token_id": known("padding")}

    def scaling(self, factors: Any, fields: Mapping[str, Any]) -> RotaryScaling | None:
        """How long texts are read."""
        kind = self.word("rope.scaling.type", "none")
        if factors is not None:
            theta = self.number("rope.freq_base", 1e4)
            if theta <= 0:
                raise ModelError(f"{self.architecture}.rope.freq_base is {theta:g}, not above 0")
            return _llama3_scaling(np.asarray(factors, dtype=np.float64), theta)
        factor = self.number("rope.scaling.factor", 1.0)
        if kind == "none" or (kind == "linear" and factor == 1.0):
            return None
        if kind == "linear":
            return LinearScaling(factor=factor)
        if kind == "yarn":
            attention = self.number("rope.scaling.attn_factor", 1.0)
            return YarnScaling(
                factor=factor,
                original_max_position_embeddings=self.count(
                    "rope.scaling.original_context_length", fields["max_position_embeddings"]
                ),
                beta_fast=self.number("rope.scaling.yarn_beta_fast", 32.0),
                beta_slow=self.number("rope.scaling.yarn_beta_slow", 1.0),
                attention_factor=None if attention == 1.0 else float(f"{attention * _yarn_growth(factor):.7g}"),
            )
        raise ModelError(
            f"{self.architecture}.rope.scaling.type {kind!r} is not known here (known: none, linear, yarn)"
        )

    def pooling(self) -> PoolingConfig | None:
        """How token vectors become one; the file does not say whether it is scaled, and sentence encoders do."""
        number = self.number("pooling_type", 0.0)
        kind = next((kind for kind, value in _POOLING.items() if value == number), None)
        return None if kind is None else PoolingConfig(kind=kind)


def _yarn_growth(factor: float) -> float:
    """What YaRN multiplies queries and keys by (Peng et al. 2023, arXiv:2309.00071, eq. 22)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _gemma_fields(name: str, read: _Reader, fields: Mapping[str, Any]) -> dict[str, Any]:
    layers, window = (
        fields["num_hidden_layers"],
        read.number("attention.sliding_window", 4096.0 if name == "gemma2" else 0.0),
    )
    pattern = read.metadata.get(f"{name}.attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray | list):
        slides = [bool(one) for one in pattern]
        if len(slides) < layers:
            raise ModelError(f"{name}.attention.sliding_window_pattern has {len(slides)} values for {layers} layers")
    else:
        period = read.count("attention.sliding_window_pattern", _PERIOD[name])
        slides = [bool(window) and (index + 1) % period != 0 for index in range(layers)]
    found: dict[str, Any] = {"layer_types": tuple(SLIDING if one else FULL for one in slides[:layers])}
    if window:
        found["sliding_window"] = int(window)
    is_27b = layers == _LAYERS_27B[name]
    found["query_pre_attn_scalar"] = (
        fields["hidden_size"] // fields["num_attention_heads"] if is_27b else fields["head_dim"]
    )
    if name == "gemma2":
        found["attn_logit_softcapping"] = read.number("attn_logit_softcapping", 50.0) or None
        found["final_logit_softcapping"] = read.number("final_logit_softcapping", 30.0) or None
    else:
        found["final_logit_softcapping"] = read.number("final_logit_softcapping", 0.0) or None
        found["rope_local_base_freq"] = read.number("rope.freq_base_swa", 1e4)
    return found


def _llama3_scaling(factors: Any, theta: float) -> Llama3Scaling:
    """The scaling that gives these factors; a file has nothing but them."""
    if factors.size == 0 or not np.isfinite(factors).all() or factors.min() < 1 - 1e-4:
        raise ModelError(f"rope_freqs.weight holds {factors.size} factors, which must be numbers of at least 1")
    factor = max(1.0, float(factors.max()))
    for scaling in [*_published_scalings(factor), *_fitted_scaling(factors, factor, theta)]:
        if np.allclose(llama3_factors(scaling, 2 * len(factors), theta), factors, rtol=1e-4):
            return scaling
    raise ModelError(
        f"rope_freqs.weight holds {len(factors)} factors up to {factor:g} that Llama 3's scaling does not give: this "
        "kind of scaling is not known here"
    )


def _published_scalings(factor: float) -> list[Llama3Scaling]:
    return [
        Llama3Scaling(factor=factor, original_max_position_embeddings=trained)
        for trained in (_TRAINED_LENGTH, *(1 << power for power in range(5, 21)))
    ]


def _fitted_scaling(factors: Any, factor: float, theta: float) -> list[Llama3Scaling]:
    """A scaling on whose ramp the factors lie: how much of a frequency is kept is a line over its turns per token.

    The line says `trained / (high - low)` and `low / (high - low)`, not the three; trained lengths are whole, so low is
    chosen near the published 1.
    """
    turns = theta ** (-np.arange(len(factors)) / len(factors)) / (2 * math.pi)
    kept = (1 / factors - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(len(factors))
    slope, offset = _line_through(turns, kept)
    if slope <= 0 or offset >= 0:
        return []
    trained = max(1, round(-slope / offset))
    low = -trained * offset / slope
    return [
        Llama3Scaling(
            factor=factor,
            original_max_position_embeddings=trained,
            low_freq_factor=low,
            high_freq_factor=low + trained / slope,
        )
    ]


def _line_through(turns: Any, kept: Any) -> tuple[float, float]:
    """Slope and offset of a line that, cut off at 0 and 1, gives `kept`; any such line where several do."""
    between = np.flatnonzero((kept > 1e-6) & (kept < 1 - 1e-6))
    if len(between) >= 2:
        slope, offset = np.polyfit(turns[between], kept[between], 1)
        return float(slope), float(offset)
    # The next faster turn must be kept whole, the next slower one not at all.
    padded = np.concatenate(([2 * turns[0]], turns, [0.0]))
    if len(between) == 1:
        place, share = int(between[0]) + 1, float(kept[between[0]])
        up, down = padded[place - 1] - padded[place], padded[place] - padded[place + 1]
        slope = 1.01 * max((1 - share) / up, share / down)
        return slope, share - slope * padded[place]
    place = int((kept >= 1 - 1e-6).sum())
    slope = 1 / (padded[place] - padded[place + 1])
    return slope, -slope * padded[place + 1]


def llama3_factors(scaling: Llama3Scaling, head_dim: int, theta: float) -> Any:
    """What each frequency is divided by, as float32; llama.cpp reads it from the tensor `rope_freqs.weight`."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    trained = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((trained / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling.factor + kept)).astype(np.float32)


def config_to_gguf(config: TransformerConfig) -> tuple[str, dict[str, Typed], Any]:
    """What a file says of a composition.

    Returns:
        the architecture, the metadata, and the rotary factors that go into `rope_freqs.weight` (or None).

    Raises:
        ModelError: for a composition that no architecture of llama.cpp known here computes, saying why.
    """
    family, fields = family_of(config)
    name = _WRITTEN_AS.get(family, family)
    if name not in ARCHITECTURES:
        raise ModelError(
            f"this composition is none of the architectures that can be written as GGUF ({', '.join(ARCHITECTURES)})"
        )
    _check_llama_cpp(name, config, fields)
    u32, f32 = _typed("u32"), _typed("f32")
    written = {
        "context_length": u32(config.max_position_embeddings),
        "embedding_length": u32(config.hidden_size),
        "block_count": u32(config.num_hidden_layers),
        "feed_forward_length": u32(fields["intermediate_size"] or 4 * config.hidden_size),
        "attention.head_count": u32(fields["num_attention_heads"]),
        "vocab_size": u32(config.vocab_size),
    }
    factors = None
    if "rms_norm_eps" in fields:
        head_dim = fields.get("head_dim") or config.hidden_size // fields["num_attention_heads"]
        written |= {
            "attention.head_count_kv": u32(fields["num_key_value_heads"]),
            "attention.key_length": u32(head_dim),
            "attention.value_length": u32(head_dim),
            "attention.layer_norm_rms_epsilon": f32(fields["rms_norm_eps"]),
            "rope.dimension_count": u32(head_dim),
            "rope.freq_base": f32(fields["rope_theta"]),
        }
        scaling = fields.get("rope_scaling")
        written |= _scaling_metadata(scaling)
        if isinstance(scaling, Llama3Scaling):
            factors = llama3_factors(scaling, head_dim, fields["rope_theta"])
    else:
        written["attention.layer_norm_epsilon"] = f32(fields.get("layer_norm_epsilon", fields.get("layer_norm_eps")))
    if name in _PERIOD:
        written |= _gemma_metadata(name, fields)
    if name == "bert":
        written |= {"attention.causal": Typed("bool", False), "token_type_count": u32(config.type_vocab_size)}
        if config.pooling is not None:
            written["pooling_type"] = u32(_POOLING[config.pooling.kind])
    general = {"general.architecture": Typed("string", name), "general.type": Typed("string", "model")}
    return name, general | {f"{name}.{key}": value for key, value in written.items()}, factors


def _typed(kind: str) -> Callable[[Any], Typed]:
    return lambda value: Typed(kind, value)


def _scaling_metadata(scaling: RotaryScaling | None) -> dict[str, Typed]:
    if scaling is None or isinstance(scaling, Llama3Scaling):
        return {}
    if isinstance(scaling, DynamicScaling):
        raise ModelError("llama.cpp has no dynamic (NTK) rotary scaling: this model cannot be written as GGUF")
    written = {"rope.scaling.type": Typed("string", scaling.kind), "rope.scaling.factor": Typed("f32", scaling.factor)}
    if isinstance(scaling, YarnScaling):
        written |= {
            "rope.scaling.original_context_length": Typed("u32", scaling.original_max_position_embeddings),
            "rope.scaling.yarn_beta_fast": Typed("f32", scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": Typed("f32", scaling.beta_slow),
        }
        if scaling.attention_factor is not None:
            # llama.cpp multiplies YaRN's own factor by this one; `yarn_attn_factor` is read for one architecture only.
            relative = scaling.attention_factor / _yarn_growth(scaling.factor)
            written["rope.scaling.attn_factor"] = Typed("f32", relative)
        if not scaling.truncate:
            raise ModelError("llama.cpp rounds the ends of YaRN's ramp (truncate), this model does not")
    return written


def _gemma_metadata(name: str, fields: Mapping[str, Any]) -> dict[str, Typed]:
    slides = [kind == SLIDING for kind in fields["layer_types"]]
    written: dict[str, Typed] = {}
    if any(slides):
        written["attention.sliding_window"] = Typed("u32", fields["sliding_window"])
    if any(slides) and slides != [(index + 1) % _PERIOD[name] != 0 for index in range(len(slides))]:
        written["attention.sliding_window_pattern"] = Typed("[bool]", np.array(slides))
    if name == "gemma2":
        written["attn_logit_softcapping"] = Typed("f32", fields["attn_logit_softcapping"])
    elif any(slides):
        written["rope.freq_base_swa"] = Typed("f32", fields["rope_local_base_freq"])
    if fields["final_logit_softcapping"] is not None or name == "gemma2":
        written["final_logit_softcapping"] = Typed("f32", fields["final_logit_softcapping"] or 0.0)
    return written


def _check_llama_cpp(name: str, config: TransformerConfig, fields: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp computes otherwise without saying so; warn where only long texts differ."""
    heads, width = fields["num_attention_heads"], config.hidden_size
    expected = _ACTIVATION.get(name, "silu")
    if fields["hidden_act"] != expected:
        raise ModelError(f"llama.cpp's {name} has the activation {expected}, this model {fields['hidden_act']}")
    if name in ("qwen2", "olmo2") and fields.get("head_dim", width // heads) * heads != width:
        raise ModelError(
            f"llama.cpp's {name} has heads of hidden_size / num_attention_heads ({width} / {heads}), this model of "
            f"{fields['head_dim']}"
        )
    if name not in ("llama", "qwen2", "gpt2", "bert") and fields.get("attention_bias"):
        raise ModelError(f"llama.cpp's {name} has no bias of the attention's output (attention_bias)")
    if name == "smollm3" and any(turns == (index % 4 == 3) for index, turns in enumerate(fields["no_rope_layers"])):
        raise ModelError("llama.cpp's smollm3 turns all layers but every fourth, this model others (no_rope_layers)")
    if name in _PERIOD:
        scalar, dim = fields["query_pre_attn_scalar"], fields["head_dim"]
        computed = width // heads if config.num_hidden_layers == _LAYERS_27B[name] else dim
        if scalar != computed:
            raise ModelError(
                f"llama.cpp's {name} divides scores by the root of {computed}, this model by that of {scalar} "
                "(query_pre_attn_scalar)"
            )
        if name == "gemma2" and fields["attn_logit_softcapping"] is None:
            raise ModelError("llama.cpp's gemma2 needs attn_logit_softcapping")
        if name == "gemma2" and not config.tie_word_embeddings:
            raise ModelError("llama.cpp's gemma2 has tied embeddings, this model does not")
        if name == "gemma2" and SLIDING not in fields["layer_types"]:
            raise ModelError("llama.cpp's gemma2 has layers with a window, this model has none")
    elif fields.get("sliding_window"):
        log.warning(
            "llama.cpp's %s sees whole texts: past the window of %d tokens its answers will differ from ours",
            name,
            fields["sliding_window"],
        )
