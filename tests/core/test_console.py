"""Progress: where it goes, and that short tasks show none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from groundup.core import console


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, soft_wrap=True, width=200))
    return text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_short_task_shows_no_progress(errors: io.StringIO, clock: list[float]) -> None:
    with console.progress_if_slow("load x", "tensors") as report:
        for done in range(10):
            report(done, 10)
            clock[0] += 0.09
    assert errors.getvalue() == ""


def test_a_long_one_counts_what_was_done_before_it_was_shown(errors: io.StringIO, clock: list[float]) -> None:
    with console.progress_if_slow("load x", "tensors") as report:
        for done in range(11):
            report(done, 10)
            clock[0] += 2
    lines = errors.getvalue().splitlines()
    assert lines[0] == "load x: 4/10 tensors, 0.5/s, 12 s left"
    assert lines[-1] == "load x: 10 tensors in 20 s"


def test_what_is_slow_only_at_its_end_shows_nothing(errors: io.StringIO, clock: list[float]) -> None:
    with console.progress_if_slow("load x", "tensors") as report:
        report(0, 2)
        clock[0] += 5
        report(2, 2)
    assert errors.getvalue() == ""
