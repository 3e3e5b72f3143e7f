"""The monitor leaves the run as it is, bit for bit, stopped or not, alone or not, and measures what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer_resume import without_times
from trainer_tiny import ListSink, TinyModel, TinySource, tiny_transformer, trainer, weights_of
from trainer_workers import monitored

from groundup.core.errors import Interrupted
from groundup.core.interrupt import StopRequest
from groundup.data.batch import IGNORE_INDEX, Batch
from groundup.train.distributed import launch
from groundup.train.health.history import History, RunFacts
from groundup.train.health.measure import seen_ahead, targets_of
from groundup.train.health.monitor import Monitor

FACTS = RunFacts(50, 1000, 20, 1e-2, 1.0, "adamw", 2, True, 80, 3.9)


def monitor(sink: ListSink | None = None, **options: Any) -> Monitor:
    earlier = (lambda: sink.records) if sink is not None else tuple
    return Monitor(FACTS, every=4, earlier=earlier, tell=lambda finding: None, **options)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("family", ["qwen3", "gpt2", "tiny"])
def test_the_weights_are_the_same_with_and_without_it(tmp_path: Path, family: str, optimizer: str) -> None:
    runs = []
    for name in ("with", "without"):
        model = TinyModel(dropout=0.1) if family == "tiny" else tiny_transformer(family)
        observer = monitor() if name == "with" else None
        trainer(tmp_path / name, model=model, observer=observer, optimizer=optimizer).fit()
        runs.append(weights_of(model))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_stopped_and_resumed_it_leaves_the_same_records(tmp_path: Path) -> None:
    whole, stopped = ListSink(), ListSink()
    trainer(tmp_path / "whole", model=tiny_transformer(), sink=whole, observer=monitor(whole), num_steps=20).fit()
    stop = StopRequest()

    class Stops(TinySource):
        def update(self, step: int) -> list[Batch]:
            stop.requested = step == 9
            return super().update(step)

    with pytest.raises(Interrupted):
        trainer(
            tmp_path / "run",
            model=tiny_transformer(),
            sink=stopped,
            observer=monitor(stopped),
            source=Stops(),
            stop=stop,
        ).fit()
    stop.requested = False
    trainer(tmp_path / "run", model=tiny_transformer(), sink=stopped, observer=monitor(stopped), stop=stop).fit()

    def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for record in records:
            record.get("health", {}).pop("waited", None)
        return without_times(records)

    assert timeless(stopped.records) == timeless(whole.records)
    kinds = [key for record in whole.records for key in ("facts", "health") if key in record]
    assert kinds.count("facts") == 1 and kinds.count("health") == 6


def test_what_it_measures_is_what_is_there(tmp_path: Path) -> None:
    """One update by hand: residual stream, gradient norms and steps beside those of the record."""
    sink, model = ListSink(), tiny_transformer()
    before = weights_of(model)
    trainer(tmp_path, model=model, sink=sink, observer=monitor(), num_steps=1, warmup_steps=0, weight_decay=0.0).fit()
    history = History("pretrain", sink.records)
    sample = history.samples[0]
    fresh = tiny_transformer()
    seen: list[torch.Tensor] = []
    for layer in fresh.layers:
        layer.get_submodule("residual_out").register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    fresh(torch.cat([batch.inputs for batch in TinySource().update(0)]))
    assert sample.residual[1:] == pytest.approx([float(x.square().mean().sqrt()) for x in seen], rel=1e-3)
    total = sum(norm**2 for norm in sample.gradient.values()) ** 0.5
    assert total == pytest.approx(history.grad_norms[0], rel=1e-3)
    assert set(sample.gradient) == {"embed", "layer 0", "layer 1", "final_norm"}
    moved = {name: (weights_of(model)[name] - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
             for name in before if before[name].ndim == 2 and "layers" in name}  # fmt: skip
    assert sample.update["matrix"] == pytest.approx(float(torch.stack(list(moved.values())).median()), rel=0.2)
    assert sample.ahead == 0.0 and 0.6 < (sample.trained or 0) < 0.95 and sample.shifted == 1.0


def test_two_processes_measure_and_stay_as_they_were(tmp_path: Path) -> None:
    launch(monitored, 2, tmp_path)
    for kind in ("ddp", "fsdp"):
        with_it, without = ((tmp_path / f"{kind}-{name}.bin").read_bytes() for name in ("with", "without"))
        assert with_it == without and len(with_it) > 10_000
        assert (tmp_path / f"{kind}-health.txt").read_text() == "4"


def test_a_compiled_run_is_measured_outside_of_its_layers(tmp_path: Path) -> None:
    from groundup.train.contracts import Observed
    from groundup.train.optimizer import make_optimizer

    model, watching = tiny_transformer(), monitor()
    training = trainer(tmp_path, model=model)
    watching.begin(Observed(model, make_optimizer(model, training.config), "pretrain", 0, False, True))
    watching.before_data(0)
    watching.before_update(0, [])
    assert not any(module._forward_hooks for module in model.modules())
    records = watching.recorded(
        {"stage": "pretrain", "step": 1, "loss": 3.0, "lr": 1e-2, "grad_norm": 1.0, "tokens": 9}
    )
    assert not any("residual" in record.get("health", {}) for record in records)


def test_the_targets_of_a_batch() -> None:
    ids = torch.randint(0, 50, (4, 13), generator=torch.Generator().manual_seed(3))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    assert targets_of([Batch(inputs, targets)])["shifted"] == 1.0
    wrong = targets_of([Batch(inputs, inputs)])
    assert wrong["copied"] == 1.0 and (wrong["shifted"] or 0) < 0.3
    # Two texts in a row: the last target of the first is not the first input of the second.
    packed = Batch(torch.tensor([[1, 2, 7, 8]]), torch.tensor([[2, 3, 8, 9]]), segments=torch.tensor([[0, 0, 1, 1]]))
    assert targets_of([packed])["shifted"] == 1.0
    # A short answer of two turns, filled up: what follows its end (5) is padding (0), between the turns is the next input.
    row, ignored = torch.tensor([[7, 3, 5, 8, 4, 5, 0, 0]]), IGNORE_INDEX
    filled = Batch(row, torch.tensor([[3, 5, ignored, 4, 5, 2, ignored, ignored]]))
    assert targets_of([filled])["shifted"] == 1.0
    assert targets_of([Batch(row, filled.inputs.where(filled.targets != ignored, ignored))])["shifted"] == 0.0
    assert targets_of([object()]) == {}


def test_attention_that_is_not_causal_is_seen(tmp_path: Path) -> None:
    model, batches = tiny_transformer(), TinySource().update(0)
    assert seen_ahead(model, batches) == 0.0 and model.training
    model.layers[0].get_submodule("attn").is_causal = False  # type: ignore[assignment]
    assert (seen_ahead(model, batches) or 0) > 0.9


def test_findings_are_told_once_and_written(tmp_path: Path) -> None:
    sink, told = ListSink(), []
    watching = Monitor(FACTS, every=4, earlier=lambda: sink.records, tell=lambda finding: told.append(finding.rule))
    model = tiny_transformer()
    for layer in model.layers:
        layer.get_submodule("mlp.gate_proj").register_forward_hook(lambda m, i, o: o - 30)
    trainer(tmp_path, model=model, sink=sink, observer=watching).fit()
    assert told.count("dead-units") == 1
    written = [record["finding"]["rule"] for record in sink.records if "finding" in record]
    assert written.count("dead-units") == 1
