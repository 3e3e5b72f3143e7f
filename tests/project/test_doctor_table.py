"""A few of the planted faults, and a healthy run, through the recipes; `python -m benchmarks.doctor` has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.doctor import HEALTHY, PLANTED, QUICK, measure

CASES = {case.name: case for case in (*PLANTED, *HEALTHY)}


def test_planted_faults_are_found(tmp_path: Path) -> None:
    rows = measure([CASES[name] for name in QUICK], tmp_path)
    assert [row["case"] for row in rows if not row["is_right"]] == []


@pytest.mark.slow
def test_the_whole_table(tmp_path: Path) -> None:
    rows = measure(list(CASES.values()), tmp_path)
    assert [(row["case"], row["found"]) for row in rows if not row["is_right"]] == []
    assert len(PLANTED) >= 25 and len(HEALTHY) == 10


@pytest.mark.slow
def test_a_planted_fault_that_is_not_planted_is_not_found(tmp_path: Path) -> None:
    """The findings come from the fault: without it the same training has none."""
    import dataclasses

    sound = dataclasses.replace(CASES["silenced units"], spoil_model=None)
    row = measure([sound], tmp_path)[0]
    assert row["found"] == [] and not row["is_right"]
