"""One AdamW update: as the paper writes it, with a call for each operation, and fused; all change tensors in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from groundup.core.registry import register

Tensors = list[Tensor]


def adamw_reference(
    parameters: Tensors,
    gradients: Tensors,
    means: Tensors,
    squares: Tensors,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """One AdamW update in place, as the paper writes it.

    Args:
        parameters: changed in place.
        gradients: one for each parameter, of its shape.
        means: running mean of the gradients (m), changed in place.
        squares: running mean of the squared gradients (v), changed in place.
        step: 1 for the first update.

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
    """
    for parameter, gradient, mean, square in zip(parameters, gradients, means, squares, strict=True):
        mean.mul_(beta1).add_((1 - beta1) * gradient)
        square.mul_(beta2).add_((1 - beta2) * gradient * gradient)
        unbiased_mean = mean / (1 - beta1**step)
        unbiased_square = square / (1 - beta2**step)
        parameter.mul_(1 - lr * weight_decay).sub_(lr * unbiased_mean / (unbiased_square.sqrt() + epsilon))


def adamw_foreach(
    parameters: Tensors,
    gradients: Tensors,
    means: Tensors,
    squares: Tensors,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """The same update with one call per operation for all parameters; works on every device."""
    if weight_decay:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, (1 - beta2**step) ** 0.5)
    torch._foreach_add_(denominators, epsilon)
    torch._foreach_addcdiv_(parameters, means, denominators, -lr / (1 - beta1**step))


def adamw_fused(
    parameters: Tensors,
    gradients: Tensors,
    means: Tensors,
    squares: Tensors,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """The same update in one pass over memory (the eight passes of `adamw_foreach` are bound by its bandwidth)."""
    torch._fused_adamw_(
        parameters,
        gradients,
        means,
        squares,
        [],
        [torch.tensor(float(step), device=parameters[0].device)] * len(parameters),
        amsgrad=False,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=epsilon,
        maximize=False,
    )


def _example(seed: int) -> tuple[Tensors, Tensors, Tensors, Tensors, int]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(17, 9), (33,), (4, 5, 6)]

    def draw() -> Tensors:
        return [torch.randn(shape, generator=generator) for shape in shapes]

    return draw(), draw(), draw(), [tensor.square() for tensor in draw()], 1 + seed % 50


def _on_copies(update: Callable[..., None]) -> Callable[..., Tensor]:
    """Make a pure function of an in-place update, for the parity test over all pairs."""

    def run(parameters: Tensors, gradients: Tensors, means: Tensors, squares: Tensors, step: int) -> Tensor:
        copies = [[tensor.clone() for tensor in group] for group in (parameters, gradients, means, squares)]
        update(*copies, step, lr=1e-2, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
        return torch.cat([tensor.flatten() for tensor in (*copies[0], *copies[2], *copies[3])])

    return run


register("train.adamw_foreach", _on_copies(adamw_reference), _on_copies(adamw_foreach), _example, tolerance=1e-6)
register("train.adamw_fused", _on_copies(adamw_reference), _on_copies(adamw_fused), _example, tolerance=1e-6)
