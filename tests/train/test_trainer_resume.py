"""A stopped run goes on bit for bit: after kill -9, signals, damage, a full disk."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from trainer_tiny import ListSink, TinyModel, TinySource, evaluate, plan, trainer, weights_of
from trainer_victim import NUM_STEPS, digest, victim

from groundup.core.config import Config
from groundup.core.errors import CheckpointError, DataError, Interrupted, PlanError
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import read_jsonl
from groundup.data.batch import Batch
from groundup.train.resume import differences, plan_for, recorded_plan

VICTIM = Path(__file__).with_name("trainer_victim.py")


def start(folder: Path, wait_s: float) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(VICTIM), str(folder), str(wait_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def finish(folder: Path) -> str:
    """Run to the end in a fresh process; returns the digest of the weights."""
    process = start(folder, 0.0)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.split()[-1]


def wait_for_change(path: Path, longest_s: float) -> None:
    """Wait until a file is written."""
    deadline = time.monotonic() + longest_s
    before = path.stat().st_mtime_ns if path.exists() else 0
    while time.monotonic() < deadline and (path.stat().st_mtime_ns if path.exists() else 0) == before:
        time.sleep(0.002)


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("elapsed_s", "tokens_per_s")} for r in records]


def kill_and_resume(tmp_path: Path, kills: int, seed: int) -> None:
    whole = victim(tmp_path / "whole")
    whole.fit()
    moments = random.Random(seed)
    folder = tmp_path / "killed"
    for _ in range(kills):
        process = start(folder, 0.01)
        wait_for_change(folder / "metrics.jsonl", moments.choice([0.0, 30.0]))
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
    assert finish(folder) == digest(whole.model)
    ours, theirs = read_jsonl(folder / "metrics.jsonl"), read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert without_times(ours) == without_times(theirs)


def test_kill_at_random_moments_and_resume_bit_for_bit(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=2, seed=random.randrange(2**32))


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=20, seed=random.randrange(2**32))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "run", 0.05)
    wait_for_change(tmp_path / "run" / "metrics.jsonl", 60.0)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    last = max(r["step"] for r in read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    assert f"pretrain stopped after update {last} of {NUM_STEPS}" in err
    assert f"step-{last:08d}" in err and "the same command goes on from there" in err
    resumed, whole = victim(tmp_path / "run"), victim(tmp_path / "whole")
    resumed.fit()
    whole.fit()
    assert digest(resumed.model) == digest(whole.model)


class StopsAt(TinySource):
    """Asks for a stop during given updates."""

    def __init__(self, stop: StopRequest, at: int | None) -> None:
        super().__init__()
        self.stop, self.at = stop, at

    def update(self, step: int) -> list[Batch]:
        self.stop.requested = self.stop.requested or step == self.at
        return super().update(step)


def run_with_stops(folder: Path, stops: list[int], sink: ListSink, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    for at in [*stops, None]:
        stop = StopRequest()
        model = TinyModel(dropout=0.2)
        run = trainer(folder, model=model, source=StopsAt(stop, at), stop=stop, sink=sink, evaluate=evaluate, **options)
        try:
            return run.fit(), weights_of(model)
        except Interrupted as error:
            assert f"stopped after update {at + 1} of 20" in str(error)
    raise AssertionError("the last run was stopped too")


@settings(deadline=None, max_examples=6)
@given(
    stops=st.lists(st.integers(0, 18), unique=True, max_size=4).map(sorted),
    precision=st.sampled_from(["float32", "bfloat16"]),
    schedule=st.sampled_from(["cosine", "wsd"]),
    patience=st.sampled_from([0, 2]),
)
def test_any_stops_change_nothing(
    stops: list[int], precision: str, schedule: str, patience: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options: dict[str, Any] = {
        "plan": plan(precision=precision),
        "schedule": schedule,
        "evaluate_every": 3,
        "early_stopping_patience": patience,
        "checkpoint_every": 4,
    }
    runs = []
    for given_stops in ([], stops):
        sink = ListSink()
        result, weights = run_with_stops(tmp_path_factory.mktemp("run"), given_stops, sink, **options)
        runs.append((result, weights, without_times(sink.records)))
    (a, a_weights, a_records), (b, b_weights, b_records) = runs
    assert all(a_weights[name].equal(b_weights[name]) for name in a_weights)
    assert a_records == b_records
    assert (a.steps, a.tokens, a.best_value, a.best_step, a.ended) == (
        b.steps,
        b.tokens,
        b.best_value,
        b.best_step,
        b.ended,
    )


def test_elapsed_time_adds_up_over_stops(tmp_path: Path) -> None:
    sink = ListSink()
    run_with_stops(tmp_path, [4, 9], sink)
    times = [r["elapsed_s"] for r in sink.records]
    assert times == sorted(times) and times[0] > 0


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = TinyModel()
    trainer(tmp_path / "whole", model=whole).fit()
    stop = StopRequest()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "run", source=StopsAt(stop, 12), stop=stop).fit()
    path = tmp_path / "run" / "checkpoints" / "step-00000013" / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 4
    else:
        data = data[:-100]
    path.write_bytes(data)
    model, sink = TinyModel(seed=3), ListSink()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "run", model=model, sink=sink).fit()
    assert "passing over the checkpoint of step 13" in caplog.text and "optimizer.safetensors" in caplog.text
    assert sink.records[0]["step"] == 11
    assert all(a.equal(b) for a, b in zip(weights_of(model).values(), weights_of(whole).values(), strict=True))


def test_a_full_disk_stops_clearly_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TinyModel()
    trainer(tmp_path / "whole", model=whole).fit()
    writes = []

    def nearly_full(*args: Any) -> None:
        writes.append(args)
        if len(writes) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(*args)

    with monkeypatch.context() as patch:
        patch.setattr("groundup.train.checkpoint.save_file", nearly_full)
        with pytest.raises(
            DataError, match=r"no space left on the disk while writing .*step-00000015.*free some space"
        ):
            trainer(tmp_path / "run").fit()
    model = TinyModel()
    trainer(tmp_path / "run", model=model).fit()
    assert all(a.equal(b) for a, b in zip(weights_of(model).values(), weights_of(whole).values(), strict=True))


def stopped_run(folder: Path, **options: Any) -> None:
    stop = StopRequest()
    with pytest.raises(Interrupted):
        trainer(folder, source=StopsAt(stop, 6), stop=stop, **options).fit()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    stopped_run(tmp_path, identity={"data": "abc", "shape": (1, 2)})
    with pytest.raises(CheckpointError) as error:
        trainer(
            tmp_path, learning_rate=0.5, beta2=0.9, stage="sft", identity={"data": "xyz", "shape": (1, 2), "new": 1}
        ).fit()
    text = str(error.value)
    assert "train.learning_rate was 0.01, is now 0.5" in text
    assert "train.beta2 was 0.95, is now 0.9" in text
    assert "stage was 'pretrain', is now 'sft'" in text
    assert "data was 'abc', is now 'xyz'" in text
    assert "new was absent, is now 1" in text
    assert "num_steps" not in text and "shape" not in text
    assert "or begin a new run in another folder" in text


def test_another_model_is_refused(tmp_path: Path) -> None:
    stopped_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"embed\.weight has shape \(50, 16\) in it and \(50, 20\) here"):
        trainer(tmp_path, model=TinyModel(hidden_size=20)).fit()
    other = TinyModel()
    other.layers.append(other.layers[0].__class__(16, 16))
    with pytest.raises(CheckpointError, match=r"2 tensors are missing in it \(layers\.2\.bias, layers\.2\.weight\)"):
        trainer(tmp_path, model=other).fit()


def test_a_models_config_is_part_of_the_identity(tmp_path: Path) -> None:
    class Shape(Config):
        rope_theta: float = 1e4

    def configured(theta: float) -> TinyModel:
        model = TinyModel()
        model.config = Shape(rope_theta=theta)
        return model

    stopped_run(tmp_path, model=configured(1e4))
    with pytest.raises(CheckpointError, match=r"model\.rope_theta was 10000\.0, is now 500000\.0"):
        trainer(tmp_path, model=configured(5e5)).fit()
    trainer(tmp_path, model=configured(1e4)).fit()


def test_another_plan_is_refused_unless_replanned(tmp_path: Path) -> None:
    stopped_run(tmp_path)
    other = plan(precision="bfloat16", micro_batch=2)
    with pytest.raises(PlanError) as error:
        trainer(tmp_path, plan=other).fit()
    assert "precision was 'float32', is now 'bfloat16'; micro_batch was 4, is now 2" in str(error.value)
    assert "--replan" in str(error.value)
    sink = ListSink()
    result = trainer(tmp_path, plan=other, replan=True, sink=sink, source=TinySource(micro_batch=2)).fit()
    assert result.steps == 20 and sink.records[0]["step"] == 8
    assert recorded_plan(tmp_path) == other


def test_a_plan_of_another_machine_asks_for_replan(tmp_path: Path) -> None:
    elsewhere = plan(machine="Some CPU | AVX9 | torch 9.9")
    stopped_run(tmp_path, plan=elsewhere)
    for attempt in (lambda: trainer(tmp_path, plan=elsewhere).fit(), lambda: plan_for(tmp_path, plan)):
        with pytest.raises(PlanError, match=r"made on 'Some CPU \| AVX9 \| torch 9\.9'.*--replan"):
            attempt()


def test_plan_for_never_probes_a_resumed_run(tmp_path: Path) -> None:
    probes = []

    def probe() -> Any:
        probes.append(1)
        return plan(micro_batch=len(probes))

    first = plan_for(tmp_path, probe)
    assert first.micro_batch == 1 and probes == [1]
    assert plan_for(tmp_path, probe).micro_batch == 2, "nothing was recorded yet"
    stopped_run(tmp_path, plan=plan(micro_batch=7))
    assert plan_for(tmp_path, probe).micro_batch == 7 and len(probes) == 2
    assert plan_for(tmp_path, probe, replan=True).micro_batch == 3


def test_resuming_rewinds_the_metrics(tmp_path: Path) -> None:
    sink = ListSink()
    stopped_run(tmp_path, sink=sink)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000007")
    trainer(tmp_path, sink=sink).fit()
    assert [r["step"] for r in sink.records] == list(range(1, 21))


def test_a_run_killed_before_its_first_checkpoint_begins_its_metrics_again(tmp_path: Path) -> None:
    sink = ListSink()
    other = {"stage": "corpus", "step": 1}
    sink.records = [other, *({"stage": "pretrain", "step": step, "loss": 1.0} for step in (1, 2, 3))]
    trainer(tmp_path, sink=sink).fit()
    assert sink.records[0] == other
    assert [r["step"] for r in sink.records[1:]] == list(range(1, 21))


def test_differences_of_nested_values() -> None:
    assert differences({"a": [1, {"b": 2}], "c": 1}, {"a": [1, {"b": 3}], "d": 2}) == [
        "a[1].b was 2, is now 3",
        "c was 1, is now absent",
        "d was absent, is now 2",
    ]
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a was [1], is now [1, 2]"]
    assert differences({"a": 1.0}, {"a": 1}) == []
