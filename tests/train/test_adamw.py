"""AdamW against torch's, for each of its three forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from groundup.core.registry import pairs
from groundup.train.adamw import adamw_foreach, adamw_fused, adamw_reference
from groundup.train.config import TrainConfig
from groundup.train.optimizer import Optimizer, make_optimizer, parameter_groups, parameter_roles


def model_of(seed: int, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def optimizer_of(model: nn.Module, config: TrainConfig, **options: Any) -> Optimizer:
    roles, parameters = parameter_roles(model), dict(model.named_parameters())
    return Optimizer(parameter_groups([(roles[name], parameters[name]) for name in roles], config), config, **options)


@pytest.mark.parametrize("update", [adamw_reference, adamw_foreach, adamw_fused, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fifty_random_steps_equal_torch(
    update: Callable[..., None] | None, dtype: torch.dtype, tolerance: float
) -> None:
    ours, theirs = model_of(3, dtype), model_of(3, dtype)
    config = TrainConfig(learning_rate=3e-2, beta1=0.85, beta2=0.97, epsilon=1e-7, weight_decay=0.1)
    optimizer = optimizer_of(ours, config, update=update)
    oracle = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=3e-2,
        betas=(0.85, 0.97),
        eps=1e-7,
    )
    generator = torch.Generator().manual_seed(9)
    for step in range(50):
        rate = 3e-2 / (1 + step)
        for group in (*optimizer.param_groups, *oracle.param_groups):
            group["lr"] = rate
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            scale = 10.0 ** torch.randint(-4, 3, (1,), generator=generator).item()
            a.grad = torch.randn(a.shape, generator=generator, dtype=dtype) * scale
            b.grad = a.grad.clone()
        optimizer.step()
        oracle.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_only_matrices_decay_and_frozen_parameters_are_left_out() -> None:
    model = model_of(0, torch.float32)
    model[0].weight.requires_grad_(False)
    config = TrainConfig(learning_rate=0.5, weight_decay=0.3)
    optimizer = make_optimizer(model, config)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(p.ndim == 2 for p in groups[0]["params"]) and len(groups[0]["params"]) == 2
    assert all(p.ndim == 1 for p in groups[1]["params"]) and len(groups[1]["params"]) == 4
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.3 if parameter.ndim == 2 and parameter.requires_grad else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_a_parameter_without_gradient_is_not_touched() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))])
    model[0].grad = torch.ones(2, 2)
    make_optimizer(model, TrainConfig(learning_rate=0.1)).step()
    assert not torch.equal(model[0], torch.ones(2, 2))
    assert torch.equal(model[1], torch.ones(2, 2))


@pytest.mark.parametrize("name", ["train.adamw_foreach", "train.adamw_fused"])
@pytest.mark.parametrize("seed", [1, 77])
def test_registered_pairs_agree(name: str, seed: int) -> None:
    entry = pairs()[name]
    a, b = entry.reference(*entry.inputs(seed)), entry.fast(*entry.inputs(seed))
    assert (a - b).abs().max() <= entry.tolerance * a.abs().max()
