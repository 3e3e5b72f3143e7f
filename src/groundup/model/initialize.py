"""Other starting values than `build`'s normal ones."""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.core.seeds import seed_for
from groundup.model.parts.attention import Attention
from groundup.model.transformer import Transformer


def pass_values_through(model: Transformer, strength: float, *, seed: int) -> None:
    """Start every self-attention so that it adds what it attends to, unchanged but for its strength.

    With W_v = sqrt(a) Q and W_o = sqrt(a) Q^T for a random orthogonal Q, the product W_o W_v is a times the identity
    (on the subspace that the value heads span). A token then carries a copy of what it attended to, which is what
    reading back from the prompt (an induction head) is made of: on repeated random sequences two layers learned to
    copy in 450 updates, where normal starting values had not begun to after 500 (docs/experiments.md).

    Args:
        strength: a; 0 leaves the model as it is.
        seed: of Q, one for each layer.

    Raises:
        ModelError: when the strength is negative.

    Source: the value-projection half of mimetic initialisation, Trockman and Kolter 2023, arXiv:2305.09828.
    """
    if strength < 0:
        raise ModelError(f"the strength ({strength}) of passing values through must not be negative")
    if strength == 0:
        return
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Attention):
                generator = torch.Generator().manual_seed(seed_for(seed, "values", name))
                value, output = module.v_proj.weight, module.o_proj.weight
                rows = _orthonormal_rows(value.shape[0], value.shape[1], generator)
                value.copy_(strength**0.5 * rows)
                # Query heads that share a value head each give their part of the identity.
                d = module.head_dim
                groups = output.shape[1] // value.shape[0]
                shared = rows.reshape(-1, d, rows.shape[1]).repeat_interleave(groups, dim=0).flatten(0, 1)
                output.copy_(strength**0.5 / groups * shared.T)


def _orthonormal_rows(count: int, size: int, generator: torch.Generator) -> Tensor:
    """`count` random rows of `size`: orthonormal, or where there are more rows than that, in orthonormal blocks."""
    blocks = []
    for start in range(0, count, size):
        square = torch.randn(size, size, generator=generator)
        blocks.append(torch.linalg.qr(square).Q[: min(size, count - start)])
    return torch.cat(blocks)
