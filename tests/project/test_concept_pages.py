"""The concept pages: examples print what they say; those of the lessons are whole, and their pictures are what is drawn."""

from __future__ import annotations

import doctest
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from groundup.recipes.first.catalog import LESSONS
from tools import draw_concepts
from tools.draw_concepts import PICTURES, Picture, difference, standalone

ROOT = Path(__file__).resolve().parents[2]
CONCEPTS = ROOT / "docs" / "concepts"
PAGES = sorted({lesson.concept for lesson in LESSONS})
#: Every page with examples, those of no lesson too.
EXAMPLES = sorted(path.name for path in CONCEPTS.glob("*.md") if ">>>" in path.read_text(encoding="utf-8"))
MAX_LINES = 120
MAX_BYTES = 60_000

# ------------------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_print_what_the_page_says(name: str) -> None:
    result = doctest.testfile(str(CONCEPTS / name), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_formula_pitfalls_its_code_and_papers(name: str) -> None:
    text = (CONCEPTS / name).read_text(encoding="utf-8")
    assert name in EXAMPLES
    assert re.search(r"\$[^$]+\$", text) and "\n## Pitfalls\n" in text
    assert "\nPapers: " in text or "\nSources: " in text
    assert len(text.splitlines()) <= MAX_LINES
    code = {file for lesson in LESSONS if lesson.concept == name for file in lesson.code}
    assert any(file in text for file in code), f"{name} names none of {', '.join(sorted(code))}"


# --------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.file)
def test_a_picture_is_what_is_drawn(picture: Picture) -> None:
    if picture.needs is not None and not picture.needs.exists():
        pytest.skip(f"{picture.needs} is not there")
    assert draw_concepts.check(picture) == ""


def test_every_picture_is_shown_with_words_for_who_cannot_see_it() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in CONCEPTS.glob("*.md"))
    assert len({picture.file for picture in PICTURES}) == len(PICTURES)
    for picture in PICTURES:
        before, found, _ = pages.partition(f"]({picture.file})")
        words = before.rpartition("![")[2]
        assert found and len(words) >= 20 and "\n" not in words, picture.file


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.file)
def test_a_picture_stands_alone_on_white(picture: Picture) -> None:
    text = (CONCEPTS / picture.file).read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.attrib["width"] and root.attrib["height"]
    assert "var(" not in text and "#a1000" not in text and "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    ground = next(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert ground.attrib["fill"] in ("white", "#ffffff")
    assert (CONCEPTS / picture.file).stat().st_size <= MAX_BYTES


ELEMENT = (
    '<svg viewBox="0 0 200 100" role="img" aria-label="a &amp; b"><defs><path id="x-p1f" d="M 1.23456 2.5"/></defs>'
    '<g clip-path="url(#x-p1f)"><use href="#x-p1f" style="fill: var(--chat); stroke: #a10001"/><text>n 1.2345</text></g></svg>'
)


def test_a_drawing_of_its_own_has_colours_counted_ids_and_rounded_places() -> None:
    text = standalone(ELEMENT)
    assert "#1f66c1" in text and "#1d2129" in text
    assert 'id="i0"' in text and "url(#i0)" in text and 'href="#i0"' in text and "x-p1f" not in text
    assert "M 1.23 2.5" in text and "n 1.2345" in text, "places are rounded, texts are not"
    assert "<title>a &amp; b</title>" in text and 'viewBox="0 0 200 100"' in text
    assert difference(text, text) == ""


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("M 1.23 2.5", "M 1.24 2.5", ""),
        ("M 1.23 2.5", "M 9.23 2.5", "element 4 <path>, d: M 1.23 2.5 became M 9.23 2.5"),
        ("M 1.23 2.5", "M 1.23 2.5 3", "<path>, d"),
        ("#1f66c1", "#1f66c2", "<use>, style"),
        ("n 1.2345", "n 1.2346", "'n 1.2345' became 'n 1.2346'"),
        ('href="#i0" ', "", "<use> became <use> with style"),
        ("<text>n 1.2345</text>", "", "elements became"),
        ("<use ", "<path ", "<use> became <path>"),
    ],
)
def test_a_difference_is_seen_and_named(before: str, after: str, found: str) -> None:
    text = standalone(ELEMENT)
    assert text.count(before) == 1
    result = difference(text, text.replace(before, after))
    assert (found in result) if found else result == ""


def test_the_tool_draws_checks_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawings = {"one.svg": ELEMENT}
    pictures = (
        Picture("one.svg", lambda: drawings["one.svg"]),
        Picture("two.svg", lambda: ELEMENT, needs=tmp_path / "no such file"),
    )
    monkeypatch.setattr(draw_concepts, "PICTURES", pictures)
    monkeypatch.setattr(draw_concepts, "CONCEPTS", tmp_path)
    assert draw_concepts.main(["--check"]) == 1
    assert "one.svg is not there: python tools/draw_concepts.py one.svg" in capsys.readouterr().out
    assert draw_concepts.main([]) == 0
    printed = capsys.readouterr().out
    assert "one.svg: 0." in printed and "two.svg: left out, since" in printed and not (tmp_path / "two.svg").exists()
    assert draw_concepts.main(["--check", "one"]) == 0
    drawings["one.svg"] = ELEMENT.replace("2.5", "77")
    assert draw_concepts.main(["--check", "one"]) == 1
    assert "d: M 1.23 2.5 became M 1.23 77: look at it" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        draw_concepts.main(["three"])
