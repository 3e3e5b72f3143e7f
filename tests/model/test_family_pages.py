"""The concept pages of the families: the code they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import families
from groundup.model.hf_families import FAMILIES
from groundup.model.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
CONCEPTS = ROOT / "docs" / "concepts"
PAGES = ["families", "grouped-queries", "rotary-scaling", "windows"]


@pytest.mark.parametrize("name", PAGES)
def test_the_code_that_a_page_names_exists(name: str) -> None:
    page = (CONCEPTS / f"{name}.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:model|tests|benchmarks)/[\w/]+\.py)`", page))
    assert files
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / "src/groundup" / file).is_file(), file
    named = re.findall(r"((?:`[\w.]+`(?:, (?:and )?)?)+)\s+in\s+`(model/[\w/]+\.py)`", page)
    for symbols, file in named:
        source = (ROOT / "src/groundup" / file).read_text(encoding="utf-8")
        for symbol in re.findall(r"`([\w.]+)`", symbols):
            assert re.search(rf"\b{symbol.rpartition('.')[2]}\b", source), f"{symbol} in {file}"
    for test in re.findall(r"`(test_\w+)`", page):
        assert any(f"def {test}(" in path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


def test_every_family_and_every_case_is_on_the_page() -> None:
    page = (CONCEPTS / "families.md").read_text(encoding="utf-8")
    assert all(f"| `{preset}` |" in page for preset in PRESETS)
    table = page.split("$ python -m benchmarks.families\n")[1].split("```")[0]
    assert [line.split()[0] for line in table.splitlines()[2:]] == list(families.CASES)
    assert {values["model_type"] for values in families.CASES.values()} == set(FAMILIES)


def words(line: str) -> str:
    return " ".join(line.split())


def test_the_table_shows_a_bound_or_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    equal = families.Parity(1e-6, 0.0, 3e-6, (24, 24), 1e-7, None, 1e-6)
    wrong = families.Parity(1e-6, 0.0, 2e-3, (23, 24), 1e-7, 1e-6, float("inf"))
    assert families.is_equal(equal) and not families.is_equal(wrong)
    lines = families.table({"a": equal, "b": wrong})
    assert words(lines[1]) == "a < 1e-5 < 1e-5 < 1e-5 equal 24/24 tokens < 1e-5 - < 1e-5"
    assert words(lines[2]) == "b < 1e-5 < 1e-5 2.0e-03 DIFFERS 23/24 tokens < 1e-5 < 1e-5 inf"
    assert families.main(["nothing"]) == 2
    assert "no case begins with 'nothing': the cases are gpt2, gpt2-untied-relu" in capsys.readouterr().err


def test_one_case_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    assert families.main(["bert-one"]) == 0
    first, _, row = capsys.readouterr().out.splitlines()
    assert first.startswith("torch ") and ", transformers " in first
    assert words(row) == "bert-one-type < 1e-5 < 1e-5 < 1e-5 - < 1e-5 - < 1e-5"
