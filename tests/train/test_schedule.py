"""The learning rate at every step."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.train.config import TrainConfig
from groundup.train.schedule import learning_rate_at


def rates(**fields: object) -> list[float]:
    config = TrainConfig(**fields)
    return [learning_rate_at(config, step) for step in range(config.num_steps)]


def test_cosine_values() -> None:
    got = rates(num_steps=13, learning_rate=1.0, warmup_steps=4, min_learning_rate_ratio=0.1, schedule="cosine")
    assert got[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert got[8] == pytest.approx(0.55)
    assert got[12] == pytest.approx(0.1)
    assert got[6] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_warmup_stable_decay_values() -> None:
    got = rates(num_steps=21, learning_rate=2.0, warmup_steps=2, min_learning_rate_ratio=0.0, schedule="wsd")
    assert got[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert got[2:17] == [2.0] * 15
    assert got[17] == pytest.approx(2 * (1 - math.sqrt(1 / 4)))
    assert got[20] == 0.0


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(2, 200),
    warmup=st.integers(0, 100),
    schedule=st.sampled_from(["cosine", "wsd"]),
    low=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_rises_then_falls_between_the_limits(steps: int, warmup: int, schedule: str, low: float, decay: float) -> None:
    warmup = min(warmup, steps - 2)
    got = rates(
        num_steps=steps,
        learning_rate=3e-4,
        warmup_steps=warmup,
        schedule=schedule,
        min_learning_rate_ratio=low,
        decay_fraction=decay,
    )
    assert got[warmup] == pytest.approx(3e-4)
    assert all(a < b for a, b in pairwise(got[: warmup + 1]))
    assert all(a >= b - 1e-18 for a, b in pairwise(got[warmup:]))
    assert got[-1] == pytest.approx(3e-4 * low, abs=1e-12)
    assert got[0] > 0


def test_one_step_uses_the_peak() -> None:
    assert rates(num_steps=1, learning_rate=0.5) == [0.5]


def test_config_errors_name_the_values() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps \(30\) must be smaller than num_steps \(20\)"):
        TrainConfig(num_steps=20, warmup_steps=30)
    with pytest.raises(ConfigError, match=r"early_stopping_patience \(3\) needs evaluate_every"):
        TrainConfig(early_stopping_patience=3)
    with pytest.raises(ConfigError, match=r"did you mean 'learning_rate'"):
        TrainConfig(learning_rat=1)
    config = TrainConfig(num_steps=7, schedule="wsd")
    assert TrainConfig.from_json(config.to_json()) == config


def test_settings_and_schedule_need_no_torch() -> None:
    script = "import sys, groundup.train.config, groundup.train.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
