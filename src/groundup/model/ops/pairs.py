"""Registers the operations that exist twice; the parity test and the benchmark iterate over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from groundup.core.jit import numba_works
from groundup.core.registry import register
from groundup.core.seeds import seed_for
from groundup.model.config import RotaryConfig
from groundup.model.ops.activation import gelu_new, gelu_new_fast
from groundup.model.ops.attention import attention, attention_fast, visible_keys
from groundup.model.ops.attention_stored import attention_stored
from groundup.model.ops.blocks import FORMATS
from groundup.model.ops.blocks_quantize import QUANTIZERS, quantize
from groundup.model.ops.linear import linear_onednn
from groundup.model.ops.norm import layer_norm, layer_norm_fast, rms_norm, rms_norm_fast
from groundup.model.ops.products import multiply_blocks, multiply_blocks_reference
from groundup.model.ops.rotary import rotary_fast, rotary_reference, rotary_tables


def _normal(seed: int, name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed_for(seed, name)))


def _norm_inputs(seed: int) -> tuple[Any, ...]:
    return 3 * _normal(seed, "x", 3, 17, 96) + 1, _normal(seed, "weight", 96), 1e-6


def _layer_norm_inputs(seed: int) -> tuple[Any, ...]:
    x, weight, eps = _norm_inputs(seed)
    return x, weight, _normal(seed, "bias", 96) if seed % 2 else None, eps


def _rotary_inputs(seed: int) -> tuple[Any, ...]:
    positions, rotary = torch.arange(19)[None] + 7 * seed, RotaryConfig(partial_rotary_factor=0.5 if seed % 2 else 1.0)
    return _normal(seed, "x", 2, 6, 19, 32), *rotary_tables(positions, 32, rotary, torch.float32)


def _attention_inputs(seed: int) -> tuple[Any, ...]:
    query, key, value = (_normal(seed, name, 2, heads, 33, 16) for name, heads in (("q", 6), ("k", 2), ("v", 2)))
    mask = _normal(seed, "mask", 2, 33) > 0
    visible = visible_keys(33, 33, is_causal=True, mask=mask) if seed % 2 else None
    if seed % 4 == 2:  # Gemma 3: a window, and scores divided by another number than the root of d
        return query, key, value, visible_keys(33, 33, is_causal=True, window=7), False, 0.4
    if seed % 4 == 3:  # Gemma 2's cap, gpt-oss's learned sinks
        return query, key, value, visible, False, None, 2.0, _normal(seed, "sinks", 6)
    return query, key, value, visible, visible is None


def _activation_inputs(seed: int) -> tuple[Any, ...]:
    return (3 * _normal(seed, "x", 5, 40),)


def _linear_inputs(seed: int) -> tuple[Any, ...]:
    bias = _normal(seed, "bias", 40) if seed % 2 else None
    return _normal(seed, "x", 3, 17, 24), _normal(seed, "weight", 40, 24), bias


def _whole_sequence_inputs(seed: int) -> tuple[Any, ...]:
    # Longer than a block, and not a multiple of it.
    heads = (("q", 4), ("k", 4 if seed % 2 else 2), ("v", 4 if seed % 2 else 2))
    return (*(_normal(seed, name, 2, count, 150 + seed % 5, 16) for name, count in heads), 0.3 if seed % 3 else None)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    return attention(query, key, value, is_causal=True, scale=scale)


#: Formats whose blocks a product takes, at 256 columns.
BLOCK_FORMATS = [name for name in FORMATS if name not in ("I8", "I16", "I32", "I64", "F64")]


def blocks_inputs(seed: int, format: str, rows: int = 0, outputs: int = 0, columns: int = 512) -> tuple[Any, ...]:
    """Activations, and a matrix in a block format: quantised where we can, else blocks of random bytes.

    Args:
        rows, outputs: of the product; random small numbers where 0.
    """
    draw = np.random.default_rng(seed_for(seed, "model.multiply_blocks", format))
    rows, outputs = rows or int(draw.integers(1, 20)), outputs or int(draw.integers(1, 50))
    x = draw.normal(size=(rows, columns)).astype(np.float32)
    if format in QUANTIZERS:
        return x, quantize(draw.normal(size=(outputs, columns)).astype(np.float32), format), format
    layout = FORMATS[format].layout
    data = draw.integers(0, 256, (outputs, columns // FORMATS[format].block_size * layout.itemsize), np.uint8)
    blocks = data.view(layout)
    for name in ("d", "m", "dmin"):
        if name in (layout.names or ()):
            blocks[name] = draw.normal(size=blocks.shape)
    if "e" in (layout.names or ()):
        blocks["e"] = draw.integers(120, 130, blocks["e"].shape)
    return x, data, format


def _blocks_inputs(seed: int) -> tuple[Any, ...]:
    return blocks_inputs(seed, BLOCK_FORMATS[seed % len(BLOCK_FORMATS)])


register("model.rms_norm", rms_norm, rms_norm_fast, _norm_inputs, 1e-5)
register("model.layer_norm", layer_norm, layer_norm_fast, _layer_norm_inputs, 1e-5)
register("model.rotary", rotary_reference, rotary_fast, _rotary_inputs, 1e-5)
register("model.attention", attention, attention_fast, _attention_inputs, 1e-5)
register("model.gelu_new", gelu_new, gelu_new_fast, _activation_inputs, 1e-5)
register("model.linear_onednn", F.linear, linear_onednn, _linear_inputs, 1e-5)
register("model.attention_stored", _causal, attention_stored, _whole_sequence_inputs, 1e-5)
if numba_works():
    register("model.multiply_blocks", multiply_blocks_reference, multiply_blocks, _blocks_inputs, 1e-5)
