"""A numpy twin of the compiled step, bit for bit: the same roundings in the same order, written to be read.

Rounding activations to eight bits makes a deep model chaotic: two computations that differ in the last bit of one sum are,
thirty layers later, as far apart as either is from the unrounded model. So what the kernels compute can only be checked
against something that rounds exactly as they do. This is Llama's forward pass over a whole text; `fma` is a multiplication
and addition that rounds once, as on every processor with AVX2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundup.model.config import AttentionConfig, GatedMLPConfig, RMSNormConfig, TransformerConfig
from groundup.model.ops.blocks import FORMATS, split_planes
from groundup.model.weights.tile_source import GgufTiles

F, D = np.float32, np.float64
Floats = NDArray[np.float32]
LOWEST = F(-1e30)


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """a b + c, rounded once: the product of two floats is exact in double precision."""
    return (a.astype(D) * b.astype(D) + c.astype(D)).astype(F)


def tree(lanes: Floats) -> Floats:
    """The sum of sixteen lanes (the last axis), halves onto each other."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def exp(x: Floats) -> Floats:
    magic = F(12582912.0)
    y = np.clip(x, F(-87), F(88))
    shifted = fma(y, np.full_like(y, F(1.44269504088896341)), np.full_like(y, magic))
    whole = shifted - magic
    r = fma(whole, np.full_like(y, F(-0.693359375)), y)
    r = fma(whole, np.full_like(y, F(2.12194440e-4)), r)
    p = np.full_like(y, F(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, np.full_like(y, F(c)))
    p = fma(r * r, p, r) + F(1)
    scaled = (p.view(np.int32) + (shifted.view(np.int32) << 23)).view(F)
    return np.where(x < F(-87), F(0), scaled)


def rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    sums = np.zeros((*x.shape[:-1], 16), F)
    for place in range(0, x.shape[-1], 16):
        part = x[..., place : place + 16]
        sums = fma(part, part, sums)
    factor = (1.0 / np.sqrt(tree(sums).astype(D) / x.shape[-1] + D(F(epsilon)))).astype(F)
    return (x * factor[..., None]) * weight


class Matrix:
    """A matrix of Q4_1 or Q8_0 blocks."""

    def __init__(self, weights: GgufTiles, name: str) -> None:
        rows, order = weights._rows_of(name), weights._order(name)
        format = weights.format(name)
        blocks = np.ascontiguousarray(rows if order is None else rows[order]).view(FORMATS[format].layout)
        count, width = blocks.shape
        self.d = blocks["d"].astype(F)
        self.m = blocks["m"].astype(F) if format == "Q4_1" else None
        flat = blocks["qs"].reshape(count * width, -1)
        codes = flat.view(np.int8) if format == "Q8_0" else split_planes(flat, 4, 16)
        self.codes = codes.reshape(count, width, 32)

    def times(self, x: Floats) -> Floats:
        blocks = x.reshape(len(x), -1, 32)
        largest = np.abs(blocks).max(-1)
        inverse = np.divide(127.0, largest, out=np.zeros(largest.shape), where=largest > 0).astype(F)
        codes = np.rint(blocks * inverse[..., None])
        exact = largest.astype(D) / 127.0
        scales, sums = exact.astype(F), (exact * codes.sum(-1, dtype=D)).astype(F)
        result = np.zeros((len(x), len(self.d)), F)
        for block in range(blocks.shape[1]):
            # Whole numbers below 2^24: exact in float32, in any order.
            totals = codes[:, block] @ self.codes[:, block].astype(F).T
            result = fma(totals, self.d[None, :, block] * scales[:, block, None], result)
            if self.m is not None:
                result = fma(self.m[None, :, block], sums[:, block, None], result)
        return result


def attend(query: Floats, key: Floats, value: Floats, factor: float) -> Floats:
    """Causal attention of a head over a whole text, in blocks of 64 keys and segments of 512."""
    count = len(query)
    whole, total, top = np.zeros_like(query), np.zeros(count, F), np.full(count, LOWEST)
    for segment in range(0, count, 512):
        part, part_total, part_top = np.zeros_like(query), np.zeros(count, F), np.full(count, LOWEST)
        for begin in range(segment, min(segment + 512, count), 64):
            keys = key[begin : begin + 64]
            scores = np.zeros((count, len(keys)), F)
            for place in range(query.shape[1]):
                scores = fma(keys[None, :, place], query[:, place, None], scores)
            scores = scores * F(factor)
            hidden = np.arange(begin, begin + len(keys))[None] > np.arange(count)[:, None]
            scores[hidden] = -np.inf
            new = np.maximum(part_top, scores.max(-1))
            shares = exp(scores - new[:, None])
            lanes = np.zeros((count, 16), F)
            for sixteen in range(0, len(keys), 16):
                piece = shares[:, sixteen : sixteen + 16]
                lanes[:, : piece.shape[1]] = lanes[:, : piece.shape[1]] + piece
            shrink = exp(part_top - new)
            part_total = part_total * shrink + tree(lanes)
            part = part * shrink[:, None]
            for place in range(len(keys)):
                part = fma(value[begin + place][None], shares[:, place, None], part)
            part_top = new
        new = np.maximum(top, part_top)
        of_old, of_new = exp(top - new), exp(part_top - new)
        total = total * of_old + part_total * of_new
        whole = fma(part, of_new[:, None], whole * of_old[:, None])
        top = new
    return (whole.astype(D) * (1.0 / total.astype(D))[:, None]).astype(F)


def rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    half = cos.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)


def to_bfloat16(x: Floats) -> Floats:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(F)


def logits(weights: GgufTiles, ids: list[int], cos: Floats, sin: Floats, *, rounds_cache: bool) -> Floats:
    """The logits after every token of a text, (T, V).

    Args:
        weights: of a Llama of Q4_1 and Q8_0 blocks with a tied head.
        ids: the text.
        cos, sin: the rotary tables, (T, half).
        rounds_cache: keys and values are kept in bfloat16.
    """
    config: TransformerConfig = weights.config
    x = weights.rows("embed.weight", np.array(ids))
    kept = to_bfloat16 if rounds_cache else lambda values: values
    for index, layer in enumerate(config.layers()):
        name, mixer, mlp = f"layers.{index}", layer.mixer, layer.mlp
        assert isinstance(mixer, AttentionConfig) and isinstance(mlp, GatedMLPConfig) and mlp.activation == "silu"
        assert isinstance(layer.norm, RMSNormConfig) and mixer.qk_norm is None and not mixer.qkv_bias

        def normed(which: str, x: Floats = x, name: str = name, epsilon: float = layer.norm.rms_norm_eps) -> Floats:
            return rms_norm(x, weights.vector(f"{name}.{which}_norm.weight"), epsilon)

        heads, kv_heads, size = mixer.num_attention_heads, mixer.num_key_value_heads, mixer.head_dim
        y = normed("attn")
        query, key, value = (
            Matrix(weights, f"{name}.attn.{part}_proj.weight").times(y).reshape(len(ids), -1, size) for part in "qkv"
        )
        if mixer.rotary is not None:
            query, key = (rotate(part, cos[:, None], sin[:, None]) for part in (query, key))
        key, value = kept(np.ascontiguousarray(key)), kept(np.ascontiguousarray(value))
        mixed = np.stack(
            [
                attend(query[:, h], key[:, h * kv_heads // heads], value[:, h * kv_heads // heads], size**-0.5)
                for h in range(heads)
            ],
            axis=1,
        )
        x = Matrix(weights, f"{name}.attn.o_proj.weight").times(mixed.reshape(len(ids), -1)) + x
        y = normed("mlp", x)
        gate, up = (Matrix(weights, f"{name}.mlp.{part}_proj.weight").times(y) for part in ("gate", "up"))
        sigmoid = F(1) / (F(1) + exp(-gate))
        x = Matrix(weights, f"{name}.mlp.down_proj.weight").times(gate * sigmoid * up) + x
    assert isinstance(config.final_norm, RMSNormConfig)
    final = rms_norm(x, weights.vector("final_norm.weight"), config.final_norm.rms_norm_eps)
    return Matrix(weights, "embed.weight").times(final)
