"""The page of a comparison: in a real browser, and with hostile names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundup.recipes.report.comparison import write_comparison

HOSTILE = "<script>alert(1)</script>\x07\u202e &amp; " + "x" * 90


def example(name: str = "muon", *, seeds: int = 3) -> dict[str, Any]:
    """What `comparison.json` holds, with numbers of nobody."""
    cost = {
        "parameters": 1_700_000, "non_embedding_parameters": 1_300_000, "flops_per_token": 1.2e7, "steps": 350,
        "tokens": 716_800, "flops": 8.6e12, "seconds": 61.2, "seconds_of_seeds": [61.0] * seeds,
        "tokens_per_s": 11_700.0, "memory_bytes": 91e6, "skipped_updates": 0,
    }  # fmt: skip
    runs = [
        {"seed": seed, "a": 2.31 + 0.01 * seed, "b": 2.29 + 0.01 * seed, "difference": -0.02} for seed in range(seeds)
    ]
    points = [{"tokens": 90_000 * i, "seconds": 8.0 * i, "bits_per_byte": 3.2 - 0.1 * i} for i in range(1, 9)]
    curves = [{"seed": seed, "points": points} for seed in range(seeds)]
    return {
        "names": {"a": "adamw", "b": name},
        "files": {"a": "adamw.toml", "b": f"{name}.toml"},
        "match": "time",
        "verdict": f"{name} is lower than adamw by 0.0200 bits per byte (95 % interval 0.0110 to 0.0290).",
        "difference": {
            "unit": "bits per byte", "value": -0.02, "low": -0.029, "high": -0.011, "confidence": 0.95,
            "over": "seeds and texts" if seeds > 1 else "texts", "degrees_of_freedom": 7.1, "told": True,
        },
        "seeds": runs,
        "test": {"groups": 31, "bytes": 170_000, "of_bytes": 170_000},
        "differs": [{"name": "train.optimizer", "a": "adamw", "b": name, "why": "the files"}],
        "same": ["the tokenizer", name],
        "costs": {"a": cost, "b": {**cost, "memory_bytes": None, "skipped_updates": 2}},
        "budget": {"tokens": 0.0, "flops": 0.0, "time": 0.083, "parameters": 0.0, "is_equal": False},
        "curves": {"a": curves, "b": curves},
        "command": f"groundup compare adamw.toml '{name}.toml'",
        "settings": {"a": {}, "b": {"train": {"optimizer": name}}},
        "machine": "a machine", "versions": {"groundup": "0"},
    }  # fmt: skip


def test_the_page_says_the_verdict_the_costs_and_that_the_budgets_are_unequal(tmp_path: Path) -> None:
    page = write_comparison(tmp_path / "page.html", example()).read_text(encoding="utf-8")
    assert "muon is lower than adamw by 0.0200" in page and "used 8% more time than adamw" in page
    assert "updates skipped" in page and 'class="unclear"' not in page
    assert write_comparison(tmp_path / "again.html", example()).read_text(encoding="utf-8") == page


def test_one_seed_and_no_interval_have_a_page_too(tmp_path: Path) -> None:
    found = example(seeds=1)
    found["difference"] |= {"low": None, "high": None, "over": "nothing", "told": False, "value": 0.0}
    found["curves"] = {"a": [{"seed": 0, "points": []}], "b": [{"seed": 0, "points": []}]}
    found["differs"] = []
    page = write_comparison(tmp_path / "page.html", found).read_text(encoding="utf-8")
    assert "no interval" in page and "Nothing differs" in page and 'class="unclear"' in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = write_comparison(tmp_path / "page.html", example(HOSTILE)).read_text(encoding="utf-8")
    assert "<script" not in page and "\x07" not in page and "\u202e" not in page and "&lt;script&gt;" in page


@pytest.mark.browser
@pytest.mark.parametrize("name", ["muon", HOSTILE])
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_in_a_browser(chromium: str, tmp_path: Path, width: int, scheme: str, name: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = write_comparison(tmp_path / "page.html", example(name))
    heard: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        view.on("console", lambda message: heard.append(message.text))
        view.on("dialog", lambda dialog: heard.append(dialog.message))
        view.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        view.goto(path.as_uri())
        assert heard == []
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.locator("svg").count() == 3 and view.locator("h1").inner_text().startswith("adamw against")
        browser.close()
