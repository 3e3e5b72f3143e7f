"""The race to a loss: every held-out character counts once, evaluations stop the clock, settings change the recipe."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import time_to_loss as race
from groundup.core.errors import UsageError

SMALL: dict[str, Any] = {
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
    },
    "train": {"num_steps": 6, "evaluate_every": 2, "warmup_steps": 1},
}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("the quick brown fox\njumps over the lazy dog\n" * 60, encoding="utf-8")
    monkeypatch.setattr(race, "TEXT", path)
    monkeypatch.setattr(race, "keep_freed_memory", lambda: None)  # for the whole process
    return path


def test_every_held_out_character_is_predicted_once(text: Path) -> None:
    train, held_out, _ = race.read_text()
    assert len(train) == int(0.9 * (len(train) + len(held_out)))
    batch = race.validation_windows(held_out)
    count = batch.targets.numel()
    assert torch.equal(batch.targets.flatten(), held_out[1 : count + 1]) and len(held_out) - 1 - count < race.CONTEXT
    assert torch.equal(batch.inputs.flatten(), held_out[:count])


def test_windows_are_of_the_training_part_and_repeat(text: Path) -> None:
    train, _, _ = race.read_text()
    a, b, other = (race.windows(train, 5, seed, 3) for seed in (1, 1, 2))
    assert torch.equal(a.inputs, b.inputs) and not torch.equal(a.inputs, other.inputs)
    assert torch.equal(a.inputs[:, 1:], a.targets[:, :-1])


def test_a_run_ends_at_the_target_and_its_evaluations_cost_nothing(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = race.merge(race.RECIPE, SMALL)
    whole = race.train_ours(recipe, 0)
    assert math.isinf(whole.seconds) and len(whole.losses) == 3, "the target was not reached"
    assert [tokens for _, tokens, _ in whole.losses] == [step * 12 * race.CONTEXT for step in (2, 4, 6)]
    monkeypatch.setattr(race, "TARGET", whole.losses[1][2] + 1e-6)
    slow = race.validation_windows

    def slower(data: torch.Tensor) -> Any:
        batch = slow(data)

        class Late:
            targets = batch.targets

            @property
            def inputs(self) -> torch.Tensor:
                time.sleep(0.05)
                return batch.inputs

        return Late()

    monkeypatch.setattr(race, "validation_windows", slower)
    begun = time.perf_counter()
    reached = race.train_ours(recipe, 0)
    spent = time.perf_counter() - begun
    assert reached.tokens == whole.losses[1][1] and len(reached.losses) == 2
    assert reached.losses[-1][2] == whole.losses[1][2], "the same seed gives the same losses"
    pauses = 2 * 2 * 0.05  # two evaluations, each asking for the inputs twice at least
    assert reached.seconds <= spent - pauses


def test_settings_change_the_recipe() -> None:
    recipe = race.changed(race.RECIPE, ["train.learning_rate=0.5", "rows=3", 'train.optimizer="adamw"'])
    assert (recipe["train"]["learning_rate"], recipe["rows"], recipe["train"]["optimizer"]) == (0.5, 3, "adamw")
    assert recipe["model"] == race.RECIPE["model"] and race.RECIPE["rows"] == 12
    with pytest.raises(UsageError, match=r"write it as train\.learning_rate=0\.01"):
        race.changed(race.RECIPE, ["rows"])


def test_the_text_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "TEXT", tmp_path / "none.txt")
    with pytest.raises(UsageError, match=r"none\.txt, which is not here"):
        race.read_text()
    assert race.main(["--ours", "--seeds", "1"]) == 2


def test_where_the_peer_stays_above_the_target_both_are_timed_to_its_best_loss() -> None:
    ours = race.Reached(12.0, 300, [(4.0, 100, 1.95), (8.0, 200, 1.90), (12.0, 300, 1.87)])
    never = race.Reached(float("inf"), 900, [(50.0, 500, 1.93), (90.0, 900, 1.91)])
    assert race.at_equal_loss(ours, never) == (1.91, 8.0, 90.0)
    there = race.Reached(60.0, 600, [(50.0, 500, 1.93), (60.0, 600, 1.875)])
    assert race.at_equal_loss(ours, there) == (race.TARGET, 12.0, 60.0)
    found = race.compared([ours], [never])
    assert found["ratio"] == 90 / 8 and found["equal_loss"] == 1.91
    assert found["runs"]["peer"][0]["seconds"] is None and found["runs"]["ours"][0]["seconds"] == 12.0
