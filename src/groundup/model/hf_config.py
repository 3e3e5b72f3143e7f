"""`config.json` in Hugging Face's layout, to and from a typed composition.

A family is expressible when its preset, given the fields read off a composition, returns that same composition;
everything else is written with `model_type: "groundup"` and our config inside. Imports no torch.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from groundup.core.errors import ConfigError, ModelError
from groundup.model.config import (
    Activation,
    AttentionConfig,
    DenseMLPConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    RMSNormConfig,
    TransformerConfig,
)
from groundup.model.presets import gpt2, llama3, qwen3

log = logging.getLogger("groundup.model.hf_config")

OWN_TYPE = "groundup"
_SHARED = ("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings", "initializer_range")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Keys that change nothing in what the three families compute: dropout (used in training only), the history of the
# file, generation defaults of old files, and settings of heads that are not the language model's.
_INERT = frozenset(
    [
        "architectures",
        "model_type",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
        "attention_dropout",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "task_specific_params",
        "n_ctx",
        "gradient_checkpointing",
        "reorder_and_upcast_attn",
        "pretraining_tp",
        "max_window_layers",
        "sliding_window",
        "id2label",
        "label2id",
        "problem_type",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "_attn_implementation",
        "name_or_path",
        "max_length",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
    ]
)
# Keys that would change the result, and the only values this reader implements.
_FIXED: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False, None),
    "rope_scaling": (None,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "add_cross_attention": (False,),
    "is_decoder": (False, True),
    "quantization_config": (None,),
}


@dataclass(frozen=True)
class Family:
    """One architecture that transformers knows.

    Attributes:
        architecture: class name in transformers.
        preset: from fields to composition.
        fields: the preset's fields as a composition has them, given its one kind of layer; None when a part is of
            another kind.
        names: our field name -> Hugging Face's, where they differ.
        extra: keys that are always written.
        required: keys without which the file is not of this family.
    """

    architecture: str
    preset: Callable[..., TransformerConfig]
    fields: Callable[[TransformerConfig, LayerConfig], dict[str, Any] | None]
    names: dict[str, str]
    extra: dict[str, Any]
    required: tuple[str, ...]


def _gpt2_fields(config: TransformerConfig, layer: LayerConfig) -> dict[str, Any] | None:
    if not isinstance(layer.mixer, AttentionConfig) or not isinstance(layer.mlp, DenseMLPConfig):
        return None
    if not isinstance(layer.norm, LayerNormConfig):
        return None
    return {
        "num_attention_heads": layer.mixer.num_attention_heads,
        "intermediate_size": layer.mlp.intermediate_size,
        "hidden_act": layer.mlp.activation,
        "layer_norm_epsilon": layer.norm.layer_norm_epsilon,
    }


def _qwen3_fields(config: TransformerConfig, layer: LayerConfig) -> dict[str, Any] | None:
    mixer = layer.mixer
    if not isinstance(mixer, AttentionConfig) or mixer.rotary is None:
        return None
    if not isinstance(layer.mlp, GatedMLPConfig) or not isinstance(layer.norm, RMSNormConfig):
        return None
    return {
        "num_attention_heads": mixer.num_attention_heads,
        "num_key_value_heads": mixer.num_key_value_heads,
        "head_dim": mixer.head_dim,
        "rope_theta": mixer.rotary.rope_theta,
        "attention_bias": mixer.qkv_bias,
        "intermediate_size": layer.mlp.intermediate_size,
        "hidden_act": layer.mlp.activation,
        "rms_norm_eps": layer.norm.rms_norm_eps,
    }


def _llama_fields(config: TransformerConfig, layer: LayerConfig) -> dict[str, Any] | None:
    fields = _qwen3_fields(config, layer)
    # transformers refuses a Llama whose width is not a multiple of its heads, whatever its head_dim.
    if fields is None or config.hidden_size % fields["num_attention_heads"]:
        return None
    return fields | {"mlp_bias": layer.mlp.bias}


_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
}
_NO_GPT2_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_DIMENSIONS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        gpt2,
        _gpt2_fields,
        _GPT2_NAMES,
        _NO_GPT2_DROPOUT,
        ("vocab_size", "n_embd", "n_layer", "n_head"),
    ),
    "llama": Family("LlamaForCausalLM", llama3, _llama_fields, {}, {"attention_dropout": 0.0}, _DIMENSIONS),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        qwen3,
        _qwen3_fields,
        {},
        {"attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None},
        _DIMENSIONS,
    ),
}
# What transformers assumes where a file leaves a key out; our presets' defaults are those of a published model.
_ABSENT: dict[str, dict[str, Any]] = {
    "gpt2": {"tie_word_embeddings": True, "hidden_act": "gelu_new", "layer_norm_epsilon": 1e-5},
    "llama": {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "rope_theta": 1e4},
    "qwen3": {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "rope_theta": 1e4},
}
_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def model_type(config: TransformerConfig) -> str:
    """The family in transformers that computes the same, or `groundup`."""
    return next((name for name in FAMILIES if _family_fields(name, config) is not None), OWN_TYPE)


def to_hf(config: TransformerConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """Return the content of `config.json`, with everything transformers 5 and its predecessors look for.

    Args:
        config: the composition.
        dtype: of the weights beside the file.
    """
    name = model_type(config)
    ids: dict[str, Any] = {key: getattr(config, key) for key in _IDS}
    ids["eos_token_id"] = (
        list(config.eos_token_ids()) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    )
    common = {"dtype": dtype, "torch_dtype": dtype, "use_cache": True, **ids}
    fields = _family_fields(name, config) if name in FAMILIES else None
    if fields is None:
        values = {key: getattr(config, key) for key in _SHARED}
        return {"model_type": OWN_TYPE, **values, **common, "groundup": config.to_dict()}
    family = FAMILIES[name]
    written = {family.names.get(key, key): value for key, value in fields.items() if key not in _IDS}
    if "rope_theta" in fields:
        written["rope_parameters"] = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    return {"architectures": [family.architecture], "model_type": name, **written, **family.extra, **common}


def from_hf(values: dict[str, Any]) -> TransformerConfig:
    """Read the content of a `config.json`.

    Raises:
        ModelError: for a model type or a setting that is not known here, naming those that are.
    """
    name = values.get("model_type")
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
    if name not in FAMILIES:
        known = ", ".join([*FAMILIES, OWN_TYPE])
        raise ModelError(f"model_type {name!r} is not known here (known: {known})")
    family = FAMILIES[name]
    missing = [key for key in family.required if key not in values]
    if missing:
        raise ModelError(f"the config.json of model_type {name!r} lacks {', '.join(missing)}")
    try:
        return family.preset(**_preset_fields(name, family, values))
    except (ConfigError, TypeError, ValueError) as error:  # a field of another type fails before it is validated
        raise ModelError(f"the config.json of model_type {name!r} does not describe a model: {error}") from None


def _family_fields(name: str, config: TransformerConfig) -> dict[str, Any] | None:
    layers = config.layers()
    family, layer = FAMILIES[name], layers[0]
    if any(other != layer for other in layers):
        return None
    own = family.fields(config, layer)
    if own is None:
        return None
    fields = {key: getattr(config, key) for key in (*_SHARED, *_IDS)}
    fields |= {"num_hidden_layers": config.num_hidden_layers, **own}
    try:
        made = family.preset(**fields)
    except ConfigError:
        return None
    # The same layers may be grouped otherwise in the stack: (2, layer), (2, layer) is (4, layer).
    same = made == config.model_copy(update={"stack": made.stack}) and made.layers() == layers
    return fields if same else None


def _preset_fields(name: str, family: Family, values: dict[str, Any]) -> dict[str, Any]:
    theirs = {family.names.get(key, key): key for key in (*_known_fields(family), *_IDS)}
    fields = dict(_ABSENT[name])
    for key, value in values.items():
        if key in _FIXED:
            if value not in _FIXED[key]:
                raise ModelError(f"{key} = {value!r} is not known here (known: {_FIXED[key][0]!r})")
        elif key == "rope_parameters":
            fields |= _read_rope(value)
        elif key == "layer_types":
            odd = sorted(set(value or ()) - {"full_attention"})
            if odd:
                raise ModelError(f"layer_types has {', '.join(odd)}, known here is full_attention")
        elif key in theirs:
            if value is not None or theirs[key] in _IDS:
                fields[theirs[key]] = tuple(value) if isinstance(value, list) else value
        elif key not in _INERT:
            log.warning("config.json: the key %r (%r) is not known here and was left out", key, value)
    activation = fields.get("hidden_act", "silu")
    fields["hidden_act"] = _ALIASES.get(activation, activation)
    if fields["hidden_act"] not in get_args(Activation):
        raise ModelError(f"the activation {activation!r} is not known here (known: {', '.join(get_args(Activation))})")
    return fields


def _read_rope(value: dict[str, Any] | None) -> dict[str, Any]:
    if not value:
        return {}
    kind = value.get("rope_type", "default")
    if kind != "default":
        raise ModelError(f"rope_type {kind!r} in rope_parameters is not known here (known: 'default')")
    return {"rope_theta": value["rope_theta"]} if "rope_theta" in value else {}


def _known_fields(family: Family) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(family.preset).parameters if name != "qk_norm")
