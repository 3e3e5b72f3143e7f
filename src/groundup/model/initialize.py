"""Other starting values than `build`'s normal ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.core.seeds import seed_for
from groundup.model.parts.attention import Attention
from groundup.model.transformer import Transformer

# Part of an embedding's squared length that is the same in every token: what a head can attend by place with.
SHARED_LENGTH = 0.5
# Fastest rotary pairs of the previous-token head: enough of them that no distance but 1 suits all.
PLACE_PAIRS = 4
# Strength of the copies: of the previous token into the stream, and of the matched token's follower onto the output.
CARRY, COPY = 0.5, 3.0


def plant_induction_circuit(model: Transformer, *, seed: int) -> None:
    """Start with an induction circuit: after `A B ... A` the model at once expects `B`.

    Reading an answer off the prompt needs two heads in two layers (Olsson et al. 2022, arXiv:2209.11895). Training
    finds them late, after more tokens than a small corpus and a few minutes give (docs/experiments.md); here they are
    written into the starting values, and training goes on from there. Only head 0 of the first two layers and the
    embedding differ from `build`; every weight stays free.

    - Every embedding gets a shared direction u. In layer 0, head 0 makes its query and key from u alone, the key
      turned on by one position (rotary), so that each token attends to the one before it; it writes a part P of that
      token's embedding into a subspace S of the stream.
    - In layer 1, head 0 compares P of the present token with what stands in S, in the slowest rotary pairs, where
      distance hardly matters. It thus attends to tokens that followed the same token before, and copies their
      embedding to the output, which with tied embeddings raises exactly their scores.

    Args:
        model: at least two layers of rotary self-attention, with embeddings tied to the head.
        seed: of the directions.

    Raises:
        ModelError: when the model has no room for the circuit, saying which part is missing.
    """
    first, second = _heads(model)
    d, size = first.head_dim, model.config.hidden_size
    generator = torch.Generator().manual_seed(seed_for(seed, "induction"))
    axes = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q.T
    shared, axes = axes[0], axes[1:]
    slow = _slow_dimensions(d)
    count = len(slow)
    present, written, content = axes[:count], axes[count : 2 * count], axes[2 * count : 2 * count + d]
    with torch.no_grad():
        embedding = torch.randn(model.embed.weight.shape, generator=generator) / math.sqrt(size)
        model.embed.weight.copy_(embedding + SHARED_LENGTH * shared)
        _attend_to_previous(first, shared)
        first.v_proj.weight[:count] = present
        first.o_proj.weight[:, :count] = CARRY * written.T
        for weight, read in ((second.q_proj.weight, present), (second.k_proj.weight, written)):
            weight[:d] = 0
            weight[slow] = _gain(second, size, count) * read
        second.v_proj.weight[:d] = content
        second.o_proj.weight[:, :d] = COPY * content.T


def has_room_for_induction(model: Transformer) -> bool:
    """True when `plant_induction_circuit` applies to the model."""
    try:
        _heads(model)
    except ModelError:
        return False
    return True


def _heads(model: Transformer) -> tuple[Attention, Attention]:
    """The attention of the first two layers, or a ModelError that names what the circuit lacks."""
    rotary = [layer.attn for layer in model.layers if isinstance(layer.attn, Attention) and _turns_whole(layer.attn)]
    if len(model.layers) < 2:
        missing = f"two layers (it has {len(model.layers)})"
    elif len(rotary) < 2 or rotary[0] is not model.layers[0].attn or rotary[1] is not model.layers[1].attn:
        missing = "rotary self-attention in its first two layers"
    elif not model.config.tie_word_embeddings:
        missing = "tied embeddings (tie_word_embeddings)"
    else:
        d = rotary[0].head_dim
        needed = 1 + d + 2 * len(_slow_dimensions(d))
        if d % 8 == 0 and needed <= model.config.hidden_size:
            return rotary[0], rotary[1]
        missing = f"heads of a multiple of 8 and a width of at least {needed} (head_dim {d})"
    raise ModelError(f"an induction circuit needs {missing}: use the normal starting values")


def _turns_whole(attention: Attention) -> bool:
    """True with plain rotary positions over the whole head, for which the angles below are computed."""
    rotary = attention.rotary
    return rotary is not None and rotary.scaling is None and rotary.partial_rotary_factor == 1.0


def _slow_dimensions(d: int) -> list[int]:
    """The slowest quarter of the rotary pairs: dimension i turns together with i + d / 2."""
    half, pairs = d // 2, d // 8
    return [*range(half - pairs, half), *range(d - pairs, d)]


def _attend_to_previous(attention: Attention, shared: Tensor) -> None:
    """Let head 0 attend to the previous token: scores are highest where the key stands one position earlier."""
    d = attention.head_dim
    assert attention.rotary is not None
    angles = attention.rotary.rope_theta ** (-torch.arange(PLACE_PAIRS) * 2 / d)
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[:d], key[:d] = 0, 0
    # The shared part of a normalised token has length 0.45 sqrt(D); scores of 8 at the peak, as with normed heads.
    along = SHARED_LENGTH / math.sqrt(1 + SHARED_LENGTH**2) * math.sqrt(len(shared))
    gain = math.sqrt(8 * math.sqrt(d) / PLACE_PAIRS) / along
    query[:PLACE_PAIRS] = gain * shared
    key[:PLACE_PAIRS] = gain * torch.cos(angles)[:, None] * shared
    key[d // 2 : d // 2 + PLACE_PAIRS] = gain * torch.sin(angles)[:, None] * shared


def _gain(attention: Attention, size: int, count: int) -> float:
    """Scale of the matching head's query and key; head norms make it irrelevant, without them scores reach about 8."""
    if attention.q_norm is not None:
        return 1.0
    # A normalised token has `count` components of about 0.4 on either side.
    return math.sqrt(8 * math.sqrt(attention.head_dim) / (count * 0.4 * 1.2))
