"""Self-attention and cross-attention modules."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from groundup.core.errors import ModelError
from groundup.model.cache import KVCache, LayerCache
from groundup.model.config import AttentionConfig, CrossAttentionConfig, HeadsConfig
from groundup.model.ops.attention import attention_fast, attention_pattern, attention_scores, weighted_values
from groundup.model.ops.rotary import rotary_fast
from groundup.model.parts.basic import Linear, Point, ResidualLinear, for_products
from groundup.model.parts.builder import Builder
from groundup.model.parts.context import Context


class Heads(nn.Module):
    """Projections to query, key and value heads, the attention between them, and the projection back."""

    def __init__(self, config: HeadsConfig, hidden_size: int, memory_size: int, build: Builder) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        key_value_size = self.num_key_value_heads * self.head_dim
        self.q_proj = Linear(hidden_size, self.num_heads * self.head_dim, bias=config.qkv_bias)
        self.k_proj = Linear(memory_size, key_value_size, bias=config.qkv_bias)
        self.v_proj = Linear(memory_size, key_value_size, bias=config.qkv_bias)
        self.o_proj = ResidualLinear(self.num_heads * self.head_dim, hidden_size, bias=config.output_bias)
        self.q_norm: nn.Module | None = None
        self.k_norm: nn.Module | None = None
        self.norms_heads = config.qk_norm_scope == "head"
        if config.qk_norm is not None:
            whole = self.num_heads * self.head_dim, key_value_size
            query_size, key_size = (self.head_dim, self.head_dim) if self.norms_heads else whole
            self.q_norm, self.k_norm = build(config.qk_norm, query_size), build(config.qk_norm, key_size)
        self.scale: float | None = None
        self.softcap: float | None = None
        self.sink_logits: nn.Parameter | None = None
        self.scores = Point()  # B H T S, before the softmax
        self.pattern = Point()  # B H T S, rows sum to one

    def project(
        self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "B S E"]
    ) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B K S d"], Float[Tensor, "B K S d"]]:
        """Queries of `x`, keys and values of `memory`, split into heads."""
        query, key = self.q_proj(x), self.k_proj(memory)
        if not self.norms_heads and self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query = query.unflatten(-1, (self.num_heads, self.head_dim))
        key = key.unflatten(-1, (self.num_key_value_heads, self.head_dim))
        value = self.v_proj(memory).unflatten(-1, (self.num_key_value_heads, self.head_dim))
        if self.norms_heads and self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def attend(
        self,
        query: Float[Tensor, "B H T d"],
        key: Float[Tensor, "B K S d"],
        value: Float[Tensor, "B K S d"],
        visible: Bool[Tensor, "#B 1 T S"] | None,
    ) -> Float[Tensor, "B H T d"]:
        """Attention in readable steps, with the scores and the pattern passing their observation points."""
        scores = self.scores(attention_scores(query, key, visible, self.scale, self.softcap))
        return weighted_values(self.pattern(attention_pattern(scores, self.sink_logits)), value)

    @property
    def is_observed(self) -> bool:
        """True when someone looks at the scores or the pattern, which the fused kernel never stores."""
        return self.scores.is_hooked or self.pattern.is_hooked

    def merge(self, heads: Float[Tensor, "B H T d"]) -> Float[Tensor, "B T D"]:
        """Join the heads of each token and project back to the residual stream."""
        result: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return result


class Attention(Heads):
    """Multi-head or grouped-query self-attention."""

    def __init__(self, config: AttentionConfig, hidden_size: int, build: Builder) -> None:
        super().__init__(config, hidden_size, hidden_size, build)
        self.is_causal, self.rotary = config.is_causal, config.rotary
        self.rotary_name = "" if config.rotary is None else config.rotary.to_json()
        self.window, self.num_sink_tokens = config.sliding_window, config.num_sink_tokens
        self.softcap = config.attn_logit_softcapping
        if config.query_pre_attn_scalar is not None:
            self.scale = config.query_pre_attn_scalar**-0.5
        if config.sink_logits:
            self.sink_logits = nn.Parameter(torch.zeros(config.num_attention_heads))

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for this layer."""
        if not self.is_causal:
            raise ModelError("attention with is_causal=False reads tokens that are still to come: it has no cache")
        return KVCache(batch_size, max_length)

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix the tokens of `x`; with a cache, also with those seen before."""
        x = for_products(x)
        query, key, value = self.project(x, x)
        if self.rotary is not None:
            cos, sin = context.rotary(self.head_dim, self.rotary, query.dtype, self.rotary_name)
            query, key = rotary_fast(query, cos, sin), rotary_fast(key, cos, sin)
        if cache is not None:
            key, value = cache.update(key, value)
        reach = (self.is_causal, self.window, self.num_sink_tokens)
        if self.is_observed:
            return self.merge(self.attend(query, key, value, context.visible(*reach)))
        visible, is_causal = context.visibility(*reach)
        heads = attention_fast(query, key, value, visible, is_causal, self.scale, self.softcap, self.sink_logits)
        return self.merge(heads)


class CrossAttention(Heads):
    """Attention of the tokens over a memory, all of which every token sees."""

    def __init__(self, config: CrossAttentionConfig, hidden_size: int, build: Builder) -> None:
        self.memory_size = config.memory_size or hidden_size
        super().__init__(config, hidden_size, self.memory_size, build)

    def forward(self, x: Float[Tensor, "B T D"], context: Context) -> Float[Tensor, "B T D"]:
        """Read the memory of the context.

        Raises:
            ModelError: when there is none, or it has another width.
        """
        memory = context.memory
        if memory is None:
            raise ModelError("this model has cross-attention: give forward(..., memory=...)")
        if memory.shape[-1] != self.memory_size:
            raise ModelError(f"the memory has width {memory.shape[-1]}, this model reads width {self.memory_size}")
        query, key, value = self.project(x, for_products(memory))
        if self.is_observed:
            return self.merge(self.attend(query, key, value, None))
        return self.merge(attention_fast(query, key, value))
