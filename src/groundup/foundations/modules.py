"""Modules of the tensor engine: parameters with the function that uses them.

What batch norm is for is in `docs/concepts/initialisation.md`; layer norm does the same within each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from groundup.core.errors import UsageError
from groundup.foundations.functions import batch_norm, embedding, layer_norm
from groundup.foundations.tensor import Tensor


class Module:
    """Holds parameters, and other modules, as attributes; finds them there.

    Attributes:
        training: whether batch norm takes mean and variance from its batch, and dropout drops; set by `train`.
    """

    training = True

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every tensor that requires a gradient, with the attributes that lead to it; what is shared, once."""
        seen: set[int] = set()
        for name, part in self._walk(prefix):
            if isinstance(part, Tensor) and part.requires_grad and id(part) not in seen:
                seen.add(id(part))
                yield name, part

    def parameters(self) -> list[Tensor]:
        """The same without names."""
        return [parameter for _, parameter in self.named_parameters()]

    def modules(self) -> Iterator[Module]:
        """This module and all inside of it."""
        yield self
        for _, part in self._walk(""):
            if isinstance(part, Module):
                yield part

    def train(self, is_training: bool = True) -> None:
        """Set the mode of this module and of all inside of it."""
        for module in self.modules():
            module.training = is_training

    def convert(self, dtype: DTypeLike) -> None:
        """Give every parameter another type: float32 takes half the memory and about half the time of float64.

        To be done before an optimizer is made, which remembers arrays of the type that it finds.
        """
        for parameter in self.parameters():
            parameter.convert(dtype)

    def _walk(self, prefix: str) -> Iterator[tuple[str, object]]:
        for name, value in vars(self).items():
            parts = value if isinstance(value, list | tuple) else [value]
            for index, part in enumerate(parts):
                path = f"{prefix}{name}" if part is value else f"{prefix}{name}.{index}"
                if isinstance(part, Module):
                    yield path, part
                    yield from part._walk(f"{path}.")
                elif isinstance(part, Tensor):
                    yield path, part


def parameter(values: ArrayLike) -> Tensor:
    """A tensor that is trained."""
    return Tensor(values, requires_grad=True)


class Linear(Module):
    """x W + b.

    Args:
        size, outputs: numbers read and made.
        random: draws W from a normal distribution of deviation `gain` / sqrt(size) (Glorot and Bengio 2010, He et al. 2015), why is in
            `docs/concepts/initialisation.md`.
        gain: 1 keeps the variance of what passes; 5/3 makes up for a tanh, sqrt(2) for a relu.
        bias: whether there is b, which begins at 0.

    Attributes:
        weight: (size, outputs), as x stands in rows. torch, and with it `gpt.py`, keeps the transpose.
    """

    def __init__(
        self, size: int, outputs: int, random: np.random.Generator, *, gain: float = 1.0, bias: bool = True
    ) -> None:
        self.weight = parameter(random.standard_normal((size, outputs)) * gain * size**-0.5)
        self.bias = parameter(np.zeros(outputs)) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


class Embedding(Module):
    """A vector for each id.

    Args:
        count, size: ids, and numbers of a vector.
        random: draws from a normal distribution.
        deviation: of it.
    """

    def __init__(self, count: int, size: int, random: np.random.Generator, *, deviation: float = 1.0) -> None:
        self.weight = parameter(random.standard_normal((count, size)) * deviation)

    def __call__(self, ids: ArrayLike) -> Tensor:
        return embedding(self.weight, ids)


class LayerNorm(Module):
    """`layer_norm` with a weight of ones and a bias of zeros to begin with."""

    def __init__(self, size: int, epsilon: float = 1e-5) -> None:
        self.weight, self.bias, self.epsilon = parameter(np.ones(size)), parameter(np.zeros(size)), epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.epsilon)


class BatchNorm(Module):
    """`batch_norm` in training; in evaluation with the running mean and variance of the batches seen.

    Args:
        size: features, the last axis.
        momentum: share of a new batch in the running numbers, which are kept unbiased as in torch.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        self.weight, self.bias = parameter(np.ones(size)), parameter(np.zeros(size))
        self.epsilon, self.momentum = epsilon, momentum
        self.running_mean, self.running_variance = np.zeros(size), np.ones(size)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training:
            scale = self.weight / np.sqrt(self.running_variance + self.epsilon)
            return x * scale + (self.bias - self.running_mean * scale)
        rows = x.size // x.shape[-1]
        if rows < 2:
            raise UsageError("batch norm needs at least two rows in training: one has no variance")
        result, mean, variance = batch_norm(x, self.weight, self.bias, self.epsilon)
        self.running_mean = self.running_mean + self.momentum * (mean - self.running_mean)
        unbiased = variance * rows / (rows - 1)
        self.running_variance = self.running_variance + self.momentum * (unbiased - self.running_variance)
        return result


class Activation(Module):
    """A function of each element as a module, such as `Activation(Tensor.tanh)`."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


class Sequential(Module):
    """One module after the other."""

    def __init__(self, layers: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
