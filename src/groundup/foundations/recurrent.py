"""Networks that read one step after the other and keep a state: RNN, GRU, LSTM.

With x the step's input, h the state before it, s the logistic function, and * between elements:

    RNN     h' = tanh(x W + b + h U + d)
    GRU     r, z = s(x W_r + b_r + h U_r + d_r), s(x W_z + b_z + h U_z + d_z)
            n = tanh(x W_n + b_n + r * (h U_n + d_n));   h' = (1 - z) * n + z * h
    LSTM    i, f, o = s(...), s(...), s(...);  g = tanh(...)     each of its own x W + b + h U + d
            c' = f * c + i * g;   h' = o * tanh(c')

The columns of W, U, b, d lie side by side in torch's order: r z n for the GRU, i f g o for the LSTM. The GRU applies r after
the product with U_n, as torch and cuDNN do; Cho et al. 2014 apply it to h before, which needs a second product to wait for.

Sources: Elman 1990 (RNN); Cho et al. 2014, section 2.3 (GRU); Hochreiter and Schmidhuber 1997 (LSTM); Gers et al. 2000 (its
forget gate f).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from groundup.core.errors import UsageError
from groundup.foundations.modules import Linear, Module
from groundup.foundations.tensor import Array, Tensor, operation, where

#: What a cell carries from step to step: (h,), or (h, c) for the LSTM; each (B, H).
State: TypeAlias = tuple[Tensor, ...]


class Cell(Module):
    """One step of a recurrent network.

    Args:
        size, hidden_size: numbers read at a step, and numbers of h.
        random: draws all weights evenly from -1 / sqrt(hidden_size) to 1 / sqrt(hidden_size), as torch does.

    Attributes:
        from_input, from_state: W with b, and U with d, as at the top of this file.
    """

    #: How many products of x and h a step needs, and how many tensors a state has.
    num_gates = 1
    num_states = 1

    def __init__(self, size: int, hidden_size: int, random: np.random.Generator) -> None:
        if min(size, hidden_size) < 1:
            raise UsageError(f"a cell that reads {size} numbers and keeps {hidden_size}: at least 1 of each")
        self.size, self.hidden_size = size, hidden_size
        self.from_input = Linear(size, self.num_gates * hidden_size, random)
        self.from_state = Linear(hidden_size, self.num_gates * hidden_size, random)
        bound = hidden_size**-0.5
        for weight in self.parameters():
            weight.data = random.uniform(-bound, bound, weight.shape)

    def initial_state(self, batch: int) -> State:
        """Zeros for each of a batch."""
        zeros = np.zeros((batch, self.hidden_size), self.from_state.weight.dtype)
        return tuple(Tensor(zeros) for _ in range(self.num_states))

    def __call__(self, x: Tensor, state: State) -> State:
        """The state after reading x (B, D)."""
        raise NotImplementedError


class RNNCell(Cell):
    """The plain recurrent network (Elman 1990)."""

    def __call__(self, x: Tensor, state: State) -> State:
        """The state after reading x (B, D)."""
        return ((self.from_input(x) + self.from_state(state[0])).tanh(),)


class GRUCell(Cell):
    """The gated recurrent unit."""

    num_gates = 3

    def __call__(self, x: Tensor, state: State) -> State:
        """The state after reading x (B, D)."""
        return (_gru_step(self.from_input(x), self.from_state(state[0]), state[0]),)


class LSTMCell(Cell):
    """Long short-term memory.

    Args:
        forget_bias: is added to the forget gate's bias; 1 lets the memory pass at the beginning (Gers et al. 2000; Jozefowicz
            et al. 2015, section 2.2). torch has 0.
    """

    num_gates = 4
    num_states = 2

    def __init__(self, size: int, hidden_size: int, random: np.random.Generator, *, forget_bias: float = 1.0) -> None:
        super().__init__(size, hidden_size, random)
        bias = self.from_input.bias
        assert bias is not None
        shift = np.zeros(bias.shape)
        shift[hidden_size : 2 * hidden_size] = forget_bias
        bias.data = bias.data + shift

    def __call__(self, x: Tensor, state: State) -> State:
        """The state after reading x (B, D)."""
        gates = self.from_input(x) + self.from_state(state[0])  # (B, 4 H)
        memory = _lstm_memory(gates, state[1])
        return _lstm_output(gates, memory), memory


#: The kinds by their names.
CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


def unroll(
    cell: Cell, steps: Sequence[Tensor], state: State | None = None, *, mask: ArrayLike | None = None
) -> tuple[list[Tensor], State]:
    """Read a sequence, one step after the other.

    A second layer is `unroll` over the outputs of the first; the other direction is `unroll` over the steps from the last to
    the first, with the mask turned too. For a long text in pieces (truncated backpropagation through time), give each
    piece the `detached` state of the one before.

    Args:
        cell: is applied at each step.
        steps: T inputs (B, D).
        state: to begin with; zeros by default.
        mask: (B, T), whether a step is there. Where it is not, the state stays as it was.

    Returns:
        h after each step (B, H), and the last state: of a masked row, that after its last step that is there.

    Raises:
        UsageError: for no steps, or inputs, a state or a mask of another shape than the cell needs.
    """
    if not steps:
        raise UsageError("a sequence of no steps: at least 1 is needed")
    batch = steps[0].shape[0]
    for place, x in enumerate(steps):
        if x.shape != (batch, cell.size):
            raise UsageError(f"step {place} has shape {x.shape}, and the cell reads ({batch}, {cell.size})")
    state = cell.initial_state(batch) if state is None else state
    if [part.shape for part in state] != [(batch, cell.hidden_size)] * cell.num_states:
        raise UsageError(
            f"a state of shapes {[part.shape for part in state]}: {cell.num_states} of {(batch, cell.hidden_size)} needed"
        )
    present = None if mask is None else np.asarray(mask, np.bool_)
    if present is not None and present.shape != (batch, len(steps)):
        raise UsageError(f"a mask of shape {present.shape} for {batch} sequences of {len(steps)} steps")
    outputs = []
    for place, x in enumerate(steps):
        after = cell(x, state)
        if present is not None and not present[:, place].all():
            here = present[:, place, None]
            after = tuple(where(here, new, old) for new, old in zip(after, state, strict=True))
        state = after
        outputs.append(state[0])
    return outputs, state


def detached(state: State) -> State:
    """The same numbers without their graph: gradients end here."""
    return tuple(part.detach() for part in state)


def _sigmoid(x: Array) -> Array:
    half: Array = 0.5 * (1 + np.tanh(0.5 * x))  # no exponential that could overflow
    return half


# The derivatives of a step are written by hand: a dozen small operations and slices of each step would cost more than its
# two products. s' = s (1 - s), tanh' = 1 - tanh^2, and the product rule give each line.


def _gru_step(by_input: Tensor, by_state: Tensor, h: Tensor) -> Tensor:
    """h' of a GRU from x W + b and h U + d, both (B, 3 H)."""
    a, b, before = by_input.data, by_state.data, h.data
    size = before.shape[-1]
    gates = _sigmoid(a[:, : 2 * size] + b[:, : 2 * size])
    reset, keep = gates[:, :size], gates[:, size:]
    candidate = np.tanh(a[:, 2 * size :] + reset * b[:, 2 * size :])

    def pullback(up: Array) -> tuple[Array, Array, Array]:
        by_a, by_b = np.empty_like(a), np.empty_like(b)
        inner = up * (1 - keep) * (1 - candidate * candidate)
        by_a[:, 2 * size :] = inner
        by_b[:, 2 * size :] = inner * reset
        by_a[:, :size] = inner * b[:, 2 * size :] * reset * (1 - reset)
        by_a[:, size : 2 * size] = up * (before - candidate) * keep * (1 - keep)
        by_b[:, : 2 * size] = by_a[:, : 2 * size]
        return by_a, by_b, up * keep

    return operation("gru", candidate + keep * (before - candidate), (by_input, by_state, h), pullback)


def _lstm_memory(gates: Tensor, memory: Tensor) -> Tensor:
    """c' of an LSTM from the sums of its four gates (B, 4 H), and c."""
    size, before = memory.shape[-1], memory.data
    shares = _sigmoid(gates.data[:, : 2 * size])
    write, keep = shares[:, :size], shares[:, size:]
    candidate = np.tanh(gates.data[:, 2 * size : 3 * size])

    def pullback(up: Array) -> tuple[Array, Array]:
        by_gates = np.zeros_like(gates.data)
        by_gates[:, :size] = up * candidate * write * (1 - write)
        by_gates[:, size : 2 * size] = up * before * keep * (1 - keep)
        by_gates[:, 2 * size : 3 * size] = up * write * (1 - candidate * candidate)
        return by_gates, up * keep

    return operation("lstm memory", keep * before + write * candidate, (gates, memory), pullback)


def _lstm_output(gates: Tensor, memory: Tensor) -> Tensor:
    """h' of an LSTM from the sums of its four gates (B, 4 H), and c'."""
    size = memory.shape[-1]
    shown, squashed = _sigmoid(gates.data[:, 3 * size :]), np.tanh(memory.data)

    def pullback(up: Array) -> tuple[Array, Array]:
        by_gates = np.zeros_like(gates.data)
        by_gates[:, 3 * size :] = up * squashed * shown * (1 - shown)
        return by_gates, up * shown * (1 - squashed * squashed)

    return operation("lstm output", shown * squashed, (gates, memory), pullback)
