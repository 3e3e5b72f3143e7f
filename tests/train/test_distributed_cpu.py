"""Two gloo processes against one: losses, weights, stops and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_workers import aborts_on_the_second, all_cases, fails_on_the_second, run

from groundup.core.errors import TrainingError, UsageError
from groundup.train.distributed import launch, process_group, rank_and_world_size


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    launch(all_cases, 2, folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for dtype in (torch.float64, torch.float32):
        run(folder / str(dtype).removeprefix("torch."), dtype)
    run(folder / "transformer", torch.float64, real=True)
    run(folder / "muon", torch.float64, real=True, optimizer="muon")
    return folder


def losses(folder: Path) -> list[dict[str, Any]]:
    records = json.loads((folder / "records.json").read_text())
    return [{k: v for k, v in r.items() if k not in ("elapsed_s", "tokens_per_s")} for r in records]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-6), ("transformer", 1e-9), ("muon", 1e-9)]
)
def test_two_processes_equal_one(one: Path, two: Path, kind: str, dtype: str, tolerance: float) -> None:
    a_records, b_records = losses(one / dtype), losses(two / f"{kind}-{dtype}")
    assert len(a_records) == len(b_records) == 10 + 3
    for a, b in zip(a_records, b_records, strict=True):
        assert a["step"] == b["step"]
        if "loss" in a:
            assert a["tokens"] == b["tokens"]
            assert a["loss"] == pytest.approx(b["loss"], rel=tolerance)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * tolerance)
        else:
            assert a["evaluation"]["loss"] == pytest.approx(b["evaluation"]["loss"], rel=tolerance)
    step = "checkpoints/step-00000010"
    for name in ("best.safetensors", f"{step}/model.safetensors", f"{step}/optimizer.safetensors"):
        a_tensors, b_tensors = load_file(one / dtype / name), load_file(two / f"{kind}-{dtype}" / name)
        assert a_tensors.keys() == b_tensors.keys()
        for key in a_tensors:
            error = (a_tensors[key] - b_tensors[key]).abs().max()
            assert error <= tolerance * a_tensors[key].abs().max(), (name, key)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_stop_on_one_process_stops_all_and_resumes_exactly(two: Path, kind: str) -> None:
    folder = two / f"stopped-{kind}"
    assert "stopped after update 6 of 10" in (folder / "stopped.txt").read_text()
    step = "checkpoints/step-00000010/model.safetensors"
    whole, resumed = load_file(two / f"{kind}-float64" / step), load_file(folder / step)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_shards_need_equal_numbers_of_micro_batches(two: Path) -> None:
    for rank, count in ((0, 2), (1, 4)):
        text = (two / f"ragged-{rank}.txt").read_text()
        assert f"process {rank} has {count} micro-batches in this update, the average is 3" in text


def test_a_failing_process_is_reported_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"one of 2 training processes failed: process 1(?s:.)*nothing works in .*"):
        launch(fails_on_the_second, 2, tmp_path)
    with pytest.raises(UsageError, match=r"world_size \(0\) must be at least 1"):
        launch(fails_on_the_second, 0, tmp_path)


def test_alone_there_is_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with process_group() as (rank, world_size):
        assert (rank, world_size) == (0, 1) == rank_and_world_size()
    assert not torch.distributed.is_initialized()


def test_a_process_ended_by_a_signal_leaves_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"terminated with signal SIGABRT(?s:.)*in aborts_on_the_second"):
        launch(aborts_on_the_second, 2, tmp_path)
