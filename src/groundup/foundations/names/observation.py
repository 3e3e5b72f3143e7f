"""Watch what passes through a network and the gradients that come back."""

from __future__ import annotations

from groundup.foundations.modules import Module
from groundup.foundations.tensor import Array, Tensor, operation


class Observation(Module):
    """Changes nothing; while `is_open`, keeps the numbers that pass and the derivative of the loss by them.

    Attributes:
        is_open: whether anything is kept.
        values: of the last forward, None before it.
        gradient: of the last backward, of the same shape.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.values: Array | None = None
        self.gradient: Array | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if not self.is_open:
            return x
        self.values, self.gradient = x.data, None

        def pullback(up: Array) -> tuple[Array]:
            # The engine calls a pullback once, with the sum over all uses.
            self.gradient = up
            return (up,)

        return operation("observe", x.data, (x,), pullback)
