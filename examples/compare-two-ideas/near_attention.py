"""Attention that prefers what is near, in place of rotary positions."""

import torch
from torch import nn
from torch.nn import functional as F

from groundup.model.cache import KVCache


class NearAttention(nn.Module):
    """Each head lowers a score by its slope times the distance; the slopes are learned."""

    def __init__(self, hidden_size, num_heads=3):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.log_slope = nn.Parameter(torch.linspace(-1.0, -6.0, num_heads))

    def new_cache(self, batch_size, max_length):
        return KVCache(batch_size, max_length)

    def forward(self, x, context, cache=None):
        heads = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = heads.transpose(1, 3).unbind(2)  # B H T d
        if cache is not None:
            key, value = cache.update(key, value)
        visible = context.visible(is_causal=True)  # B or 1, 1, T, S: documents and padding are kept apart
        places = torch.arange(key.shape[2], device=x.device)
        distance = places[context.length :, None] - places  # T S
        bias = -self.log_slope.exp()[:, None, None] * distance
        bias = bias.masked_fill(~visible, float("-inf")).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))
