"""The page in a real browser: nothing is loaded, nothing complains, nothing runs over the edge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from test_report_hostile import HOSTILE, poisoned_run

from groundup.recipes.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Any:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_in_a_browser(browser: Any, tmp_path: Path, width: int, scheme: str, hostile: bool) -> None:
    import itertools

    run = tmp_path / "demo"
    path = write_report(poisoned_run(run, itertools.cycle(HOSTILE)) if hostile else example.write_example(run))
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    heard: list[str] = []
    view.on("console", lambda message: heard.append(message.text))
    view.on("dialog", lambda dialog: heard.append(dialog.message))
    view.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
    view.goto(path.as_uri())
    assert heard == []
    # Wide tables scroll in their own box; the page itself does not.
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    colours = view.evaluate("['body', '.summary'].map(q => getComputedStyle(document.querySelector(q)))"
                            ".map((s, i) => i ? s.color : s.backgroundColor)")  # fmt: skip
    page, ink = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert page < ink if scheme == "dark" else page > ink
    view.close()
