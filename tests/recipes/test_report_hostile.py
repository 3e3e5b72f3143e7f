"""Text from models and users never becomes markup, never breaks the page and never hides what it is."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from hypothesis import given, settings
from hypothesis import strategies as st
from report_page import Page, assert_sound

from groundup.recipes.report import write_report
from groundup.recipes.report.charts import Bar, bar_chart
from groundup.recipes.report.words import (
    clean,
    compact,
    decimal,
    duration,
    kind_words,
    label,
    number,
    percent,
    points,
    scientific,
    shorten,
    size,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></section></body></html><h1>owned</h1>",
    "\"' onmouseover=alert(1) x='",
    "<img src=x onerror=alert(1)>",
    "]]>--></style></svg><script>alert(2)</script>",
    "{{ 7 * 7 }}{% raw %}{# no #}",
    "javascript:alert(1)",
    "&lt;b&gt; &amp; &#x3c;",
    "\x00\x01\x1b[31mred\x1b[0m\x7f\x85\u2028\u2029\r\n\f",
    "\ud800 lone, \udfff too",
    "\u202eright to left\u202c \ufffe \uffff \U0001ffff",
    "日本語 עברית हिन्दी 🏳️‍🌈 Ω≈ç",
    "$\\frac{1}{0}$ $$ \\unknown{ ^_",
    "x" * 50_000,
    "",
    "   ",
    "https://example.com/a?b=c&d",
    "a1000" + "#a10001 fill: #a10001;",
]


def poisoned(value: Any, texts: Iterator[str]) -> Any:
    """Every string of a JSON value becomes the next text."""
    if isinstance(value, dict):
        return {key: poisoned(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, texts) for item in value]
    return next(texts) if isinstance(value, str) else value


def poisoned_run(run: Path, texts: Iterator[str]) -> Path:
    """A run whose every string, and every name that a user or model can choose, is taken from `texts`."""
    example.write_example(run)
    for name in ("plan", "eval/tokenizer", "eval/samples", "base/lineage", "chat/lineage"):
        path = run / f"{name}.json"
        example.put(path, poisoned(json.loads(path.read_text()), texts))
    language, answers = example.language(), example.answers()
    for entry in [*language["methods"], *language["differences"], *answers["differences"]]:
        entry |= {key: next(texts) for key in ("name", "note", "verdict") if key in entry}
    answers["models"][next(texts)] = answers["models"].pop("copy the most likely span")
    answers["models"]["chat"] |= {next(texts): example.share(3, 7) for _ in range(6)}
    answers["groups"][next(texts)] = answers["groups"].pop("recall")
    corpus = example.corpus()
    corpus["licenses"] = {next(texts): 3, next(texts): 4}
    corpus["splits"][next(texts)] = corpus["splits"]["test"]
    stages = example.stages()
    stages[next(texts)] = {"seconds": 1.0, "ended": next(texts)}
    stages["pretrain"]["ended"] = next(texts)
    stage = next(texts)
    rows = [{**row, "stage": stage if row["stage"] == "sft" else row["stage"]} for row in example.metrics()[::40]]
    transcript = []
    for row in example.transcript()[:40]:
        row |= {key: next(texts) for key in ("id", "group", "expected", "base", "chat")}
        row["question"] = [{"role": next(texts), "content": next(texts)}] if row["right"] else next(texts)
        transcript.append({**row, "kind": row["kind"] + next(texts)})
    for name, value in (
        ("eval/language.json", language),
        ("eval/answers.json", answers),
        ("corpus/corpus.json", corpus),
        ("stages.json", stages),
        ("metrics.jsonl", rows),
        ("eval/transcript.jsonl", transcript),
    ):
        example.put(run / name, value)
    return run


@pytest.mark.parametrize("start", range(0, len(HOSTILE), 3))
def test_hostile_text_everywhere(tmp_path: Path, start: int) -> None:
    texts = itertools.cycle(HOSTILE[start:] + HOSTILE[:start])
    html = write_report(poisoned_run(tmp_path / "demo", texts)).read_text(encoding="utf-8")
    page = Page(html)
    assert_sound(page)
    assert (page.count("h1"), page.count("section"), page.count("article")) == (1, 11, 10)
    assert not {"b", "img", "h4"} & {tag for tag, _ in page.elements}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ufffe\uffff]", html)
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text


def test_hostile_names_of_the_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "<b>x; rm -rf 'y' & $(z)"
    page = Page(write_report(example.write_example(run)).read_text(encoding="utf-8"))
    assert_sound(page)
    # What is offered for copying into a shell is one quoted word.
    line = next(line for line in page.texts if line.startswith("groundup chat"))
    done = subprocess.run(["sh", "-c", line.replace("groundup chat", "printf %s")], capture_output=True, check=True)
    assert done.stdout.decode() == f"{tmp_path.name}/<b>x; rm -rf 'y' & $(z)/chat"


def test_long_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    run = example.write_example(tmp_path / "demo")
    rows = example.transcript()
    for row in rows:
        row["chat"] = "word " * 10_000
    example.put(run / "eval" / "transcript.jsonl", rows)
    path = write_report(run)
    assert "… (47,000 more characters)" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 500_000


def test_line_separators_inside_an_answer_do_not_tear_the_file(tmp_path: Path) -> None:
    run = example.write_example(tmp_path / "demo")
    rows = [{**row, "chat": "one\u2028two\x85three\x0cfour"} for row in example.transcript()]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (run / "eval" / "transcript.jsonl").write_text(text, encoding="utf-8", newline="\n")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "chosen by a rule" in page.text and "out of 160" in page.text


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(), max_size=40))
def test_clean_keeps_what_is_harmless_and_is_idempotent(text: str) -> None:
    result = clean(text)
    result.encode("utf-8")
    assert clean(result) == result
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", result)
    if text.isprintable():
        assert result == text


def test_names_that_look_like_our_own_svg_stay_as_they_are() -> None:
    name = ' id="x" url(#y) xlink:href="#z" fill: #a10001'
    chart = bar_chart("x", "title", [(name, [Bar(1.0, None, None, "#a10004", "1")])], "length")
    assert name.strip() in Page(chart).text
    assert "#a1000" not in chart.replace("fill: #a10001", "")


@settings(deadline=None, max_examples=25)
@given(st.text(alphabet=st.characters(), max_size=60))
def test_chart_names_stay_text(text: str) -> None:
    chart = bar_chart("x", text, [(text, [Bar(1.0, 0.5, 1.5, "#a10004", "1")])], "length", [("#a10004", text)])
    page = Page(clean(str(chart)))
    assert page.problems == []
    assert {tag for tag, _ in page.elements} <= {
        "svg",
        "g",
        "path",
        "defs",
        "use",
        "clippath",
        "rect",
        "text",
        "div",
        "span",
        "i",
    }


# --------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (decimal(-0.0004), "0.000"),
        (decimal(-1.5, 1), "−1.5"),
        (decimal(float("nan")), "–"),
        (decimal(True), "–"),
        (decimal(10**400), "–"),
        (compact(999_499), "999,499"),
        (compact(999_600), "1.00 million"),
        (compact(4_198_656), "4.20 million"),
        (compact(1.2e13), "12.0 trillion"),
        (size(0), "0 bytes"),
        (size(1), "1 byte"),
        (size(999), "999 bytes"),
        (size(2_128_000), "2.13 MB"),
        (size(1_900_000_000), "1.90 GB"),
        (duration(0.04), "0.0 s"),
        (duration(9.96), "10 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(372), "6 min 12 s"),
        (duration(3599.8), "1 h 0 min"),
        (duration(7500), "2 h 5 min"),
        (scientific(1.16e14), "1.2 × 10¹⁴"),
        (scientific(-2e-7), "−2.0 × 10⁻⁷"),
        (scientific(0), "0"),
        (percent(0.705), "70%"),
        (points(0.4639), "+46 points"),
        (points(-0.012), "−1.2 points"),
        (points(0), "0.0 points"),
        (shorten("abcdef", 4), "abcd … (2 more characters)"),
        (label("a\n b\x1b" + "c" * 60, 10), "a b\\x1bcc…"),
        (kind_words("reading.default"), "default value of a parameter"),
        (kind_words("recall.some_new_kind"), "recall: some new kind"),
        (kind_words("other"), "other"),
        (clean("a\x1bb\ud800\u202e\n\t"), "a\\x1bb\\ud800\\u202e\n\t"),
    ],
)
def test_words(given: str, wanted: str) -> None:
    assert given == wanted


@pytest.mark.parametrize("value", [None, "1", [], {}, True, float("inf"), float("nan"), 10**400])
def test_number_takes_only_finite_numbers(value: Any) -> None:
    assert number(value) is None
