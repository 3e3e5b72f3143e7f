"""The tables of the README and of pages of the docs are those of the measured results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tables
from groundup.core.files import write_json

WHERE = {"fingerprint": "A Processor | AVX512 | torch 2.13.0", "threads": 2}


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_pages_show_the_committed_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert tables.with_tables(text) == text, "run python -m benchmarks.tables --write"


def _time_to_loss(folder: Path, seconds: float) -> None:
    own = {"seconds": seconds, "tokens": 150_000, "losses": [[seconds, 150_000, 1.87]]}
    peer = {"seconds": None, "tokens": 1_500_000, "losses": [[80.0, 1_500_000, 1.904]]}
    result = {"date": "2026-11-26 01:02:03Z", "machine": WHERE, "target": 1.88, "equal_loss": 1.904}
    result |= {"ratio": 80 / seconds, "runs": {"ours": [own] * 3, "peer": [peer] * 3}}
    write_json(folder / "time_to_loss.json", result)


def test_a_table_follows_its_results_and_leaves_the_rest(tmp_path: Path) -> None:
    page = "before\n<!-- table: time_to_loss -->\nold\n<!-- end -->\nafter\n"
    _time_to_loss(tmp_path, 8.0)
    first = tables.with_tables(page, tmp_path)
    assert first.startswith(
        "before\n<!-- table: time_to_loss -->\n\n2026-11-26, A Processor, AVX512, torch 2.13.0, 2 threads:"
    )
    assert first.endswith("\n<!-- end -->\nafter\n") and "old" not in first
    assert (
        "| 8.0 s, 150k tokens |" in first
        and "not reached in its 80 s" in first
        and "to 1.90, which both reach, 10.0 times as long" in first
    )
    assert tables.with_tables(first, tmp_path) == first
    _time_to_loss(tmp_path, 4.0)
    assert "20.0 times as long" in tables.with_tables(first, tmp_path)


def test_a_table_that_nothing_makes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(KeyError):
        tables.with_tables("<!-- table: other -->\n<!-- end -->\n", tmp_path)


def test_the_command_says_what_differs_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: time_to_loss -->\n<!-- end -->\n")
    _time_to_loss(tmp_path, 8.0)
    monkeypatch.setattr(tables, "PAGES", (readme,))
    own = tables.with_tables
    monkeypatch.setattr(tables, "with_tables", lambda text: own(text, tmp_path))
    assert tables.main([]) == 1 and "--write" in capsys.readouterr().err
    assert tables.main(["--write"]) == 0
    assert tables.main([]) == 0
