"""The lessons of `groundup first`: each leaves a sound page, the same for the same seed, and refuses what it cannot read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_page import Page as TakenApart
from report_page import assert_sound

from groundup.core.errors import DataError, UsageError
from groundup.foundations.gpt import GPTShape
from groundup.recipes.first.catalog import LESSONS, Lesson, find_lesson
from groundup.recipes.first.levels import TINY
from groundup.recipes.first.material import Material, Pace
from groundup.recipes.first.page import Page
from groundup.recipes.first.run import command_of, run_lesson, show_of
from groundup.recipes.report.tables import Table

ROOT = Path(__file__).resolve().parents[2]
#: A glance: a few updates of each training.
GLANCE = Pace(effort=0.002, seed=1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small source of each kind that a lesson learns from."""
    folder = tmp_path_factory.mktemp("sources")
    random = np.random.default_rng(0)
    syllables = ["ba", "mi", "ro", "lan", "te", "su", "kir", "o", "ne", "vad"]
    words = dict.fromkeys("".join(random.choice(syllables, random.integers(2, 4))) for _ in range(400))
    (folder / "words.txt").write_text("\n".join(words), encoding="utf-8")
    texts = (ROOT / "docs" / "concepts").glob("[a-e]*.md")
    (folder / "texts.txt").write_text("\n\n".join(path.read_text(encoding="utf-8") for path in sorted(texts)))
    lines = [f"{'odd' if n % 2 else 'even'}\tnumber {n} {'one' if n % 2 else 'two'} <b>&</b>" for n in range(160)]
    (folder / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    return {kind: str(folder / f"{kind}.txt") for kind in ("words", "texts", "labels")}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_leaves_a_sound_page_with_numbers_and_plots(
    lesson: Lesson, sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.recipes.first.levels.SMALL", GPTShape(**{**vars(TINY), "num_layers": 2}))
    source = sources.get(lesson.learns_from)
    path = run_lesson(lesson.name, source, pace=GLANCE, out=tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    page = TakenApart(html)
    assert_sound(page)
    assert lesson.summary in page.text and "nan" not in re.findall(r"\w+", page.text.lower())
    assert page.count("svg") >= 1 and page.count("section") >= 1 and page.count("dt") >= 1
    assert command_of(lesson, source, GLANCE) in page.text


@pytest.mark.parametrize("name", ["optimizers", "spam"])
def test_the_same_seed_gives_the_same_page(name: str, tmp_path: Path) -> None:
    pages = [
        run_lesson(name, None, pace=Pace(0.01, seed), out=tmp_path / f"{n}.html").read_text()
        for n, seed in enumerate((3, 3, 4))
    ]
    assert pages[0] == pages[1] != pages[2]


def test_the_catalogue_names_what_is_there() -> None:
    assert len({lesson.name for lesson in LESSONS}) == len(LESSONS)
    for lesson in LESSONS:
        assert callable(show_of(lesson))
        for file in lesson.code:
            assert (ROOT / "src" / "groundup" / file).exists(), file
        assert (ROOT / "docs" / "concepts" / lesson.concept).is_file(), lesson.concept
        assert lesson.learns_from in ("nothing", "words", "texts", "labels")


def test_what_cannot_be_run_is_refused_with_advice(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"no lesson 'autogard' \(did you mean 'autograd'\?\): groundup first  lists"):
        find_lesson("autogard")
    with pytest.raises(UsageError, match=r"autograd makes its own data and reads no source: leave 'x\.txt' away"):
        run_lesson("autograd", "x.txt", pace=GLANCE)
    with pytest.raises(UsageError, match=r"--out .* is a folder: name a file, such as .*autograd\.html"):
        run_lesson("autograd", None, pace=GLANCE, out=tmp_path)
    with pytest.raises(DataError, match="neither a file, a folder nor a named source"):
        run_lesson("kmeans", "nowhere", pace=GLANCE, out=tmp_path / "x.html")
    with pytest.raises(DataError, match=r"line 1 of those that hold text, is no label, tab and text: 'bami"):
        (tmp_path / "w.txt").write_text("bami\n" * 200)
        run_lesson("spam", str(tmp_path / "w.txt"), pace=GLANCE, out=tmp_path / "x.html")
    (tmp_path / "one.txt").write_text("a\ttext\n" * 200)
    with pytest.raises(DataError, match="200 messages of 1 labels: at least 100 of 2 to 50"):
        run_lesson("spam", str(tmp_path / "one.txt"), pace=GLANCE, out=tmp_path / "x.html")
    (tmp_path / "few.txt").write_text("anna\nbob\n")
    with pytest.raises(DataError, match="holds 2 different words, too few to learn from: at least 100"):
        run_lesson("kmeans", str(tmp_path / "few.txt"), pace=GLANCE, out=tmp_path / "x.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        run_lesson("spam", None, pace=GLANCE, out=tmp_path / "file" / "x.html")
    for effort in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(UsageError, match="is not above 0 and at most 1000"):
            Pace(effort)
    with pytest.raises(UsageError, match="--seed -1 is negative"):
        Pace(seed=-1)


def test_words_come_from_a_list_line_by_line_and_from_a_text_when_they_occur_twice(tmp_path: Path) -> None:
    names = [f"{a}{b}" for a in "ABCDEFGHIJKL" for b in ("nna", "lex", "im-o", "é")] * 3
    (tmp_path / "names.txt").write_text("\n".join([*names, "two words"]), encoding="utf-8")
    # 48 names are too few, so others are added.
    (tmp_path / "names.txt").write_text(
        "\n".join([*names, *(f"x{n}" for n in range(80)), "two words"]), encoding="utf-8"
    )
    words = Material(str(tmp_path / "names.txt")).words()
    assert words[:4] == ["anna", "alex", "aim-o", "aé"] and len(words) == 3 * 48 + 80 and "two words" not in words
    stems = [f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "nst"]
    (tmp_path / "text.txt").write_text(" ".join([*stems, *stems, "once"]) + ".\n", encoding="utf-8")
    assert Material(str(tmp_path / "text.txt")).words() == stems


def test_hostile_text_stays_text_on_the_page() -> None:
    page = Page("x", "<script>alert(1)</script>\u202e")
    page.section("</h2><script>")
    page.text("a `<b>` and <i>\x07")
    page.code("<pre>&amp;")
    page.fact("<dt>", "<dd>", "<x>")
    table = Table("<caption>", ("<a>", "#<b>"))
    table.add("<td>", "1")
    page.table(table)
    taken = TakenApart(page.render("groundup first '<x>'", [("<a>", "<b>")]))
    assert_sound(taken)
    assert "<code>&lt;b&gt;</code>" in page.render("x", []) and "\\x07" in taken.text and "\\u202e" in taken.text


def test_nothing_is_put_before_the_first_section() -> None:
    with pytest.raises(ValueError, match="a section must be begun"):
        Page("x", "y").text("lost")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_pages_in_a_browser_load_nothing_complain_of_nothing_and_fit(
    chromium: str, sources: dict[str, str], tmp_path: Path, width: int, scheme: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    paths = [
        run_lesson(name, sources.get(find_lesson(name).learns_from), pace=GLANCE, out=tmp_path / f"{name}.html")
        for name in ("autograd", "spam", "components")
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        heard: list[str] = []
        view.on("console", lambda message: heard.append(message.text))
        view.on("request", lambda request: heard.append(request.url) if not request.url.startswith("file:") else None)
        for path in paths:
            view.goto(path.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") <= width, path
            assert view.evaluate(
                "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 100)"
            )
        assert heard == []
        browser.close()


def test_odd_sources_leave_a_page_or_are_refused_by_name(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    numbers = "\n".join(str(number) for number in random.integers(0, 10**6, 400))
    ideograms = "\n".join("".join(chr(c) for c in random.integers(0x4E00, 0x9FFF, 3)) for _ in range(400))
    few_letters = "\n".join("".join(random.choice(list("abcde"), 5)) for _ in range(400))
    for name, text in (("numbers", numbers), ("ideograms", ideograms), ("few", few_letters)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    for lesson in ("kmeans", "components"):
        for name in ("numbers", "ideograms"):
            with pytest.raises(DataError, match=rf"{name}\.txt make up one in 250 .* at least 3 are needed"):
                show_of(find_lesson(lesson))(Page("", ""), Material(str(tmp_path / f"{name}.txt")), GLANCE)
    # Every word occurs once: no line from frequent to rare, and no error to draw on a logarithmic axis.
    with pytest.raises(DataError, match=r"most frequent words of .*ideograms\.txt occurs 1 times"):
        show_of(find_lesson("linear"))(Page("", ""), Material(str(tmp_path / "ideograms.txt")), GLANCE)
    # Fewer than ten different letters: those that never occur have no surprise to draw.
    path = run_lesson("numbers", str(tmp_path / "few.txt"), pace=GLANCE, out=tmp_path / "page.html")
    assert_sound(TakenApart(path.read_text(encoding="utf-8")))


def test_an_empty_source_and_a_page_in_the_place_of_the_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the source '' is empty: name one, or leave it away"):
        run_lesson("ngrams", "", pace=GLANCE, out=tmp_path / "page.html")
    text = tmp_path / "mine.txt"
    text.write_text("the only copy\n" * 300, encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.txt is the source itself"):
        run_lesson("ngrams", str(text), pace=GLANCE, out=text)
    assert text.read_text(encoding="utf-8").startswith("the only copy")


def test_a_label_that_turns_the_writing_round_does_not_reach_the_page(tmp_path: Path) -> None:
    lines = [("sp\u202eam\tnumber one" if n % 2 else "ham\tnumber two") + f" {n}" for n in range(160)]
    (tmp_path / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    path = run_lesson("spam", str(tmp_path / "labels.txt"), pace=GLANCE, out=tmp_path / "page.html")
    assert "\u202e" not in path.read_text(encoding="utf-8")


def test_a_sentence_of_unknown_words_has_no_cosine(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    text = " ".join(random.choice(["the", "of", "abc", "def", "ghi", "jkl", "mno", "pqr"], 4_000))
    (tmp_path / "few.txt").write_text(text, encoding="utf-8")
    path = run_lesson("words", str(tmp_path / "few.txt"), pace=GLANCE, out=tmp_path / "page.html")
    page = TakenApart(path.read_text(encoding="utf-8")).text
    assert re.search(r"this option is not supported\s+0 of 9\s+none", page)
    assert "a vector of 8 numbers for each word" in page and "met oftener than by chance" in page


def test_nothing_is_said_of_vowels_where_the_letters_have_none(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, letters in (("hebrew", "אבגדהוזחט"), ("latin", "abcdefghi")):
        words = "\n".join("".join(random.choice(list(letters), 4)) for _ in range(300))
        (tmp_path / f"{name}.txt").write_text(words, encoding="utf-8")
        page = Page("", "")
        show_of(find_lesson("kmeans"))(page, Material(str(tmp_path / f"{name}.txt")), GLANCE)
        assert any("vowels" in fact[0] for fact in page.facts) == (name == "latin")
