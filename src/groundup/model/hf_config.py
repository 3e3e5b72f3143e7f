"""`config.json` in Hugging Face's layout, to and from a typed composition.

A family is expressible when its preset, given the fields read off a composition, returns that same composition;
everything else is written with `model_type: "groundup"` and our config inside. Imports no torch.
"""

from __future__ import annotations

import logging
from typing import Any, get_args

from groundup.core.errors import ConfigError, ModelError
from groundup.model.config import (
    Activation,
    AttentionConfig,
    LayerConfig,
    LayerNormConfig,
    PoolingConfig,
    RMSNormConfig,
    TransformerConfig,
    check_depth,
)
from groundup.model.hf_families import ALIASES, FAMILIES, FIXED, INERT, MISSING_PARTS, Family
from groundup.model.hf_rope import has_readable_length, read_rope, write_rope
from groundup.model.presets import FULL, SLIDING, preset_fields
from groundup.model.weights.compressed import SETTINGS, read_settings

log = logging.getLogger("groundup.model.hf_config")

OWN_TYPE = "groundup"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def model_type(config: TransformerConfig) -> str:
    """The family in transformers that computes the same, or `groundup`."""
    return family_of(config)[0]


def family_of(config: TransformerConfig) -> tuple[str, dict[str, Any]]:
    """The family in transformers that computes the same, with the fields that make the composition from its preset.

    Returns:
        `groundup` and no fields where there is none.
    """
    for name in FAMILIES:
        fields = _family_fields(name, config)
        if fields is not None:
            return name, fields
    return OWN_TYPE, {}


def to_hf(config: TransformerConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """Return the content of `config.json`, with everything transformers 5 and its predecessors look for.

    Args:
        config: the composition.
        dtype: of the weights beside the file.
    """
    name, fields = family_of(config)
    ids: dict[str, Any] = {key: getattr(config, key) for key in _IDS}
    ids["eos_token_id"] = (
        list(config.eos_token_ids()) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    )
    common = {"dtype": dtype, "torch_dtype": dtype, "use_cache": True, **ids}
    if name == OWN_TYPE:
        shared = ("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings", "initializer_range")
        values = {key: getattr(config, key) for key in shared}
        return {"model_type": OWN_TYPE, **values, **common, "groundup": config.to_dict()}
    family = FAMILIES[name]
    rope = write_rope(config, by_kind="rope_local_base_freq" in preset_fields(family.preset))
    left_out = {*_IDS, "rope_theta", "rope_scaling", "qk_norm", "pooling"}
    written = {family.names.get(key, key): value for key, value in fields.items() if key not in left_out}
    if "layer_types" in fields:
        written |= _written_windows(name, fields)
    if "query_pre_attn_scalar" in fields:
        written["query_pre_attn_scalar"] = int(fields["query_pre_attn_scalar"])
    if written.get("hidden_activation") == "gelu_new":
        written["hidden_activation"] = "gelu_pytorch_tanh"  # the same, under the name that readers of Gemma look for
    return {"architectures": [family.architecture], "model_type": name, **written, **rope, **family.extra, **common}


def _written_windows(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    kinds, window = list(fields["layer_types"]), fields["sliding_window"]
    if name not in _SWITCHED:
        # Gemma wants a number, even where no layer uses it.
        return {"layer_types": kinds, "sliding_window": window or FAMILIES[name].absent["sliding_window"]}
    first = kinds.index(SLIDING) if SLIDING in kinds else len(kinds)  # for readers that know no layer_types
    return {"layer_types": kinds, "use_sliding_window": SLIDING in kinds, "max_window_layers": first}


def from_hf(values: dict[str, Any], *, pooling: PoolingConfig | None = None) -> TransformerConfig:
    """Read the content of a `config.json`.

    Args:
        values: the object in the file.
        pooling: what the files beside it say of sentence vectors; BERT only.

    Raises:
        ModelError: for a model type or a setting that is not known here, naming those that are.
    """
    name = values.get("model_type")
    read_settings(values)  # weights that are rounded in an unknown way are refused before any are read
    if name == OWN_TYPE:
        try:
            return TransformerConfig(**values["groundup"])
        except (KeyError, TypeError):
            raise ModelError(
                f"a config.json of model_type {OWN_TYPE!r} holds the model under the key 'groundup', this one has "
                f"{', '.join(sorted(values))}"
            ) from None
        except ConfigError as error:
            raise ModelError(f"the config.json does not describe a model: {error}") from None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(_unknown_type(name, values))
    family = FAMILIES[name]
    for key, only in family.fixed.items():
        if values.get(key):
            raise ModelError(f"{key} = {values[key]!r} is not known here for model_type {name!r} (known: {only!r})")
    missing = [key for key in family.required if key not in values]
    if missing:
        raise ModelError(f"the config.json of model_type {name!r} lacks {', '.join(missing)}")
    try:
        fields = _preset_fields(name, family, values)
        if name == "bert":
            fields |= {"pooling": pooling, "tie_word_embeddings": False}  # an encoder has no head to tie
        config = family.preset(**fields)
    except (ConfigError, TypeError, ValueError, ArithmeticError) as error:  # some fail before they are validated
        raise ModelError(f"the config.json of model_type {name!r} does not describe a model: {error}") from None
    if model_type(config) == OWN_TYPE:  # its weights would be looked for under our names
        raise ModelError(
            f"the config.json of model_type {name!r} asks for what transformers does not compute in this family: "
            "compare its values with those of a published model (or, while adding a family: a field of the preset is not "
            "read off in hf_config._read_off)"
        )
    return config


def _unknown_type(name: Any, values: dict[str, Any]) -> str:
    known = ", ".join([*FAMILIES, OWN_TYPE])
    parts = sorted({part for key, part in MISSING_PARTS.items() if values.get(key)})
    why = f"; what it needs and is missing here: {', '.join(parts)}" if parts else ""
    if isinstance(values.get("text_config"), dict):
        why += (
            f"; its text part alone can be read if it is known: model_type {values['text_config'].get('model_type')!r}"
        )
    add = "" if why else "; if its parts are known here, a preset and a name table add it (docs/how-to/add-a-family.md)"
    return f"model_type {name!r} is not known here (known: {known}){why}{add}"


def _family_fields(name: str, config: TransformerConfig) -> dict[str, Any] | None:
    """The fields that make this very composition from the family's preset; None where none do."""
    family, known = FAMILIES[name], preset_fields(FAMILIES[name].preset)
    found = _read_off(config)
    fields = {key: value for key, value in (found or {}).items() if key in known}
    if not fields or not family.takes(fields) or not has_readable_length(config):
        return None
    try:
        made = family.preset(**fields)
    except (ConfigError, TypeError, KeyError):
        return None
    # The same layers may be grouped otherwise in the stack: (2, layer), (2, layer) is (4, layer).
    same = made == config.model_copy(update={"stack": made.stack}) and made.layers() == config.layers()
    return fields if same else None


def _read_off(config: TransformerConfig) -> dict[str, Any] | None:
    """Every field that any preset takes, as the composition has it; None when a mixer is no self-attention.

    What differs between layers in another way than these fields can say is found by comparing with what the preset
    makes of them.
    """
    layers = config.layers()
    mixers = [layer.mixer for layer in layers if isinstance(layer.mixer, AttentionConfig)]
    if len(mixers) < len(layers):
        return None
    first, layer = mixers[0], layers[0]
    windows = {mixer.sliding_window for mixer in mixers} - {None}
    fields: dict[str, Any] = {
        key: getattr(config, key)
        for key in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "max_position_embeddings",
            "tie_word_embeddings",
            "initializer_range",
            "type_vocab_size",
            "pooling",
            "final_logit_softcapping",
            *_IDS,
        )
    }
    same = ("num_attention_heads", "num_key_value_heads", "head_dim", "attn_logit_softcapping", "query_pre_attn_scalar")
    fields |= {key: getattr(first, key) for key in same}
    fields |= {"attention_bias": first.qkv_bias, "mlp_bias": layer.mlp.bias}
    fields |= {"intermediate_size": layer.mlp.intermediate_size, "hidden_act": layer.mlp.activation}
    fields["sliding_window"] = next(iter(windows), None)
    fields["no_rope_layers"] = tuple(int(mixer.rotary is not None) for mixer in mixers)
    fields["layer_types"] = tuple(FULL if mixer.sliding_window is None else SLIDING for mixer in mixers)
    return fields | _norm_fields(layer) | _rotary_fields(mixers)


def _norm_fields(layer: LayerConfig) -> dict[str, Any]:
    if isinstance(layer.norm, RMSNormConfig):
        return {"rms_norm_eps": layer.norm.rms_norm_eps}
    assert isinstance(layer.norm, LayerNormConfig)
    return dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps"), layer.norm.layer_norm_epsilon)


def _rotary_fields(mixers: list[AttentionConfig]) -> dict[str, Any]:
    turned = [mixer for mixer in mixers if mixer.rotary is not None]
    full = next((mixer.rotary for mixer in turned if mixer.sliding_window is None), mixers[0].rotary)
    local = next((mixer.rotary for mixer in turned if mixer.sliding_window is not None), None)
    if full is None:
        return {}
    fields = {"rope_theta": full.rope_theta, "rope_scaling": full.scaling}
    return fields | ({} if local is None else {"rope_local_base_freq": local.rope_theta})


def _preset_fields(name: str, family: Family, values: dict[str, Any]) -> dict[str, Any]:
    known = preset_fields(family.preset)
    apart = ("qk_norm", "pooling", "layer_types", "rope_theta", "rope_scaling", "rope_local_base_freq")
    theirs = {family.names.get(key, key): key for key in known if key not in apart}
    fields = dict(family.absent)
    for key, value in values.items():
        if key in theirs:
            fields[theirs[key]] = tuple(value) if isinstance(value, list) else value
        elif key in FIXED:
            if value not in FIXED[key]:
                raise ModelError(f"{key} = {value!r} is not known here (known: {FIXED[key][0]!r})")
        elif value is not None and key not in {*INERT, *_READ_APART, *family.names, *family.fixed}:
            log.warning("config.json: the key %r (%r) is not known here and was left out", key, value)
    fields |= _known_ids(fields) | _window_fields(name, known, fields, values)
    if "rope_theta" in known:
        fields |= read_rope(values, fields, by_kind="rope_local_base_freq" in known)
    activation = fields.get("hidden_act", "silu")
    fields["hidden_act"] = ALIASES.get(activation, activation)
    if fields["hidden_act"] not in get_args(Activation):
        raise ModelError(f"the activation {activation!r} is not known here (known: {', '.join(get_args(Activation))})")
    return fields


def _known_ids(fields: dict[str, Any]) -> dict[str, Any]:
    """The special ids without those that no token can have: transformers writes its defaults beside any vocabulary."""
    kept: dict[str, Any] = {}
    for key in _IDS:
        value, size = fields.get(key), fields["vocab_size"]
        given = value if isinstance(value, tuple) else (value,)
        inside = tuple(one for one in given if not isinstance(one, int) or 0 <= one < size)
        if len(inside) < len(given):
            log.warning(
                "config.json: %s (%r) is outside of the vocabulary of %r tokens and was left out", key, value, size
            )
            kept[key] = (inside or None) if isinstance(value, tuple) else None
    return kept


# Families that look at their window only where use_sliding_window says so.
_SWITCHED = ("qwen2", "qwen3")
_READ_APART = frozenset(
    [
        "use_sliding_window",
        "layer_types",
        "is_decoder",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "rope_local_base_freq",
        "original_max_position_embeddings",
        SETTINGS,
    ]
)


def _window_fields(name: str, known: tuple[str, ...], fields: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Which layers see a window: by `layer_types`, or by the older ways to say it."""
    kinds = values.get("layer_types")
    if "layer_types" not in known:
        odd = sorted(set(kinds or ()) - {SLIDING if fields.get("sliding_window") else FULL})
        if odd:
            raise ModelError(f"layer_types has {', '.join(odd)}, which model_type {name!r} has not")
        return {}
    layers = int(fields["num_hidden_layers"])
    check_depth(layers)
    if kinds is not None and len(kinds) != layers:
        raise ModelError(f"layer_types names {len(kinds)} layers, num_hidden_layers is {layers}")
    if name in _SWITCHED and not values.get("use_sliding_window", False):
        if SLIDING in (kinds or ()):
            raise ModelError(f"layer_types has {SLIDING}, and use_sliding_window is false")
        return {"sliding_window": None}
    if name in _SWITCHED:
        window, first = values.get("sliding_window", 4096), int(values.get("max_window_layers", 28))
        old = tuple(SLIDING if index >= first and window is not None else FULL for index in range(layers))
        return {"sliding_window": window, "layer_types": old if kinds is None else tuple(kinds)}
    if kinds is not None:
        return {"layer_types": tuple(kinds)}
    if name == "gemma3_text" and "sliding_window_pattern" in values:
        every = int(values["sliding_window_pattern"])
        if every < 1:
            raise ModelError(f"sliding_window_pattern is {every}: every how many layers one sees everything, 1 or more")
        return {"layer_types": tuple(SLIDING if (index + 1) % every else FULL for index in range(layers))}
    return {}
