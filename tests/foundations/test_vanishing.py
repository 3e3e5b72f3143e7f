"""The gradient by distance beside torch and the theory; the long-memory task; clipping."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.foundations.optimizers import clip_gradients
from groundup.foundations.recurrent import CELLS, GRUCell, LSTMCell, RNNCell
from groundup.foundations.tensor import Tensor
from groundup.foundations.vanishing import first_symbol_batch, gradient_by_distance, learn_to_remember, set_recurrence


@pytest.mark.parametrize("kind", sorted(CELLS))
def test_the_gradient_by_distance_is_torchs(kind: str) -> None:
    random = np.random.default_rng(3)
    cell = CELLS[kind](2, 5, random)
    inputs = random.normal(size=(3, 7, 2))
    shares = gradient_by_distance(cell, inputs, np.random.default_rng(8))
    module = {"rnn": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[kind](2, 5).double()
    with torch.no_grad():
        for theirs, ours in {"ih": cell.from_input, "hh": cell.from_state}.items():
            assert ours.bias is not None
            getattr(module, f"weight_{theirs}").copy_(torch.tensor(ours.weight.data.T.copy()))
            getattr(module, f"bias_{theirs}").copy_(torch.tensor(ours.bias.data))
    state = tuple(torch.zeros(3, 5, dtype=torch.float64) for _ in range(cell.num_states))
    kept = []
    for place in range(7):
        after = module(torch.tensor(inputs[:, place]), state if kind == "lstm" else state[0])
        # Each part of the state for itself: a leaf that the following steps begin from, h apart from the c beside it.
        kept.append([torch.zeros(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(cell.num_states)])
        state = tuple(p + q for p, q in zip(after if kind == "lstm" else (after,), kept[-1], strict=True))
    (state[0] * torch.tensor(np.random.default_rng(8).standard_normal((3, 5)))).sum().backward()
    norms = []
    for parts in reversed(kept):
        squares = sum((part.grad**2).sum(1) for part in parts if part.grad is not None)
        assert isinstance(squares, torch.Tensor)
        norms.append(float(squares.sqrt().mean()))
    np.testing.assert_allclose(shares, np.array(norms) / norms[0], rtol=1e-9)


def test_a_small_recurrence_vanishes_at_least_as_fast_as_its_singular_value_and_a_large_one_explodes() -> None:
    for gain in (0.5, 0.9):
        random = np.random.default_rng(0)
        cell = RNNCell(4, 16, random)
        set_recurrence(cell, gain, random)
        np.testing.assert_allclose(np.linalg.svd(cell.from_state.weight.data)[1], gain, rtol=1e-12)
        shares = gradient_by_distance(cell, random.normal(size=(4, 30, 4)), random)
        assert (shares <= gain ** np.arange(30) * (1 + 1e-9)).all()
        assert shares[0] == 1
    random = np.random.default_rng(0)
    cell = RNNCell(4, 64, random)
    set_recurrence(cell, 3, random)
    assert gradient_by_distance(cell, random.normal(size=(4, 50, 4)), random)[-1] > 1e4


def test_an_open_gate_keeps_the_gradient() -> None:
    left = []
    for cell in (partial(LSTMCell, forget_bias=0.0), LSTMCell, partial(LSTMCell, forget_bias=3.0)):
        random = np.random.default_rng(0)
        left.append(gradient_by_distance(cell(4, 32, random), random.normal(size=(4, 40, 4)), random)[-1])
    assert left[0] * 1e4 < left[1] < left[2] / 10
    random = np.random.default_rng(0)
    gru = GRUCell(4, 8, random)
    set_recurrence(gru, 0.7, random)
    for gate in range(3):
        part = gru.from_state.weight.data[:, 8 * gate : 8 * gate + 8]
        np.testing.assert_allclose(part @ part.T, 0.49 * np.eye(8), atol=1e-12)


@given(seed=st.integers(0, 999), distance=st.integers(1, 9), num_symbols=st.integers(2, 5))
def test_the_answer_stands_first_and_nowhere_else(seed: int, distance: int, num_symbols: int) -> None:
    ids, answers = first_symbol_batch(np.random.default_rng(seed), 7, distance, num_symbols)
    assert ids.shape == (7, distance + 1) and np.array_equal(ids[:, 0], answers)
    assert answers.min() >= 0 and answers.max() < num_symbols
    assert num_symbols <= ids[:, 1:].min() and ids[:, 1:].max() < 2 * num_symbols


def test_a_short_memory_is_learned_and_training_then_ends() -> None:
    done: list[tuple[int, int]] = []
    for kind in sorted(CELLS):
        result = learn_to_remember(
            CELLS[kind], 2, np.random.default_rng(0), steps=300, progress=lambda *step: done.append(step)
        )
        assert result.accuracy > 0.99 and 10 <= len(result.losses) < 300
        assert done[-1] == (len(result.losses), 300) and len(result.norms) == len(result.losses)
    with pytest.raises(UsageError, match="distance of 0 and 4 symbols"):
        learn_to_remember(RNNCell, 0, np.random.default_rng(0))


@settings(deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-8, 0.1, 1.0, 1e6]), largest=st.sampled_from([0.5, 3.0]))
def test_clipping_is_torchs(seed: int, scale: float, largest: float) -> None:
    random = np.random.default_rng(seed)
    ours = [Tensor(np.zeros(shape), requires_grad=True) for shape in ((2, 3), (4,), ())]
    theirs = [torch.zeros(weight.shape, dtype=torch.float64, requires_grad=True) for weight in ours]
    for own, other in zip(ours[:2], theirs[:2], strict=True):
        own.grad = random.normal(size=own.shape) * scale
        other.grad = torch.tensor(own.grad.copy())
    norm = clip_gradients(ours, largest)
    np.testing.assert_allclose(norm, float(torch.nn.utils.clip_grad_norm_(theirs, largest)), rtol=1e-12)
    for own, other in zip(ours[:2], theirs[:2], strict=True):
        assert own.grad is not None and other.grad is not None
        np.testing.assert_allclose(own.grad, other.grad.numpy(), rtol=1e-12)
    assert ours[2].grad is None
    with pytest.raises(UsageError, match="clipped to a norm of 0"):
        clip_gradients(ours, 0)


@pytest.mark.slow
def test_the_gated_ones_remember_what_the_plain_one_forgets() -> None:
    accuracy = {
        kind: learn_to_remember(cell, 20, np.random.default_rng(0)).accuracy
        for kind, cell in {**CELLS, "open": partial(LSTMCell, forget_bias=3.0)}.items()
    }
    assert accuracy["rnn"] < 0.4 and accuracy["gru"] > 0.9 and accuracy["open"] > 0.9
