"""Pure tensor functions: a readable reference of each, and the fast path beside it (see `core.registry`)."""

from __future__ import annotations

from groundup.model.ops import pairs as _pairs  # registers the pairs
from groundup.model.ops.activation import ACTIVATIONS
from groundup.model.ops.attention import (
    attention,
    attention_fast,
    attention_pattern,
    attention_scores,
    visible_keys,
    weighted_values,
)
from groundup.model.ops.linear import linear
from groundup.model.ops.norm import layer_norm, layer_norm_fast, rms_norm, rms_norm_fast
from groundup.model.ops.paths import compute_paths, has_onednn
from groundup.model.ops.rotary import rotary_fast, rotary_reference, rotary_tables

__all__ = [
    "ACTIVATIONS",
    "attention",
    "attention_fast",
    "attention_pattern",
    "attention_scores",
    "compute_paths",
    "has_onednn",
    "layer_norm",
    "layer_norm_fast",
    "linear",
    "rms_norm",
    "rms_norm_fast",
    "rotary_fast",
    "rotary_reference",
    "rotary_tables",
    "visible_keys",
    "weighted_values",
]

del _pairs
