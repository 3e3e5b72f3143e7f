"""The benchmark harness: it validates before it times, alternates the two, and reports what it measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import harness, pairs
from benchmarks.harness import Timing, ValidationError, Work, compare, relative_difference, write_results
from groundup.core.registry import Pair


def test_different_results_are_refused_with_the_difference() -> None:
    with pytest.raises(ValidationError, match=r"double: the results differ by 0\.5 of the largest value; 0\.1 is"):
        compare("double", lambda: 1.0, lambda: 2.0, tolerance=0.1, warm_up_s=0, sample_s=0)


def test_the_two_run_in_turn_after_their_warm_up() -> None:
    calls: list[str] = []
    row = compare(
        "x", lambda: calls.append("A"), lambda: calls.append("B"), samples=4, sample_s=0, warm_up_s=0, tolerance=None
    )
    assert calls == ["A", "B", *"ABABABAB"]
    assert row.ours.samples == 4 and row.ours.calls_per_sample == 1 and row.difference is None


def test_ratio_spread_and_floor_come_from_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = iter([1.0, 2.0, 3.0, 4.0, 5.0]), iter([2.0, 6.0, 6.0, 8.0, 20.0])
    first = lambda: None  # noqa: E731
    monkeypatch.setattr(harness, "_calls_per_sample", lambda *_: 1)
    monkeypatch.setattr(harness, "_sample", lambda function, _: next(ours if function is first else theirs))
    monkeypatch.setattr(harness, "operations_per_s", lambda: 100.0)
    monkeypatch.setattr(harness, "bytes_per_s", lambda _: 10.0)
    row = compare("x", first, lambda: None, samples=5, work=Work(operations=50, moved_bytes=15))
    assert row.ours.median_s == 3.0 and row.ours.spread == pytest.approx((4 - 2) / 3)
    assert (row.ratio, row.ratio_lower, row.ratio_upper) == (2.0, 2.0, 3.0)
    assert row.floor_s == 1.5 and row.share_of_floor == 0.5


def test_results_say_where_they_were_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = compare("sum", lambda: sum(range(9)), lambda: 36, tolerance=0, samples=3, sample_s=1e-4, warm_up_s=1e-4)
    path = write_results("demo", [row], harness.machine(), tmp_path)
    value = json.loads(path.read_text(encoding="utf-8"))
    assert value["machine"]["fingerprint"].endswith(f"torch {torch.__version__}")
    assert value["rows"][0]["name"] == "sum" and value["rows"][0]["difference"] == 0.0
    assert value["rows"][0]["ours"]["samples"] == 3
    harness.show([row])
    assert "times as fast" in capsys.readouterr().out


def test_rates_are_finite_and_positive() -> None:
    assert 0 < harness.operations_per_s() < math.inf
    assert 0 < harness.bytes_per_s(1_000_000) < math.inf


@pytest.mark.parametrize(
    ("ours", "reference", "difference"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]), 0.5),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.inf]), 0.0),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, -math.inf]), math.inf),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), 0.0),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]), math.inf),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), math.inf),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), math.inf),
        (torch.zeros(2), torch.zeros(3), math.inf),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.ones(2), torch.zeros(2), math.inf),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (np.array([1.0, 3.0]), np.array([1.0, 2.0]), 0.5),
        ([1, [2.0, torch.ones(2)]], [1, [2.5, torch.ones(2)]], 0.2),
        ({"a": 1.0}, {"a": 2.0}, 0.5),
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ([1, 2], [1, 2, 3], math.inf),
        ([1, 2], [1, 3], math.inf),
        (("x", b"y"), ("x", b"y"), 0.0),
        ("x", "y", math.inf),
        (0.0, 0.0, 0.0),
        (1e-9, 0.0, math.inf),
    ],
)
def test_relative_difference(ours: object, reference: object, difference: float) -> None:
    assert relative_difference(ours, reference) == pytest.approx(difference)


def test_a_pair_that_writes_into_its_arguments_or_differs_is_found() -> None:
    def inputs(seed: int) -> tuple[torch.Tensor]:
        return (torch.randn(5, generator=torch.Generator().manual_seed(seed)),)

    in_place = Pair("demo", lambda x: x + 1, lambda x: x.add_(1), inputs, 0.0)
    assert pairs.validate(in_place) == 0.0
    wrong = Pair("demo", lambda x: x + 1, lambda x: x + 1.001, inputs, 1e-5)
    with pytest.raises(ValidationError, match="demo, seed 11: the fast path differs by"):
        pairs.validate(wrong)


def test_an_unknown_prefix_names_the_pairs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Pair("demo.sum", sum, sum, lambda seed: ([1, seed],), 0.0)
    monkeypatch.setattr(pairs, "all_pairs", lambda: {"demo.sum": entry})
    assert pairs.main(["nothing"]) == 2
    assert "no pair begins with 'nothing': the pairs are demo.sum" in capsys.readouterr().err


def test_timing_a_pair_prints_a_line_and_one_that_differs_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Pair("demo.sum", sum, sum, lambda seed: ([1, seed],), 0.0)
    bad = Pair("demo.max", max, min, lambda seed: ([1, seed],), 0.0)
    monkeypatch.setattr(pairs, "all_pairs", lambda: {"demo.sum": good, "demo.max": bad})
    assert pairs.main(["demo", "--samples", "1"]) == 1
    captured = capsys.readouterr()
    assert "1/2 demo.sum" in captured.out and "times as fast" in captured.out
    assert "demo.max, seed 11" in captured.err


def test_spread_is_the_middle_half_over_the_median() -> None:
    assert Timing(2.0, 1.0, 2.0, 5, 1).spread == 0.5
