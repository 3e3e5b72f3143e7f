"""What an update computes: global-token normalisation, clipping, guards, precision, evaluation, metrics."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from trainer_tiny import ListSink, TinyModel, TinySource, evaluate, plan, trainer, weights_of

from groundup.core.errors import CheckpointError, PlanError, TrainingError
from groundup.core.metrics import JsonlSink, read_jsonl
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.train.contracts import LossSum
from groundup.train.distributed import Parallel
from groundup.train.environment import planned_environment
from groundup.train.gradients import norm_of
from groundup.train.objectives import next_token_loss
from groundup.train.optimizer import Optimizer


class Pieces(TinySource):
    """The same global batch cut into pieces of given sizes."""

    def __init__(self, sizes: list[int], **options: Any) -> None:
        super().__init__(batch_size=sum(sizes), masked=0.5, **options)
        self.sizes = sizes

    def update(self, step: int) -> list[Batch]:
        whole = self.batch(step)
        inputs, targets = whole.inputs.split(self.sizes), whole.targets.split(self.sizes)
        return [Batch(i, t) for i, t in zip(inputs, targets, strict=True)]


def gradients_of(tmp_path: Path, sizes: list[int], seed: int) -> dict[str, torch.Tensor]:
    """The gradients an update hands to the optimizer."""
    model = TinyModel(seed=seed).double()
    caught = {}
    run = trainer(tmp_path, model=model, source=Pieces(sizes, seed=seed), num_steps=1, warmup_steps=0, max_grad_norm=0)

    class Spy(Optimizer):
        def step(self, closure: Any = None) -> None:
            caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groundup.train.optimizer.Optimizer", Spy)
        run.fit()
    return caught


def test_four_unequal_micro_batches_give_the_gradients_of_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    for seed in range(3):
        one = gradients_of(tmp_path_factory.mktemp("one"), [12], seed)
        four = gradients_of(tmp_path_factory.mktemp("four"), [1, 5, 2, 4], seed)
        assert one.keys() == four.keys()
        for name in one:
            assert (one[name] - four[name]).abs().max() <= 1e-12 * one[name].abs().max(), name


def test_the_gradient_is_that_of_torchs_mean_cross_entropy(tmp_path: Path) -> None:
    got = gradients_of(tmp_path, [3, 1, 4], 7)
    model = TinyModel(seed=7).double()
    batch = Pieces([8], seed=7).batch(0)
    logits = model.logits(model(batch.inputs)).flatten(0, 1)
    F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE_INDEX).backward()
    for name, parameter in model.named_parameters():
        assert (got[name] - parameter.grad).abs().max() <= 1e-12 * parameter.grad.abs().max(), name


@settings(deadline=None, max_examples=8)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_any_cut_gives_the_same_losses(sizes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    records = []
    for cut in (sizes, [sum(sizes)]):
        sink = ListSink()
        run = trainer(
            tmp_path_factory.mktemp("cut"),
            model=TinyModel(seed=seed).double(),
            source=Pieces(cut, seed=seed),
            sink=sink,
            num_steps=3,
            warmup_steps=0,
            checkpoint_every=0,
        )
        run.fit()
        records.append([(r["loss"], r["grad_norm"], r["tokens"]) for r in sink.records])
    for a, b in zip(*records, strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def test_clipping_scales_to_the_limit_and_reports_the_norm_before(tmp_path: Path) -> None:
    class Steep:
        def __call__(self, model: nn.Module, batch: Batch) -> LossSum:
            loss = next_token_loss(model, batch)
            return LossSum(1000 * loss.total, loss.count)

    applied = []

    class Spy(Optimizer):
        def step(self, closure: Any = None) -> None:
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            applied.append(torch.cat([g.flatten() for g in gradients]).norm().item())

    sink = ListSink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groundup.train.optimizer.Optimizer", Spy)
        trainer(tmp_path, sink=sink, objective=Steep(), num_steps=2, warmup_steps=0, max_grad_norm=0.25).fit()
    assert applied == pytest.approx([0.25, 0.25], rel=1e-5)
    assert all(r["grad_norm"] > 100 for r in sink.records)


def test_loss_falls_and_metrics_are_complete(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    result = trainer(tmp_path, sink=sink, num_steps=120, evaluate=evaluate, evaluate_every=40).fit()
    records = read_jsonl(sink.path)
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 121))
    assert set(steps[0]) == {
        "stage", "step", "elapsed_s", "loss", "lr", "grad_norm", "tokens", "tokens_per_s"
    }  # fmt: skip
    assert steps[0]["loss"] == pytest.approx(math.log(50), abs=1.0)
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert steps[-1]["tokens"] == result.tokens == sum(TinySource().batch(s).num_targets() for s in range(120))
    evaluations = [r for r in records if "evaluation" in r]
    assert [r["step"] for r in evaluations] == [40, 80, 120]
    assert result.best_value == min(r["evaluation"]["loss"] for r in evaluations)
    assert result.ended == "steps" and result.steps == 120 and result.skipped == 0
    assert all(a["elapsed_s"] <= b["elapsed_s"] for a, b in pairwise(records))


def test_objective_metrics_are_divided_by_the_global_count(tmp_path: Path) -> None:
    class WithMetrics:
        def __call__(self, model: nn.Module, batch: Batch) -> LossSum:
            loss = next_token_loss(model, batch)
            return LossSum(loss.total, loss.count, {"twos": 2.0 * loss.count, "rows": float(len(batch.inputs))})

    sink = ListSink()
    trainer(tmp_path, sink=sink, objective=WithMetrics(), source=Pieces([1, 2, 5]), num_steps=2, warmup_steps=0).fit()
    for step, record in enumerate(sink.records):
        assert record["twos"] == pytest.approx(2.0)
        assert record["rows"] == pytest.approx(8 / Pieces([8]).batch(step).num_targets())


def test_a_metric_may_not_hide_one_of_the_trainers(tmp_path: Path) -> None:
    class Clash:
        def __call__(self, model: nn.Module, batch: Batch) -> LossSum:
            loss = next_token_loss(model, batch)
            return LossSum(loss.total, loss.count, {"grad_norm": 1.0})

    with pytest.raises(TrainingError, match="metric 'grad_norm' has the name of one of the trainer's"):
        trainer(tmp_path, objective=Clash()).fit()


class Poisoned(TinySource):
    """Marks some steps, whose loss the objective below makes non-finite."""

    bad: frozenset[int] = frozenset()

    def update(self, step: int) -> list[Batch]:
        batches = super().update(step)
        if step in self.bad:
            batches[-1] = Batch(
                batches[-1].inputs, batches[-1].targets, mask=torch.zeros_like(batches[-1].inputs).bool()
            )
        return batches


def poisoned_loss(model: nn.Module, batch: Batch) -> LossSum:
    loss = next_token_loss(model, batch)
    return LossSum(loss.total * (math.nan if batch.mask is not None else 1.0), loss.count)


def test_a_non_finite_step_is_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, sink = Poisoned(), ListSink()
    source.bad = frozenset({3, 4, 9})
    run = trainer(tmp_path, source=source, sink=sink, objective=poisoned_loss, max_nonfinite_steps=3)
    result = run.fit()
    assert result.skipped == 3 and result.steps == 20
    skipped = [r for r in sink.records if r.get("skipped")]
    assert [r["step"] for r in skipped] == [4, 5, 10]
    assert all(r["loss"] is None and r["grad_norm"] is None for r in skipped)
    json.dumps(sink.records, allow_nan=False)
    assert run.optimizer.num_updates == 17
    assert all(p.isfinite().all() for p in run.model.parameters())
    assert "update 4 skipped" in caplog.text


def test_non_finite_steps_in_a_row_stop_with_a_diagnosis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Poisoned()
    source.bad = frozenset(range(7, 20))
    model = TinyModel()
    run = trainer(tmp_path, model=model, source=source, objective=poisoned_loss, max_nonfinite_steps=4)
    with pytest.raises(TrainingError) as error:
        run.fit()
    text = str(error.value)
    assert "pretrain stopped at update 11: 4 updates in a row" in text
    assert "loss nan" in text and "gradient norm nan" in text and "learning rate 0.00" in text
    assert "the first with a non-finite gradient is embed.weight" in text
    assert "last finite loss" in text and "Lower learning_rate" in text
    assert run.store.steps() == [5, 10]


def test_a_non_finite_parameter_is_named_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = TinyModel()
    with torch.no_grad():
        model.layers[1].bias[2] = math.nan
    with pytest.raises(TrainingError, match=r"first parameter with a non-finite value is layers\.1\.bias"):
        trainer(tmp_path, model=model, max_nonfinite_steps=1).fit()


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"update 1 of pretrain has no trained tokens.*2 micro-batches"):
        trainer(tmp_path, source=TinySource(masked=1.1)).fit()

    class Empty(TinySource):
        def update(self, step: int) -> list[Batch]:
            return []

    with pytest.raises(TrainingError, match="update 1 of pretrain has no micro-batches"):
        trainer(tmp_path, source=Empty()).fit()


def test_bfloat16_keeps_float32_master_weights(tmp_path: Path) -> None:
    seen = set()

    class Watched(TinyModel):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            seen.add(F.linear(hidden, self.embed.weight).dtype)
            return super().logits(hidden)

    model = Watched()
    run = trainer(tmp_path, model=model, plan=plan(precision="bfloat16"), num_steps=60, evaluate=evaluate)
    result = run.fit()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {m.dtype for p in model.parameters() for m in run.optimizer.state_of(p).values()} == {torch.float32}
    # Not just bfloat16 numbers kept in float32: updates smaller than bfloat16 can hold have survived.
    assert not torch.equal(model.embed.weight, model.embed.weight.bfloat16().float())
    exact = trainer(tmp_path / "exact", num_steps=60, evaluate=evaluate).fit()
    assert result.best_value == pytest.approx(exact.best_value, rel=0.05)


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, 2.5, 2.0, 2.1, 9.9])
    at_evaluation = {}
    model = TinyModel()

    def scripted(measured: nn.Module) -> dict[str, float]:
        assert not measured.training and not torch.is_grad_enabled()
        at_evaluation[len(at_evaluation)] = weights_of(measured)
        return {"loss": next(values), "other": 0.0}

    options = {"evaluate_every": 3, "early_stopping_patience": 3, "num_steps": 40, "checkpoint_every": 0}
    run = trainer(tmp_path, model=model, evaluate=scripted, **options)
    result = run.fit()
    assert (result.ended, result.steps, result.best_step, result.best_value) == ("early stopping", 15, 6, 2.0)
    assert model.training
    best = TinyModel(seed=5)
    assert run.load_best(best) == 6
    assert all(torch.equal(a, b) for a, b in zip(weights_of(best).values(), at_evaluation[1].values(), strict=True))
    again = trainer(tmp_path, evaluate=scripted, **options)
    assert again.fit() == result, "an ended run is not trained again"


def test_higher_may_be_better_and_a_nan_is_never_the_best(tmp_path: Path) -> None:
    values = iter([0.5, math.nan, 0.7, 0.6])
    sink = ListSink()
    result = trainer(
        tmp_path,
        sink=sink,
        evaluate=lambda model: {"accuracy": next(values)},
        watch="accuracy",
        higher_is_better=True,
        evaluate_every=5,
    ).fit()
    assert (result.best_value, result.best_step) == (0.7, 15)
    assert [r["evaluation"]["accuracy"] for r in sink.records if "evaluation" in r] == [0.5, None, 0.7, 0.6]


def test_watching_a_value_that_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no value 'los' \(did you mean 'loss'\?\)"):
        trainer(tmp_path, evaluate=evaluate, watch="los", evaluate_every=5).fit()


def test_without_evaluation_the_best_is_the_last(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    result = run.fit()
    assert result.best_value is None and result.best_step is None
    model = TinyModel(seed=9)
    assert run.load_best(model) == 20
    assert all(
        torch.equal(a, b) for a, b in zip(weights_of(model).values(), weights_of(run.model).values(), strict=True)
    )
    with pytest.raises(CheckpointError, match="there are no checkpoints in"):
        trainer(tmp_path / "other").load_best(model)


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    model = TinyModel(dropout=0.3)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    trainer(tmp_path, plan=plan(threads=1), model=model).fit()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    def noisy(model: nn.Module) -> dict[str, float]:
        return {"loss": torch.rand(()).item() + 1}

    plain, evaluated = TinyModel(dropout=0.3), TinyModel(dropout=0.3)
    trainer(tmp_path / "a", model=plain).fit()
    trainer(tmp_path / "b", model=evaluated, evaluate=noisy, evaluate_every=3).fit()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), evaluated.parameters(), strict=True))


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    model = TinyModel()
    model.embed.weight.requires_grad_(False)
    before = model.embed.weight.clone()
    trainer(tmp_path, model=model).fit()
    assert torch.equal(model.embed.weight, before)


def test_determinism_is_on_inside(tmp_path: Path) -> None:
    seen = []
    trainer(
        tmp_path, evaluate=lambda m: {"loss": float(seen.append(torch.are_deterministic_algorithms_enabled()) or 1)}
    ).fit()
    assert seen == [True]


def test_the_norm_is_that_of_all_gradients_together() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in ((3, 4), (7,), (2, 2, 2))]
    model = TinyModel()
    parallel = Parallel(model, next_token_loss, plan())
    assert norm_of(gradients, parallel) == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item())
    assert norm_of([], parallel) == 0.0


def test_a_plan_for_two_processes_is_refused_by_one(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"for 2 processes and 1 run: start it with torchrun --nproc-per-node 2"):
        trainer(tmp_path, plan=plan(world_size=2)).fit()


def test_the_environment_is_restored_after_an_error() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError), planned_environment(plan(threads=1)):
        raise RuntimeError
    assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.core.console._Lines.every_s", 0.0)
    trainer(tmp_path, num_steps=4).fit()
    shown = capsys.readouterr().out
    assert "pretrain: 2/4 steps" in shown and "left  loss" in shown and "tokens/s" in shown
