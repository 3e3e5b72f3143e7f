"""From gradients to the next parameters: SGD, momentum, RMSProp, Adam, AdamW.

With theta a parameter, g its gradient, r the rate, at step t. v, s and u are remembered from step to step and begin at 0; m, a,
b1 and b2 are the shares of them that are kept (momentum, alpha, betas); eps keeps quotients finite. Why each is as it is:
`docs/concepts/optimizers.md`.

    SGD        theta - r g
    momentum   v = m v + g;                      theta - r v                         (Nesterov: theta - r (g + m v))
    RMSProp    s = a s + (1 - a) g^2;            theta - r g / (sqrt(s) + eps)
    Adam       u = b1 u + (1 - b1) g;  s = b2 s + (1 - b2) g^2;
               theta - r u' / (sqrt(s') + eps),  u' = u / (1 - b1^t),  s' = s / (1 - b2^t)
    AdamW      the same, after theta (1 - r decay)

Sources: Polyak 1964; Sutskever et al. 2013 (Nesterov); Hinton 2012, lecture 6e (RMSProp); Kingma and Ba 2015, algorithm 1;
Loshchilov and Hutter 2019, algorithm 2. Names and defaults are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from groundup.core.errors import UsageError
from groundup.foundations.tensor import Array, Tensor


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> float:
    """Shrink all gradients together until their norm is at most `largest`; their direction stays.

    One step of an exploding gradient can undo all that was learned: the norm says how far the slope can be trusted.

    Args:
        parameters: those without a gradient are left out.
        largest: of the Euclidean norm over all elements of all gradients; above 0.

    Returns:
        the norm before.

    Source: Pascanu et al. 2013, algorithm 1; the 1e-6 is torch's.
    """
    if not largest > 0:
        raise UsageError(f"gradients clipped to a norm of {largest}: it must be above 0")
    held = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(float(np.vdot(gradient, gradient)) for _, gradient in held))
    scale = largest / (norm + 1e-6)
    if scale < 1:
        for parameter, gradient in held:
            parameter.grad = gradient * scale
    return norm


class Optimizer:
    """Takes steps; what it remembers of a parameter begins at zero.

    Args:
        parameters: tensors that require gradients.
        rate: the learning rate, which may be set between two steps.
        weight_decay: times the parameter is added to its gradient.
    """

    #: How many arrays are remembered for each parameter.
    num_memories = 0

    def __init__(self, parameters: Iterable[Tensor], rate: float, *, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        if not self.parameters or not all(parameter.requires_grad for parameter in self.parameters):
            raise UsageError("an optimizer needs parameters, and each must require a gradient")
        if not rate >= 0 or not weight_decay >= 0:
            raise UsageError(f"a rate of {rate} and a weight decay of {weight_decay}: both must be 0 or more")
        self.rate, self.weight_decay = rate, weight_decay
        #: Steps of each parameter: one that had no gradient yet has taken none.
        self.num_steps = [0] * len(self.parameters)
        self.memories = [
            [np.zeros(parameter.shape, parameter.dtype) for _ in range(self.num_memories)]
            for parameter in self.parameters
        ]

    def zero_grad(self) -> None:
        """Forget the gradients, to which the next `backward` would add."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Give every parameter that has a gradient its next values."""
        for place, (parameter, memory) in enumerate(zip(self.parameters, self.memories, strict=True)):
            if parameter.grad is not None:
                self.num_steps[place] += 1
                parameter.data = self.next_values(parameter.data, parameter.grad, memory, self.num_steps[place])

    def next_values(self, values: Array, gradient: Array, memory: list[Array], number: int) -> Array:
        """One parameter after its step of this number, from 1; `memory` is replaced element by element."""
        raise NotImplementedError

    def decayed(self, values: Array, gradient: Array) -> Array:
        """The gradient with that of the penalty decay / 2 * theta^2 added, which pulls parameters towards 0."""
        return gradient + self.weight_decay * values if self.weight_decay else gradient


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum where it is above 0.

    Args:
        momentum: share of the last direction that is kept.
        nesterov: look ahead along the direction.
    """

    num_memories = 1

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, rate, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise UsageError(f"a momentum of {momentum}: at least 0 and below 1")
        if nesterov and not momentum:
            raise UsageError("Nesterov's step looks ahead along the momentum, which is 0")
        self.momentum, self.nesterov = momentum, nesterov

    def next_values(self, values: Array, gradient: Array, memory: list[Array], number: int) -> Array:
        """As at the top of this file."""
        gradient = self.decayed(values, gradient)
        memory[0] = self.momentum * memory[0] + gradient
        direction = gradient + self.momentum * memory[0] if self.nesterov else memory[0]
        return values - self.rate * direction


class RMSProp(Optimizer):
    """Each element's gradient over the root of its recent mean square.

    Args:
        alpha: share of the last mean that is kept.
        epsilon: keeps the quotient finite.
    """

    num_memories = 1

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float = 1e-2,
        *,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, rate, weight_decay=weight_decay)
        self.alpha, self.epsilon = alpha, epsilon

    def next_values(self, values: Array, gradient: Array, memory: list[Array], number: int) -> Array:
        """As at the top of this file."""
        gradient = self.decayed(values, gradient)
        memory[0] = self.alpha * memory[0] + (1 - self.alpha) * gradient**2
        return values - self.rate * gradient / (np.sqrt(memory[0]) + self.epsilon)


class Adam(Optimizer):
    """Momentum over the root of the mean square, both corrected for having begun at zero.

    Args:
        betas: shares of the last mean and of the last mean square that are kept.
        epsilon: keeps the quotient finite.
    """

    num_memories = 2

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, rate, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"betas of {betas}: at least 0 and below 1")
        self.betas, self.epsilon = betas, epsilon

    def next_values(self, values: Array, gradient: Array, memory: list[Array], number: int) -> Array:
        """As at the top of this file."""
        gradient = self.decayed(values, gradient)
        first, second = self.betas
        memory[0] = first * memory[0] + (1 - first) * gradient
        memory[1] = second * memory[1] + (1 - second) * gradient**2
        mean = memory[0] / (1 - first**number)
        square = memory[1] / (1 - second**number)
        return values - self.rate * mean / (np.sqrt(square) + self.epsilon)


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself and is not divided by the mean square."""

    def next_values(self, values: Array, gradient: Array, memory: list[Array], number: int) -> Array:
        """As at the top of this file."""
        return super().next_values(values * (1 - self.rate * self.weight_decay), gradient, memory, number)

    def decayed(self, values: Array, gradient: Array) -> Array:
        """The gradient as it is."""
        return gradient
