"""Muon: orthogonal updates one by one, together, and as torch makes them; who gets them; the same in two processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from trainer_tiny import TinyModel, evaluate, tiny_transformer, trainer, weights_of

from groundup.core.errors import CheckpointError, ConfigError
from groundup.train.config import TrainConfig
from groundup.train.muon import orthogonalize, orthogonalize_together, update_scale
from groundup.train.optimizer import make_optimizer, parameter_roles

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def matrices(shapes: list[tuple[int, int]], seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) * 10.0 ** (seed % 7 - 3) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=6), seed=st.integers(0, 999))
def test_together_equals_one_by_one(shapes: list[tuple[int, int]], seed: int) -> None:
    given_ = matrices([*shapes, shapes[0], shapes[0][::-1]], seed)
    before = [matrix.clone() for matrix in given_]
    for got, matrix in zip(orthogonalize_together(given_), given_, strict=True):
        expected = orthogonalize(matrix)
        assert got.shape == matrix.shape and got.dtype == matrix.dtype
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(given_, before, strict=True)), "the gradients stay as they are"


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(2, 24), st.integers(2, 24)), seed=st.integers(0, 999))
def test_the_update_keeps_the_directions_and_evens_the_lengths(shape: tuple[int, int], seed: int) -> None:
    """U S V^T becomes U S' V^T: the same vectors, with S' near one wherever S was not tiny."""
    (matrix,) = matrices([shape], seed, torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonalize(matrix) @ vh.mT
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-9, "no direction is mixed into another"
    large = s > 0.05 * s.norm()
    assert ((inside.diagonal()[large] > 0.6) & (inside.diagonal()[large] < 1.3)).all()


def test_zero_stays_zero() -> None:
    for matrix in (torch.zeros(3, 5), torch.zeros(5, 3)):
        assert torch.equal(orthogonalize(matrix), matrix)
        assert torch.equal(orthogonalize_together([matrix])[0], matrix)


def stack(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 24), (24, 16), (16, 24), (20, 20)]
    layers = nn.ModuleList([nn.Linear(columns, rows, bias=False) for rows, columns in shapes]).to(dtype)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return layers


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-2), ("bfloat16", 4e-2)])
def test_twenty_steps_beside_torch(precision: Any, tolerance: float) -> None:
    """torch's Muon multiplies in bfloat16: 2e-2 of the update is what its rounding leaves, and both round in bfloat16."""
    ours, theirs = stack(), stack()
    config = TrainConfig(optimizer="muon", learning_rate=0.02, weight_decay=0.1, muon_momentum=0.9)
    optimizer = make_optimizer(ours, config, precision)
    oracle = torch.optim.Muon(
        theirs.parameters(), lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    generator = torch.Generator().manual_seed(9)
    for step in range(20):
        rate = 0.02 / (1 + step)
        optimizer.set_learning_rate(rate)
        oracle.param_groups[0]["lr"] = rate
        with torch.no_grad():
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                b.copy_(a)
                a.grad = torch.randn(a.shape, generator=generator)
                b.grad = a.grad.clone()
        before = weights_of(ours)
        optimizer.step()
        oracle.step()
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert (a - b).norm() <= tolerance * (b - before[name]).norm(), (step, name)


def test_matrices_of_layers_get_muon_and_nothing_else_does() -> None:
    model = tiny_transformer(tie_word_embeddings=False)
    roles = parameter_roles(model)
    assert {name for name, role in roles.items() if role == "table"} == {"embed.weight", "head.weight"}
    assert all(("norm" in name) == (role == "vector") for name, role in roles.items() if role != "table")
    assert sum(role == "matrix" for role in roles.values()) == 2 * 7
    config = TrainConfig(optimizer="muon", learning_rate=1e-3, matrix_learning_rate=4e-3, weight_decay=0.2)
    optimizer = make_optimizer(model, config)
    optimizer.set_learning_rate(5e-4)
    found = {group["rule"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups[:2]}
    assert found == {"muon": (pytest.approx(2e-3), 0.2), "adamw": (5e-4, 0.2)}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.2, 0.0]
    for name, parameter in model.named_parameters():
        assert set(optimizer.state_of(parameter)) == ({"momentum"} if roles[name] == "matrix" else {"mean", "square"})


def test_an_update_has_the_size_of_adamws() -> None:
    for shape in ((32, 32), (64, 16), (16, 64)):
        (matrix,) = matrices([shape], 3)
        rms = (orthogonalize(matrix) * update_scale(shape)).square().mean().sqrt()
        assert 0.1 < rms < 0.3


def test_a_rate_for_matrices_needs_muon() -> None:
    with pytest.raises(ConfigError, match=r"matrix_learning_rate \(0.01\) is for optimizer 'muon', this is 'adamw'"):
        TrainConfig(matrix_learning_rate=0.01)


def test_it_learns_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "muon", "checkpoint_every": 10, "evaluate": evaluate}
    whole = trainer(tmp_path / "whole", **options)
    result = whole.fit()
    assert result.best_value is not None and result.best_value < evaluate(TinyModel())["loss"]
    resumed = trainer(tmp_path / "resumed", **options)
    shutil.copytree(whole.store.path(10), resumed.store.path(10))
    resumed.fit()
    weights = weights_of(resumed.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(whole.model).items())


def test_a_checkpoint_of_the_other_rule_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, optimizer="muon").fit()
    with pytest.raises(CheckpointError, match="optimizer was 'muon', is now 'adamw'"):
        trainer(tmp_path).fit()
