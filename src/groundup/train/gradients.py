"""Norm and scale of all gradients in a few calls, and what to say when they are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundup.train.distributed import Parallel
from groundup.train.optimizer import local


def norm_of(gradients: list[Tensor], parallel: Parallel) -> float:
    """Return the length of all gradients as one vector."""
    if not gradients:
        return 0.0
    norms = torch.stack(torch._foreach_norm([local(gradient) for gradient in gradients]))
    norm = float(torch.linalg.vector_norm(norms))
    if not parallel.sharded:
        return norm
    return float(parallel.sum([norm * norm])[0] ** 0.5)


def scale(gradients: list[Tensor], factor: float) -> None:
    """Multiply all gradients in place."""
    torch._foreach_mul_([local(gradient) for gradient in gradients], factor)


def diagnose(model: nn.Module) -> str:
    """Say which parameter is the first whose value, or else whose gradient, is not finite."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(local(parameter)).all()):
            return f"The first parameter with a non-finite value is {name}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(local(parameter.grad)).all()):
            return f"All parameters are finite; the first with a non-finite gradient is {name}"
    return "All parameters and gradients are finite, the loss is not"
