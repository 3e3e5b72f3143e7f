"""The GPT out of scalars and out of arrays beside the model that is trained: the same loss, the same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from groundup.core.errors import UsageError
from groundup.foundations.gpt import GPTShape, ScalarGPT, TensorGPT, Weights, initial_weights
from groundup.foundations.optimizers import AdamW
from groundup.recipes.levels import trained_model

SHAPE = GPTShape(vocab_size=11, hidden_size=8, num_layers=2, num_heads=2, context=6)


def drawn(shape: GPTShape, seed: int) -> Weights:
    """Weights that are all of some size, or an error in one part would hide behind the others."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(size) * 0.4 for name, size in shape.weight_shapes().items()}


def in_torch(shape: GPTShape, weights: Weights, ids: np.ndarray) -> tuple[float, Weights]:
    model = trained_model(shape, weights, torch.float64)
    tokens = torch.tensor(ids)
    logits = model.logits(model(tokens[:, :-1]))
    loss = F.cross_entropy(logits.reshape(-1, shape.vocab_size), tokens[:, 1:].reshape(-1))
    loss.backward()
    return loss.item(), {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("seed", range(3))
def test_scalars_arrays_and_torch_have_the_same_loss_and_gradients(seed: int) -> None:
    weights = drawn(SHAPE, seed)
    ids = np.random.default_rng(seed).integers(0, SHAPE.vocab_size, (1, 6))
    expected, gradients = in_torch(SHAPE, weights, ids)
    scalars, arrays = ScalarGPT(SHAPE, weights), TensorGPT(SHAPE, weights)
    loss = scalars.loss(ids[0].tolist())
    loss.backward()
    loss_of_arrays = arrays.loss(ids)
    loss_of_arrays.backward()
    assert loss.data == pytest.approx(expected, abs=1e-9)
    assert loss_of_arrays.item() == pytest.approx(expected, abs=1e-9)
    for found in (scalars.gradients(), arrays.gradients()):
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert found[name].shape == gradient.shape
            assert np.abs(found[name] - gradient).max() < 1e-9, name


def test_a_batch_of_texts_is_the_mean_of_them() -> None:
    weights = drawn(SHAPE, 5)
    ids = np.random.default_rng(5).integers(0, SHAPE.vocab_size, (4, 5))
    expected, gradients = in_torch(SHAPE, weights, ids)
    model = TensorGPT(SHAPE, weights)
    loss = model.loss(ids)
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert all(np.abs(model.gradients()[name] - gradient).max() < 1e-9 for name, gradient in gradients.items())


def test_it_learns_a_text_by_heart() -> None:
    shape = GPTShape(vocab_size=5, hidden_size=16, num_layers=1, num_heads=2, context=12)
    ids = np.array([[0, 1, 2, 3, 4, 0, 1, 1, 2, 3, 0, 4]])
    model = TensorGPT(shape, initial_weights(shape))
    optimizer = AdamW(model.weights.values(), 1e-2)
    first = model.loss(ids).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(ids)
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(np.log(5), abs=0.05)
    assert loss.item() < 0.05


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="the heads share hidden_size equally"):
        GPTShape(vocab_size=5, hidden_size=8, num_layers=1, num_heads=3, context=4)
    weights = initial_weights(SHAPE)
    del weights["final_norm.bias"]
    with pytest.raises(UsageError, match=r"do not fit .*: final_norm\.bias"):
        ScalarGPT(SHAPE, weights)
    with pytest.raises(UsageError, match="1 to 6 ids from 0 to 10 can be read, not 1 such as"):
        TensorGPT(SHAPE, initial_weights(SHAPE)).logits(np.array([[11]]))
