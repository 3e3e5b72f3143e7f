"""Rotary settings in `config.json`: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` before it.

Imports no torch.
"""

from __future__ import annotations

import math
from typing import Any

from groundup.core.errors import ModelError
from groundup.model.config import (
    AttentionConfig,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    RotaryConfig,
    RotaryScaling,
    TransformerConfig,
    YarnScaling,
)
from groundup.model.presets import FULL, SLIDING

#: rope_type -> our config; "default" is no scaling.
SCALING: dict[str, type[LinearScaling] | type[DynamicScaling] | type[YarnScaling] | type[Llama3Scaling]] = {
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
    "llama3": Llama3Scaling,
}


def read_rope(values: dict[str, Any], fields: dict[str, Any], *, by_kind: bool) -> dict[str, Any]:
    """The preset fields of the rotary embedding.

    Args:
        values: content of the config.json.
        fields: preset fields so far, of which max_position_embeddings is read.
        by_kind: the family has settings of their own for layers with a window.

    Raises:
        ModelError: for a kind of scaling that is not known here, or one that lacks a value.
    """
    parameters, local = _rope_dicts(values, by_kind=by_kind)
    found: dict[str, Any] = {}
    theta = parameters.get("rope_theta") or values.get("rope_theta")
    if theta is not None:
        found["rope_theta"] = theta
    local_theta = local.get("rope_theta") or values.get("rope_local_base_freq")
    if local_theta is not None:
        found["rope_local_base_freq"] = local_theta
    if local.get("rope_type", "default") != "default":
        raise ModelError(f"rope_type {local['rope_type']!r} of {SLIDING} is not known here (known: default)")
    share = parameters.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    if share not in (None, 1.0):
        raise ModelError(f"partial_rotary_factor = {share!r} is not known here for this model_type (known: 1.0)")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind in ("default", None):
        return found
    if kind not in SCALING:
        raise ModelError(f"rope_type {kind!r} is not known here (known: default, {', '.join(SCALING)})")
    longest = fields["max_position_embeddings"]
    if values.get("original_max_position_embeddings") is not None and kind in ("llama3", "yarn") and not by_kind:
        # Beside the settings rather than among them it counts more, as in transformers.
        original = values["original_max_position_embeddings"]
        parameters = parameters | {"original_max_position_embeddings": original}
    scaling = _scaling(kind, parameters, longest)
    if isinstance(scaling, DynamicScaling):
        found["max_position_embeddings"] = _stretched(scaling)
    return found | {"rope_scaling": scaling}


def _rope_dicts(values: dict[str, Any], *, by_kind: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of all layers, or of those that see everything, and of those with a window.

    An older `rope_scaling` counts more than `rope_parameters`, as in transformers.
    """
    new, old = values.get("rope_parameters") or {}, values.get("rope_scaling") or {}
    for key, found in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(found, dict):
            raise ModelError(f"{key} is {found!r}: it holds a rope_type and its values")
    if not by_kind:
        return old or new, {}
    odd = sorted(set(new) - {FULL, SLIDING})
    if odd:
        raise ModelError(f"rope_parameters has {', '.join(odd)}: this model_type gives them under {FULL} and {SLIDING}")
    full, local = (dict(new.get(kind) or {}) for kind in (FULL, SLIDING))
    return full | old, local


def _scaling(kind: str, parameters: dict[str, Any], longest: int) -> RotaryScaling:
    config = SCALING[kind]
    known = set(config.model_fields) - {"kind"}
    given = {key: parameters[key] for key in known if parameters.get(key) is not None}
    if kind == "dynamic":
        given["original_max_position_embeddings"] = longest
    elif "original_max_position_embeddings" in known:
        given.setdefault("original_max_position_embeddings", longest)
    if kind == "yarn" and "factor" not in given and parameters.get("original_max_position_embeddings"):
        given["factor"] = longest / given["original_max_position_embeddings"]  # as in transformers
    if "factor" not in given:
        raise ModelError(
            f"rope_type {kind!r} needs a factor; it has {', '.join(sorted(key for key, value in parameters.items() if value is not None))}"
        )
    mscale, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if kind == "yarn" and "attention_factor" not in given and mscale and all_dim:
        # DeepSeek's way to give the factor of queries and keys (arXiv:2405.04434, released code).
        growth = 0.1 * math.log(given["factor"]) if given["factor"] > 1 else 0.0
        given["attention_factor"] = (mscale * growth + 1) / (all_dim * growth + 1)
    return config(**given)


def _stretched(scaling: DynamicScaling) -> int:
    # In the file max_position_embeddings is the trained length, ours is the longest text.
    return int(scaling.original_max_position_embeddings * scaling.factor)


def has_readable_length(config: TransformerConfig) -> bool:
    """True where a config.json gives max_position_embeddings back; under dynamic scaling it holds another number."""
    mixers = [layer.mixer for layer in config.layers() if isinstance(layer.mixer, AttentionConfig)]
    scalings = {mixer.rotary.scaling for mixer in mixers if mixer.rotary is not None}
    dynamic = [scaling for scaling in scalings if isinstance(scaling, DynamicScaling)]
    return all(config.max_position_embeddings == _stretched(scaling) for scaling in dynamic)


def write_rope(config: TransformerConfig, *, by_kind: bool) -> dict[str, Any]:
    """The keys of a config.json that say how positions turn; none for a model without rotary embeddings.

    Args:
        config: of a family.
        by_kind: the family has settings of their own for layers with a window.
    """
    mixers = [layer.mixer for layer in config.layers() if isinstance(layer.mixer, AttentionConfig)]
    rotaries = {FULL: _first(mixers, False), SLIDING: _first(mixers, True)}
    kinds = {kind: rotary for kind, rotary in rotaries.items() if rotary is not None}
    if not kinds:
        return {}
    main = kinds.get(FULL) or kinds[SLIDING]
    written: dict[str, Any] = {"rope_theta": main.rope_theta}
    parameters = _parameters(main)
    if main.scaling is not None:
        written["rope_scaling"] = {key: value for key, value in parameters.items() if key != "rope_theta"}
    if isinstance(main.scaling, DynamicScaling):
        written["max_position_embeddings"] = main.scaling.original_max_position_embeddings
    if by_kind:
        return written | {"rope_parameters": {kind: _parameters(rotary) for kind, rotary in kinds.items()}}
    return written | {"rope_parameters": parameters}


def _first(mixers: list[AttentionConfig], slides: bool) -> RotaryConfig | None:
    turned = (mixer for mixer in mixers if mixer.rotary is not None)
    return next((mixer.rotary for mixer in turned if (mixer.sliding_window is not None) == slides), None)


def _parameters(rotary: RotaryConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.rope_theta}
    if rotary.scaling is not None:
        fields = rotary.scaling.to_dict()
        values["rope_type"] = fields.pop("kind")
        if isinstance(rotary.scaling, DynamicScaling):
            fields.pop("original_max_position_embeddings")
        values |= {key: value for key, value in fields.items() if value is not None}
    return values
