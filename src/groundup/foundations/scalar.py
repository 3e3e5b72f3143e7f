"""Automatic differentiation of single numbers: the whole idea in one class.

A computation is a graph: every number knows the numbers that it was made from, and how fast it changes with each of them
(the local derivatives, known the moment it is made). Going through the graph backwards from a result, the chain rule

    d result / d x  =  sum over all y made directly from x:  d result / d y  *  d y / d x

gives the derivative by every number in one pass, whatever their number (reverse accumulation; Linnainmaa 1970, Rumelhart,
Hinton and Williams 1986). `docs/concepts/autograd.md` does one by hand.

`Value` is the engine; the sums, the loss and the small network below it are made of values, for something to differentiate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import TypeAlias, Union

from groundup.core.errors import UsageError

Number: TypeAlias = Union["Value", float, int]


class Value:
    """A number that remembers where it came from.

    It is never changed by arithmetic: `x += y` makes a new number and leaves the one that others were made from alone.

    Args:
        data: the number.
        label: its name in a drawing.

    Attributes:
        data: the number. A parameter is trained by setting it between two computations.
        grad: derivative by this number of what `backward` was called on; further calls add theirs. It is 0 before the first.
        parents: what it was made from.
        slopes: its derivative by each of them.
        operation: what made it, empty for a number that was given.
    """

    __slots__ = ("data", "grad", "label", "operation", "parents", "slopes")

    def __init__(
        self,
        data: float,
        parents: tuple[Value, ...] = (),
        slopes: tuple[float, ...] = (),
        operation: str = "",
        *,
        label: str = "",
    ) -> None:
        self.data, self.grad = float(data), 0.0
        self.parents, self.slopes, self.operation, self.label = parents, slopes, operation, label

    def __add__(self, other: Number) -> Value:
        other = _value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")

    def __mul__(self, other: Number) -> Value:
        other = _value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data), "*")

    def __pow__(self, exponent: float) -> Value:
        """x to a power that is a plain number."""
        if isinstance(exponent, Value):
            raise UsageError("the exponent must be a plain number: x ** y is (x.log() * y).exp()")
        # x ** 0 is the constant 1; its slope by the formula would divide by zero where x is 0.
        try:
            result = self.data**exponent
            slope = exponent * self.data ** (exponent - 1) if exponent else 0.0
        except (ZeroDivisionError, OverflowError):
            raise UsageError(f"{self.data} ** {exponent} or its slope is no finite number") from None
        if isinstance(result, complex):
            raise UsageError(f"{self.data} ** {exponent} is no real number")
        return Value(result, (self,), (slope,), f"** {exponent:g}")

    def exp(self) -> Value:
        """e to this power."""
        try:
            result = math.exp(self.data)
        except OverflowError:
            raise UsageError(f"e to {self.data:g} is above the largest number: e to 709.7 is the last below") from None
        return Value(result, (self,), (result,), "exp")

    def log(self) -> Value:
        """The natural logarithm of a number above 0."""
        if not self.data > 0:
            raise UsageError(f"the logarithm of {self.data} is no real number")
        return Value(math.log(self.data), (self,), (1 / self.data,), "log")

    def tanh(self) -> Value:
        """The hyperbolic tangent."""
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,), "tanh")

    def relu(self) -> Value:
        """The number, or 0 where it is negative; the slope at 0 is taken as 0."""
        return Value(max(self.data, 0.0), (self,), (float(self.data > 0),), "relu")

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Number) -> Value:
        return self + -_value(other)

    def __truediv__(self, other: Number) -> Value:
        return self * _value(other) ** -1.0

    def __radd__(self, other: Number) -> Value:
        return self + other

    def __rmul__(self, other: Number) -> Value:
        return self * other

    def __rsub__(self, other: Number) -> Value:
        return _value(other) - self

    def __rtruediv__(self, other: Number) -> Value:
        return _value(other) / self

    def backward(self) -> None:
        """Find the derivative of this number by each that it was made from, and add it to that one's `grad`."""
        order = self.ancestors()
        # The derivatives of this pass alone, so that a second pass adds its own and not the first one's again.
        found = dict.fromkeys(order, 0.0)
        found[self] = 1.0  # it changes with itself one to one
        for value in reversed(order):
            for parent, slope in zip(value.parents, value.slopes, strict=True):
                found[parent] += slope * found[value]
        for value, grad in found.items():
            value.grad += grad

    def ancestors(self) -> list[Value]:
        """All that this number was made from, each after its own parents; itself last.

        A stack of our own and no recursion: a + b + c + ... of ten thousand terms would be ten thousand calls deep, more than
        Python allows. A value waits there twice: to have its parents done first, and then to be put in order.
        """
        order: list[Value] = []
        seen: set[Value] = set()
        stack: list[tuple[Value, bool]] = [(self, False)]
        while stack:
            value, parents_done = stack.pop()
            if parents_done:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                stack.append((value, True))
                stack.extend((parent, False) for parent in reversed(value.parents))
        return order

    def __repr__(self) -> str:
        name = f"{self.label} = " if self.label else ""
        return f"Value({name}{self.data:.6g}, grad={self.grad:.6g})"


def _value(number: Number) -> Value:
    return number if isinstance(number, Value) else Value(number)


def total(values: Iterable[Value]) -> Value:
    """The sum of any number of values, as one node of the graph; 0 for none."""
    parents = tuple(values)
    return Value(math.fsum(value.data for value in parents), parents, (1.0,) * len(parents), "sum")


def dot(xs: Sequence[Value], ys: Sequence[Value]) -> Value:
    """The sum of products of two vectors, as one node.

    Raises:
        UsageError: for vectors of different lengths.
    """
    if len(xs) != len(ys):
        raise UsageError(f"a dot product of {len(xs)} and {len(ys)} numbers")
    slopes = (*(y.data for y in ys), *(x.data for x in xs))
    return Value(math.fsum(x.data * y.data for x, y in zip(xs, ys, strict=True)), (*xs, *ys), slopes, "dot")


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """Minus the natural logarithm of the probability that scores (the logits) give to the target.

    The probability is the softmax, e^logit[target] / sum of all e^logit, so the loss is log(sum of all e^logit) - logit[target].
    Taking the largest logit off all of them changes nothing, and no exponential overflows.
    """
    if not 0 <= target < len(logits):
        raise UsageError(f"a target of {target} beside {len(logits)} logits: 0 to {len(logits) - 1}")
    largest = max(logit.data for logit in logits)
    return total((logit - largest).exp() for logit in logits).log() - (logits[target] - largest)


class Neuron:
    """w x + b, and tanh of it unless it is linear.

    Args:
        size: numbers that it reads.
        random: draws the weights between -1 / sqrt(size) and 1 / sqrt(size): a sum of more terms gets smaller ones, and stays
            where tanh is steep.
        is_linear: leaves tanh out.
    """

    def __init__(self, size: int, random: Random, *, is_linear: bool = False) -> None:
        bound = size**-0.5
        self.weights = [Value(random.uniform(-bound, bound)) for _ in range(size)]
        self.bias = Value(0.0)
        self.is_linear = is_linear

    def __call__(self, xs: Sequence[Number]) -> Value:
        activation = dot([_value(x) for x in xs], self.weights) + self.bias
        return activation if self.is_linear else activation.tanh()

    def parameters(self) -> list[Value]:
        """Weights and bias."""
        return [*self.weights, self.bias]


class MLP:
    """A multi-layer perceptron: layers of neurons, each reading all results of the one before, the last one linear.

    Args:
        sizes: of the input and then of each layer.
        seed: of the weights.
    """

    def __init__(self, sizes: Sequence[int], seed: int = 0) -> None:
        random = Random(seed)
        self.layers = [
            [Neuron(before, random, is_linear=index == len(sizes) - 2) for _ in range(size)]
            for index, (before, size) in enumerate(pairwise(sizes))
        ]

    def __call__(self, xs: Sequence[Number]) -> list[Value]:
        for layer in self.layers:
            xs = [neuron(xs) for neuron in layer]
        return [_value(x) for x in xs]

    def parameters(self) -> list[Value]:
        """Those of all neurons."""
        return [value for layer in self.layers for neuron in layer for value in neuron.parameters()]
