"""The documentation: links, anchors, symbols and files exist; navigation, decisions and the log have their form."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
ids = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(src|tests|benchmarks|tools|docs|groundup)/[\w./-]+\.(py|md|json)")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown builds them."""
    titles = re.findall(r"^#+ +(.+?)\s*$", prose(page), re.MULTILINE)
    slugs = [
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()) for title in titles
    ]
    return set(slugs)


def resolve(name: str) -> Any:
    """The module, class, function or attribute that a dotted name stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            fields = getattr(found, "model_fields", {}) | getattr(found, "__dataclass_fields__", {})
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_relative_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: {file} does not exist")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{target}: no heading #{anchor} in {file.name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_symbols_and_files_in_backticks_exist(page: Path) -> None:
    wrong = []
    for code in _CODE.findall(prose(page)):
        if re.fullmatch(r"groundup(\.\w+)+(\(\))?", code):
            try:
                resolve(code.removesuffix("()"))
            except (ModuleNotFoundError, AttributeError) as error:
                wrong.append(f"`{code}`: {error}")
        elif _PATH.fullmatch(code) and not (ROOT / code).exists() and not (ROOT / "src" / code).exists():
            wrong.append(f"`{code}`: no such file")
    assert not wrong, "\n".join(wrong)


def test_the_resolver_finds_members_and_misses_what_is_not_there() -> None:
    assert resolve("groundup.core.config.Config.replace") is not None
    assert resolve("groundup.core.execution.ExecutionPlan.threads") is not None
    with pytest.raises(AttributeError):
        resolve("groundup.core.config.Config.no_such_thing")


def test_the_link_checker_sees_links_and_anchors() -> None:
    assert _LINK.findall("[a](b.md) and ![c](<d.png>) [e](f.md#g 'title')") == ["b.md", "d.png", "f.md#g"]
    assert "0004-documents" not in anchors(DOCS / "index.md")
    assert "papers" in anchors(DOCS / "concepts" / "generator.md")


def navigation(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for item in (entry.values() if isinstance(entry, dict) else entry) for page in navigation(item)]


def test_the_navigation_holds_every_page_once() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = navigation(config["project"]["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS).as_posix()) for page in DOCS.rglob("*.md"))


def test_every_decision_has_its_four_parts_on_one_page() -> None:
    decisions = sorted((DOCS / "adr").glob("*.md"))
    assert [page.name[:4] for page in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for page in decisions:
        text = page.read_text(encoding="utf-8")
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Context", "Options", "Decision", "Consequences"], page.name
        assert re.match(rf"# {page.name[:4]}: \S", text), f"{page.name}: the title is  # {page.name[:4]}: ..."
        assert len(text.splitlines()) <= 80, page.name


def test_every_experiment_is_reported_in_full() -> None:
    for entry in re.split(r"^## ", prose(DOCS / "experiments.md"), flags=re.MULTILINE)[1:]:
        title = entry.splitlines()[0]
        assert re.match(r"\d{4}-\d{2}-\d{2}: \S", title), f"{title!r}: the title is  ## YYYY-MM-DD: what was tried"
        for field in ("Hypothesis", "Command", "Numbers", "Verdict"):
            assert re.search(rf"^\*\*{field}\.\*\* \S", entry, re.MULTILINE), f"{title!r} lacks  **{field}.** ..."


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="needs the docs extra (make docs)")
    pytest.importorskip("markdown", reason="needs the docs extra (make docs)")
    from tools.mathml import formulas_to_mathml

    page = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p><div class="arithmatex">\\[\\frac{1}{2}\\]</div>'
    converted = formulas_to_mathml(page)
    assert "arithmatex" not in converted and converted.count("<math") == 2
    assert 'display="inline"' in converted and 'display="block"' in converted and "<mfrac>" in converted
