"""The modules a model is made of, and the one table from config type to module class."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from groundup.core.config import Config
from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DenseMLPConfig,
    FilePartConfig,
    GatedMLPConfig,
    LayerConfig,
    LayerNormConfig,
    RMSNormConfig,
)
from groundup.model.parts.attention import Attention, CrossAttention
from groundup.model.parts.basic import Embedding, LayerNorm, Linear, Point, ResidualLinear, RMSNorm
from groundup.model.parts.builder import Builder
from groundup.model.parts.context import Context, count_positions
from groundup.model.parts.file import build_file_part
from groundup.model.parts.layer import Layer
from groundup.model.parts.mlp import DenseMLP, GatedMLP

PARTS: dict[type[Config], Callable[..., nn.Module]] = {
    LayerNormConfig: LayerNorm,
    RMSNormConfig: RMSNorm,
    AttentionConfig: Attention,
    CrossAttentionConfig: CrossAttention,
    FilePartConfig: build_file_part,
    DenseMLPConfig: DenseMLP,
    GatedMLPConfig: GatedMLP,
    LayerConfig: Layer,
}

__all__ = [
    "PARTS",
    "Attention",
    "Builder",
    "Context",
    "CrossAttention",
    "DenseMLP",
    "Embedding",
    "GatedMLP",
    "Layer",
    "LayerNorm",
    "Linear",
    "Point",
    "RMSNorm",
    "ResidualLinear",
    "count_positions",
]
