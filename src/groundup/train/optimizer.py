"""AdamW: a readable reference and the fused kernel, behind one torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from groundup.core.registry import register

Tensors = list[Tensor]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: matrices, which decay, and vectors (norms, biases), which do not.

    A gain or a bias pulled to zero loses its scale without making the function simpler.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay; the learning rate is read from the groups at each step.

    Args:
        groups: from `parameter_groups`, or any iterable of parameters.
        lr, beta1, beta2, epsilon, weight_decay: defaults of the groups.
        update: `adamw_reference`, `adamw_foreach` or `adamw_fused`; None takes the fastest for the device.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        *,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.95,
        epsilon: float = 1e-8,
        weight_decay: float = 0.1,
        update: Callable[..., None] | None = None,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": weight_decay}
        )
        self.update = update
        self.num_updates = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.num_updates += 1
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            if not with_gradient:
                continue
            states = [self.moments(p) for p in with_gradient]
            update = self.update or (adamw_foreach if with_gradient[0].device.type == "mps" else adamw_fused)
            update(
                [local(p) for p in with_gradient],
                [local(p.grad) for p in with_gradient if p.grad is not None],
                [local(mean) for mean, _ in states],
                [local(square) for _, square in states],
                self.num_updates,
                lr=group["lr"],
                beta1=group["beta1"],
                beta2=group["beta2"],
                epsilon=group["epsilon"],
                weight_decay=group["weight_decay"],
            )
        return loss

    def moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """The running mean of a parameter's gradient and of its square, zero at first."""
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        return state["mean"], state["square"]


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor (FSDP2) that this process holds; any other tensor as it is."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
