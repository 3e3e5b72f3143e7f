"""Scaled dot-product attention with grouped queries: an explicit reference and torch's fused kernel."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from groundup.model.ops.attention_stored import attention_stored
from groundup.model.ops.paths import stores_pattern


def visible_keys(
    query_length: int,
    key_length: int,
    *,
    is_causal: bool,
    window: int | None = None,
    sinks: Bool[Tensor, "#B S"] | None = None,
    mask: Bool[Tensor, "B S"] | None = None,
    segments: Int[Tensor, "B S"] | None = None,
    device: torch.device | None = None,
) -> Bool[Tensor, "B_or_1 1 T S"]:
    """Which keys each query may see; the queries are the last `query_length` of the `key_length` tokens.

    A token always sees itself, so that a padding token, which nothing else reads, gets a finite result.

    Args:
        window: a query sees itself and the `window - 1` keys before it (Beltagy et al. 2020, arXiv:2004.05150).
        sinks: True where a key stays visible beyond the window (Xiao et al. 2023, arXiv:2309.17453).
        mask: False where a key is padding.
        segments: document number of each token; tokens see only their own document.
    """
    queries = torch.arange(key_length - query_length, key_length, device=device)[:, None]
    keys = torch.arange(key_length, device=device)[None, :]
    visible = (keys <= queries if is_causal else torch.ones_like(keys <= queries))[None, None]
    if window is not None:
        near = (queries - keys < window)[None, None]
        visible = visible & (near if sinks is None else near | sinks[:, None, None, :])
    if segments is not None:
        rows = segments[:, key_length - query_length :]
        visible = visible & (rows[:, None, :, None] == segments[:, None, None, :])
    if mask is not None:
        visible = visible & mask[:, None, None, :]
    return visible | (keys == queries) if mask is not None else visible


def attention_scores(
    query: Float[Tensor, "B H T d"],
    key: Float[Tensor, "B K S d"],
    visible: Bool[Tensor, "#B 1 T S"] | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "B H T S"]:
    """query . key * scale, and minus infinity where a key may not be seen.

    Args:
        query: H is a multiple of K; each key-value head serves H/K query heads.
        key: keys.
        visible: True where a query may see a key.
        scale: 1 / sqrt(d) where not given.
        softcap: bend the scores to stay below it, c tanh(score / c) (Gemma 2, arXiv:2408.00118, section 2).
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # B H S d
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores if visible is None else scores.masked_fill(~visible, -math.inf)


def attention_pattern(
    scores: Float[Tensor, "B H T S"], sink_logits: Float[Tensor, " H"] | None = None
) -> Float[Tensor, "B H T S"]:
    """Softmax over the keys, in at least float32; the result has the dtype of `scores`.

    Args:
        scores: of each query for each key.
        sink_logits: a score of each head that takes part in the softmax and reads nothing, so that the rows sum to
            less than one (gpt-oss; Miller 2023 asked for a constant one).
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if sink_logits is None:
        return torch.softmax(wide, dim=-1).to(scores.dtype)
    sink = sink_logits.to(wide.dtype)[None, :, None, None].expand(*wide.shape[:3], 1)
    return torch.softmax(torch.cat((wide, sink), dim=-1), dim=-1)[..., :-1].to(scores.dtype)


def weighted_values(pattern: Float[Tensor, "B H T S"], value: Float[Tensor, "B K S d"]) -> Float[Tensor, "B H T d"]:
    """The mean of the values under the pattern."""
    return pattern @ value.repeat_interleave(pattern.shape[1] // value.shape[1], dim=1)


def attention(
    query: Float[Tensor, "B H T d"],
    key: Float[Tensor, "B K S d"],
    value: Float[Tensor, "B K S d"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H T d"]:
    """softmax(query . key / sqrt(d)) . value (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    Args:
        query: H is a multiple of K; each key-value head serves H/K query heads.
        key: keys.
        value: values.
        visible: True where a query may see a key.
        is_causal: in place of `visible`, when S == T: a query sees itself and the keys before it.
        scale, softcap: see `attention_scores`.
        sink_logits: see `attention_pattern`.
    """
    if is_causal:
        visible = visible_keys(query.shape[2], key.shape[2], is_causal=True, device=query.device)
    scores = attention_scores(query, key, visible, scale, softcap)
    return weighted_values(attention_pattern(scores, sink_logits), value)


def attention_fast(
    query: Float[Tensor, "B H T d"],
    key: Float[Tensor, "B K S d"],
    value: Float[Tensor, "B K S d"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    sink_logits: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H T d"]:
    """`attention` through torch's fused kernel, which never stores the T x S pattern (Dao et al. 2022).

    The kernel knows neither a cap nor a learned sink: those take the explicit steps. Training takes `attention_stored`
    where its plan says so.
    """
    if softcap is not None or sink_logits is not None:
        return attention(query, key, value, visible, is_causal, scale, softcap, sink_logits)
    if is_causal and stores_pattern(query):
        return attention_stored(query, key, value, scale)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
