"""The probe's choices, with scripted speeds and for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_tiny import TinyModel, TinySource, plan, trainer, weights_of

from groundup.core.errors import TrainingError, UsageError
from groundup.core.execution import ExecutionPlan, machine_fingerprint
from groundup.data.batch import Batch
from groundup.train import probe as probe_module
from groundup.train.objectives import next_token_loss
from groundup.train.probe import ProbeResult, describe, native_precisions, probe

ONEDNN, STORED, COMPILED = 1.2, 1.3, 1.25


def _pretend_to_compile(model: torch.nn.Module) -> None:
    """In place of what takes seconds, and loads modules that warn; tests/train/test_compiled_steps.py compiles."""
    model._compiled_call_impl = lambda *_: None


def make_batch(rows: int) -> Batch:
    return TinySource(batch_size=rows, masked=0.0).batch(0)


def run_probe(model: TinyModel | None = None, **options: Any) -> ProbeResult:
    settings = {"micro_batches": (2, 4, 8), "matmuls": ("torch",)} | options
    return probe(model or TinyModel(), next_token_loss, make_batch, plan(machine=""), **settings)


def scripted(monkeypatch: pytest.MonkeyPatch, speeds: dict[tuple[str, int], float]) -> list[tuple[str, int]]:
    asked = []

    def rate(model: Any, objective: Any, batch: Batch, plan: ExecutionPlan, repeats: int) -> float:
        assert len(batch.inputs) == plan.micro_batch
        asked.append((plan.precision, plan.micro_batch))
        gain = ONEDNN * (plan.matmul == "onednn") or 1.0
        gain *= STORED * (plan.attention == "stored") or 1.0
        return speeds[asked[-1]] * gain * (COMPILED * plan.compile or 1.0)

    monkeypatch.setattr(probe_module, "_items_per_s", rate)
    return asked


def test_a_real_probe_leaves_the_model_and_records_the_machine() -> None:
    model = TinyModel(dropout=0.2)
    before, state = weights_of(model), torch.get_rng_state()
    result = run_probe(model, precisions=("float32", "bfloat16"))
    assert all(a.equal(b) for a, b in zip(before.values(), weights_of(model).values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert result.plan.machine == machine_fingerprint() and result.plan.threads == 1
    assert result.plan.micro_batch in (2, 4, 8)
    assert len(result.measurements) == 4 and all(m.items_per_s > 0 for m in result.measurements)
    chosen = next(
        m
        for m in result.measurements
        if (m.precision, m.micro_batch) == (result.plan.precision, result.plan.micro_batch)
    )
    assert result.items_per_s == chosen.items_per_s
    assert result.update_seconds(1000) == pytest.approx(1000 / result.items_per_s + result.optimizer_s)
    assert 0 < result.optimizer_s < result.seconds


def test_bfloat16_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {("float32", n): 100.0 for n in (2, 4, 8)} | {("bfloat16", n): 109.0 for n in (2, 4, 8)}
    scripted(monkeypatch, speeds)
    assert run_probe(precisions=("float32", "bfloat16")).plan.precision == "float32"
    scripted(monkeypatch, speeds | {("bfloat16", n): 150.0 for n in (2, 4, 8)})
    assert run_probe(precisions=("float32", "bfloat16")).plan.precision == "bfloat16"


def test_micro_batches_grow_as_long_as_they_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger one that gains nothing is not taken, and none beyond it is tried: trying alone takes its memory."""
    asked = scripted(monkeypatch, {("float32", n): rate for n, rate in ((2, 70.0), (4, 99.0), (8, 100.0), (16, 500.0))})
    result = run_probe(precisions=("float32",), micro_batches=(16, 8, 2, 4, 4))
    assert result.plan.micro_batch == 4 and result.items_per_s == 99.0
    assert asked == [("float32", 2), ("float32", 4), ("float32", 8)]
    scripted(monkeypatch, {("float32", 2): 70.0, ("float32", 4): 80.0, ("float32", 8): 90.0})
    assert run_probe(precisions=("float32",)).plan.micro_batch == 8


def test_a_size_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = next_token_loss

    def limited(model: Any, batch: Batch) -> Any:
        if len(batch.inputs) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return original(model, batch)

    settings: dict[str, Any] = {"precisions": ("float32",), "matmuls": ("torch",), "micro_batches": (2, 4, 8)}
    result = probe(TinyModel(), limited, make_batch, plan(), **settings)
    assert result.plan.micro_batch in (2, 4)
    assert [m.items_per_s == 0 for m in result.measurements] == [False, False, True]
    with pytest.raises(TrainingError, match="8 rows do not fit into the memory of cpu"):
        probe(TinyModel(), limited, make_batch, plan(), precisions=("float32",), micro_batches=(8, 16))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(UsageError, match=r"sizes of at least 1, not \[0, 2\]"):
        run_probe(micro_batches=(0, 2))
    with pytest.raises(UsageError, match=r"not \[\]"):
        run_probe(micro_batches=())


def test_several_processes_share_the_work() -> None:
    result = ProbeResult(plan(world_size=4), 100.0, 0.5, (), 1.0)
    assert result.update_seconds(800) == pytest.approx(2.5)


def test_native_precisions_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "has_fast_bfloat16", lambda: True)
    assert native_precisions("cpu") == ("float32", "bfloat16")
    monkeypatch.setattr(probe_module, "has_fast_bfloat16", lambda: False)
    assert native_precisions("cpu") == ("float32",)
    assert native_precisions("mps") == ("float32",)


def test_a_probed_plan_can_be_trained_and_repeated(tmp_path: Path) -> None:
    chosen = run_probe(precisions=("float32",)).plan
    chosen.check_repeatable()
    source = TinySource(micro_batch=chosen.micro_batch)
    assert trainer(tmp_path, plan=chosen, source=source, num_steps=3, warmup_steps=0).fit().steps == 3


def test_precisions_of_a_large_model_are_timed_in_turn_on_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.train.probe.LARGE_MODEL_PARAMETERS", 1)
    rates = iter([10.0, 5.0, 4.0, 8.0, 7.0])  # float32 was lucky once, bfloat16 never
    monkeypatch.setattr("groundup.train.probe._items_per_s", lambda *_: next(rates))
    result = run_probe(precisions=("float32", "bfloat16"), micro_batches=(8,))
    tried = [(m.precision, m.micro_batch) for m in result.measurements]
    assert tried == [("float32", 2), ("bfloat16", 2), ("float32", 2), ("bfloat16", 2), ("float32", 8)]
    assert (result.plan.precision, result.plan.micro_batch, result.items_per_s) == ("float32", 8, 7.0)


def test_another_library_and_kernel_are_taken_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {("float32", n): 100.0 for n in (2, 4, 8)} | {("bfloat16", 2): 126.0}
    asked = scripted(monkeypatch, speeds)
    both: dict[str, Any] = {"precisions": ("float32", "bfloat16"), "matmuls": None, "attentions": ("fused", "stored")}
    result = run_probe(**both)
    # bfloat16 is 5 % faster than oneDNN's float32, which costs no accuracy.
    assert (result.plan.precision, result.plan.matmul, result.plan.attention) == ("float32", "onednn", "stored")
    assert asked[:4] == [("float32", 2), ("float32", 2), ("bfloat16", 2), ("float32", 2)]
    assert result.items_per_s == pytest.approx(156.0)
    scripted(monkeypatch, speeds | {("bfloat16", n): 170.0 for n in (2, 4, 8)})
    result = run_probe(**both)
    assert (result.plan.precision, result.plan.matmul) == ("bfloat16", "torch")
    monkeypatch.setattr("groundup.train.probe.PATH_GAIN", 1.5)
    scripted(monkeypatch, speeds)
    result = run_probe(**(both | {"precisions": ("float32",)}))
    assert (result.plan.matmul, result.plan.attention) == ("torch", "fused")
    assert describe(result.plan) == "float32, micro-batches of 2"


def test_only_a_long_run_is_compiled_and_only_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {("float32", n): 100.0 for n in (2, 4, 8)})
    monkeypatch.setattr(TinyModel, "compile", _pretend_to_compile)
    options: dict[str, Any] = {"precisions": ("float32",)}
    assert not run_probe(compile_for=59_000, **options).plan.compile  # 590 s
    model = TinyModel()
    long = run_probe(model, compile_for=61_000, **options)
    assert long.plan.compile and long.items_per_s == 125.0 and long.measurements[-1].compile
    assert model._compiled_call_impl is None
    assert describe(long.plan) == "float32, compiled, micro-batches of 2"
    monkeypatch.setattr("groundup.train.probe.PATH_GAIN", 1.3)
    assert not run_probe(compile_for=61_000, **options).plan.compile


def test_a_machine_without_a_compiler_trains_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(model: Any, objective: Any, batch: Batch, plan: ExecutionPlan, repeats: int) -> float:
        if plan.compile:
            raise RuntimeError("No working C++ compiler found\nmore")
        return 1.0

    monkeypatch.setattr(probe_module, "_items_per_s", rate)
    monkeypatch.setattr(TinyModel, "compile", _pretend_to_compile)
    model = TinyModel()
    result = run_probe(model, precisions=("float32",), compile_for=10**6)
    assert not result.plan.compile and result.items_per_s == 1.0 and model._compiled_call_impl is None
