"""The trainer on CUDA: parity with the CPU, 50 steps, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainer_tiny import ListSink, TinyModel, TinySource, evaluate, plan, trainer, weights_of

from groundup.core.errors import Interrupted
from groundup.core.interrupt import StopRequest
from groundup.data.batch import Batch
from groundup.train.adamw import adamw_foreach, adamw_fused
from groundup.train.config import TrainConfig
from groundup.train.objectives import cross_entropy_sum, next_token_loss
from groundup.train.optimizer import Optimizer, parameter_groups, parameter_roles
from groundup.train.probe import probe

pytestmark = pytest.mark.gpu


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a.cpu() - b.cpu()).abs().max() / b.abs().max().cpu()).item()


def cuda_evaluate(model: nn.Module) -> dict[str, float]:
    loss = next_token_loss(model, TinySource(seed=99).batch(0).to("cuda"))
    return {"loss": loss.total.item() / loss.count}


def run(folder: Path, **options: Any) -> tuple[list[float], dict[str, Tensor]]:
    sink, model = ListSink(), options.pop("model", None) or TinyModel()
    device = options.pop("device", "cuda")
    precision = options.pop("precision", "float32")
    trainer(
        folder,
        model=model,
        sink=sink,
        plan=plan(device=device, precision=precision),
        num_steps=50,
        evaluate=cuda_evaluate if device == "cuda" else evaluate,
        **options,
    ).fit()
    return [r["loss"] for r in sink.records if "loss" in r], weights_of(model)


@pytest.mark.parametrize("update", [adamw_foreach, adamw_fused])
def test_fifty_optimizer_steps_equal_torch(update: Any) -> None:
    models = [nn.Sequential(nn.Linear(33, 17), nn.Linear(17, 5)).cuda() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    config = TrainConfig(learning_rate=1e-2, beta1=0.9, beta2=0.95, weight_decay=0.1)
    roles, parameters = parameter_roles(models[0]), dict(models[0].named_parameters())
    named = [(roles[name], parameters[name]) for name in roles]
    ours = Optimizer(parameter_groups(named, config), config, update=update)
    groups = [{**group} for group in parameter_groups(models[1], 0.1)]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(50):
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator, device="cuda")
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert relative_error(a.detach(), b.detach()) < 1e-5


def test_chunked_cross_entropy_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(1000, 64, device="cuda", dtype=torch.float64))
    hidden = torch.randn(300, 64, device="cuda", dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1000, (300,), device="cuda")

    def head(rows: Tensor) -> Tensor:
        return F.linear(rows, weight)

    plain = F.cross_entropy(head(hidden), targets, reduction="sum")
    chunked = cross_entropy_sum(head, hidden, targets, chunk_rows=37)
    assert relative_error(chunked.detach(), plain.detach()) < 1e-9
    for a, b in zip(
        torch.autograd.grad(chunked, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        assert relative_error(a, b) < 1e-9


def test_the_first_steps_equal_those_of_the_cpu(tmp_path: Path) -> None:
    cpu, _ = run(tmp_path / "cpu", device="cpu")
    gpu, _ = run(tmp_path / "gpu")
    assert gpu[:5] == pytest.approx(cpu[:5], rel=1e-4)
    assert gpu[-1] == pytest.approx(cpu[-1], rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fifty_steps_learn(tmp_path: Path, precision: str) -> None:
    losses, weights = run(tmp_path, precision=precision)
    assert losses[-1] < 0.9 * losses[0]
    assert all(w.dtype == torch.float32 and w.is_cuda for w in weights.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, precision: str) -> None:
    class Stops(TinySource):
        def update(self, step: int) -> list[Batch]:
            stop.requested = stop.requested or step == 23
            return super().update(step)

    _, whole = run(tmp_path / "whole", precision=precision, model=TinyModel(dropout=0.1))
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "run", precision=precision, model=TinyModel(dropout=0.1), source=Stops(), stop=stop)
    _, resumed = run(tmp_path / "run", precision=precision, model=TinyModel(dropout=0.1))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_probe_chooses_a_plan() -> None:
    result = probe(
        TinyModel(),
        next_token_loss,
        lambda rows: TinySource(batch_size=rows, masked=0.0).batch(0),
        plan(device="cuda"),
        micro_batches=(2, 8),
    )
    assert result.plan.device == "cuda" and result.items_per_s > 0
