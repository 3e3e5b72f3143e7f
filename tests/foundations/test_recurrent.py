"""RNN, GRU and LSTM beside torch: outputs, states and every gradient, whole, masked, in pieces, stacked and turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.gradient_check import check_gradients
from groundup.foundations.recurrent import CELLS, Cell, LSTMCell, detached, unroll
from groundup.foundations.tensor import Tensor, concatenate, stack

THEIRS = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
KINDS = list(CELLS)


def torch_like(kind: str, cells: list[Cell], *, bidirectional: bool = False) -> torch.nn.RNNBase:
    """torch's module with the weights of our cells: one a layer, or one a direction."""
    first = cells[0]
    layers = 1 if bidirectional else len(cells)
    module = THEIRS[kind](first.size, first.hidden_size, layers, batch_first=True, bidirectional=bidirectional).double()
    for place, cell in enumerate(cells):
        end = "l0_reverse" if bidirectional and place else "l0" if bidirectional else f"l{place}"
        with torch.no_grad():
            for name, theirs in zip(("ih", "hh"), (cell.from_input, cell.from_state), strict=True):
                assert theirs.bias is not None
                getattr(module, f"weight_{name}_{end}").copy_(torch.tensor(theirs.weight.data.T.copy()))
                getattr(module, f"bias_{name}_{end}").copy_(torch.tensor(theirs.bias.data))
    return module


def close(ours: np.ndarray | None, theirs: torch.Tensor | None) -> None:
    assert ours is not None and theirs is not None
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-9)


def gradients_agree(cells: list[Cell], module: torch.nn.RNNBase, *, bidirectional: bool = False) -> None:
    for place, cell in enumerate(cells):
        end = "l0_reverse" if bidirectional and place else "l0" if bidirectional else f"l{place}"
        for name, part in zip(("ih", "hh"), (cell.from_input, cell.from_state), strict=True):
            assert part.weight.grad is not None and part.bias is not None
            close(part.weight.grad.T, getattr(module, f"weight_{name}_{end}").grad)
            close(part.bias.grad, getattr(module, f"bias_{name}_{end}").grad)


def random_steps(random: np.random.Generator, batch: int, length: int, size: int) -> tuple[list[Tensor], torch.Tensor]:
    values = random.normal(size=(batch, length, size))
    return [Tensor(values[:, t], requires_grad=True) for t in range(length)], torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 4), length=st.integers(1, 7), size=st.integers(1, 5))
def test_a_sequence_equals_torch(kind: str, seed: int, batch: int, length: int, size: int) -> None:
    random = np.random.default_rng(seed)
    cell = CELLS[kind](size, 4, random)
    module = torch_like(kind, [cell])
    steps, x = random_steps(random, batch, length, size)
    starts = [random.normal(size=(batch, 4)) for _ in range(cell.num_states)]
    state = tuple(Tensor(start, requires_grad=True) for start in starts)
    begun = [torch.tensor(start[None], requires_grad=True) for start in starts]

    outputs, last = unroll(cell, steps, state)
    theirs, ended = module(x, tuple(begun) if len(begun) == 2 else begun[0])
    ended = ended if isinstance(ended, tuple) else (ended,)
    close(stack(outputs, 1).data, theirs)
    for own, other in zip(last, ended, strict=True):
        close(own.data, other[0])

    weights = [random.normal(size=(batch, length, 4)), *(random.normal(size=(batch, 4)) for _ in last)]
    loss = (stack(outputs, 1) * weights[0]).sum()
    their_loss = (theirs * torch.tensor(weights[0])).sum()
    for own, other, weight in zip(last, ended, weights[1:], strict=True):
        loss, their_loss = loss + (own * weight).sum(), their_loss + (other[0] * torch.tensor(weight)).sum()
    loss.backward()
    their_loss.backward()
    gradients_agree([cell], module)
    assert x.grad is not None
    for t, step in enumerate(steps):
        close(step.grad, x.grad[:, t])
    for own, other in zip(state, begun, strict=True):
        assert other.grad is not None
        close(own.grad, other.grad[0])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_a_masked_batch_equals_torchs_packed_one_and_each_alone(kind: str, seed: int, lengths: list[int]) -> None:
    random = np.random.default_rng(seed)
    cell = CELLS[kind](3, 4, random)
    module = torch_like(kind, [cell])
    steps, x = random_steps(random, len(lengths), max(lengths), 3)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    outputs, last = unroll(cell, steps, mask=mask)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    out, ended = module(packed)
    theirs, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    ended = ended if isinstance(ended, tuple) else (ended,)
    close(stack(outputs, 1).data[mask], theirs[torch.tensor(mask)])
    for own, other in zip(last, ended, strict=True):
        close(own.data, other[0])
    weights = random.normal(size=(len(lengths), 4))
    (last[-1] * weights).sum().backward()
    (ended[-1][0] * torch.tensor(weights)).sum().backward()
    gradients_agree([cell], module)
    for row, length in enumerate(lengths):
        alone, _ = unroll(cell, [Tensor(step.data[row : row + 1]) for step in steps[:length]])
        np.testing.assert_allclose(alone[-1].data[0], last[0].data[row], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_directions_are_made_of_sequences(kind: str) -> None:
    random = np.random.default_rng(5)
    cells = [CELLS[kind](3, 4, random), CELLS[kind](4, 4, random)]
    steps, x = random_steps(random, 2, 5, 3)
    below, _ = unroll(cells[0], steps)
    above, _ = unroll(cells[1], below)
    module = torch_like(kind, cells)
    theirs, _ = module(x)
    close(stack(above, 1).data, theirs)
    stack(above, 1).sum().backward()
    theirs.sum().backward()
    gradients_agree(cells, module)

    both = [CELLS[kind](3, 4, random), CELLS[kind](3, 4, random)]
    forth, _ = unroll(both[0], steps)
    back, _ = unroll(both[1], steps[::-1])
    joined = concatenate([stack(forth, 1), stack(back[::-1], 1)], axis=2)
    turned = torch_like(kind, both, bidirectional=True)
    theirs, _ = turned(x)
    close(joined.data, theirs)
    (joined**2).sum().backward()
    (theirs**2).sum().backward()
    gradients_agree(both, turned, bidirectional=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_give_the_same_outputs_and_end_the_gradient(kind: str) -> None:
    random = np.random.default_rng(6)
    cell = CELLS[kind](3, 4, random)
    steps, x = random_steps(random, 2, 6, 3)
    whole, _ = unroll(cell, steps)
    _, state = unroll(cell, steps[:4])
    pieces, _ = unroll(cell, steps[4:], detached(state))
    np.testing.assert_array_equal(pieces[-1].data, whole[-1].data)
    module = torch_like(kind, [cell])
    _, middle = module(x[:, :4])
    cut = tuple(part.detach() for part in middle) if isinstance(middle, tuple) else middle.detach()
    theirs, _ = module(x[:, 4:], cut)
    pieces[-1].sum().backward()
    theirs[:, -1].sum().backward()
    gradients_agree([cell], module)
    assert all(step.grad is None for step in steps[:4]) and steps[4].grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_a_step_are_those_of_small_steps(kind: str) -> None:
    random = np.random.default_rng(7)
    cell = CELLS[kind](2, 3, random)
    x = Tensor(random.normal(size=(2, 2)), requires_grad=True)
    state = tuple(Tensor(random.normal(size=(2, 3)), requires_grad=True) for _ in range(cell.num_states))
    weights = random.normal(size=(2, 3))

    def loss() -> Tensor:
        after = cell(x, state)
        return (after[0] * weights).sum() + (after[-1] * after[-1]).sum()

    assert check_gradients(loss, [x, *state, *cell.parameters()]) < 1e-6


def test_weights_begin_as_torchs_and_the_memory_open() -> None:
    cell = LSTMCell(3, 100, np.random.default_rng(0))
    plain = LSTMCell(3, 100, np.random.default_rng(0), forget_bias=0)
    assert cell.from_input.bias is not None and plain.from_input.bias is not None
    shift = cell.from_input.bias.data - plain.from_input.bias.data
    np.testing.assert_allclose(shift, np.repeat([0.0, 1.0, 0.0, 0.0], 100), atol=1e-15)
    for weight in plain.parameters():
        assert np.abs(weight.data).max() <= 0.1 and abs(weight.data.std() - 0.1 / 3**0.5) < 0.01


def test_extreme_inputs_stay_finite() -> None:
    for kind in KINDS:
        cell = CELLS[kind](1, 2, np.random.default_rng(0))
        x = Tensor([[1e6], [-1e6]], requires_grad=True)
        outputs, _ = unroll(cell, [x] * 3)
        outputs[-1].sum().backward()
        assert x.grad is not None and np.isfinite(x.grad).all() and np.isfinite(outputs[-1].data).all()


def test_wrong_shapes_are_refused_with_the_shapes() -> None:
    cell = LSTMCell(3, 4, np.random.default_rng(0))
    step = Tensor(np.zeros((2, 3)))
    with pytest.raises(UsageError, match="no steps"):
        unroll(cell, [])
    with pytest.raises(UsageError, match=r"step 1 has shape \(2, 4\), and the cell reads \(2, 3\)"):
        unroll(cell, [step, Tensor(np.zeros((2, 4)))])
    with pytest.raises(UsageError, match=r"shapes \[\(2, 4\)\]: 2 of \(2, 4\) needed"):
        unroll(cell, [step], cell.initial_state(2)[:1])
    with pytest.raises(UsageError, match=r"mask of shape \(2, 2\) for 2 sequences of 1 steps"):
        unroll(cell, [step], mask=np.ones((2, 2)))
    with pytest.raises(UsageError, match="keeps 0"):
        LSTMCell(3, 0, np.random.default_rng(0))
