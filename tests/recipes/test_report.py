"""The report of a run: complete, honest, self-contained, the same for the same files, and safe with any text."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from markupsafe import Markup
from report_page import Page, assert_sound, page_of

from groundup.core.errors import DataError
from groundup.recipes.report import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(example.write_example(tmp_path_factory.mktemp("runs") / "demo"))


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words: drawing takes nine tenths of the time of a page."""
    monkeypatch.setattr("groundup.recipes.report.charts.render", lambda *_: Markup("<svg></svg>"))


def changed(tmp_path: Path, run: Path, name: str, value: Any) -> Path:
    """A copy of the run with one file replaced; None removes it."""
    copy = tmp_path / "demo"
    shutil.copytree(run, copy)
    if value is None:
        (copy / name).unlink()
    else:
        example.put(copy / name, value)
    return copy


# ------------------------------------------------------------------------------------------------ whole run


def test_the_page_is_sound(page: Page) -> None:
    assert_sound(page)
    assert page.count("svg") == 1 + 2 + 4 + 4
    assert page.count("h1") == 1


def test_nothing_comes_from_elsewhere(html: str) -> None:
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", html, re.IGNORECASE)
    assert not re.search(r"url\(\s*[\"']?(?!#)", html)
    assert "@import" not in html
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in html


def test_the_table_of_contents_names_every_section(page: Page) -> None:
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in sections]


def test_the_summary_says_the_numbers(page: Page) -> None:
    assert (
        "A language model of 4.20 million parameters, trained on 1.87 MB of text (python-docs) in 6 min 32 s on 2 CPU "
        "threads. It needs 1.73 bits for each byte of text it never saw, 0.28 fewer than the best baseline (xz primed "
        "with the training text). After tuning it answers 71% of the reading questions (before tuning 2%; copy the "
        "most likely span 25%) and 42% of the recall questions (before tuning 2%) right."
    ) in page.text


FINDING = {
    "rule": "loss-spikes", "severity": "serious", "evidence": "4 updates stand far above", "fix": "lower learning_rate",
    "first_step": 1200, "last_step": 1800,
}  # fmt: skip


def test_findings_stand_beside_the_curves(tmp_path: Path, run: Path, no_charts: None) -> None:
    """The page says what the rules found while it ran, that they found nothing, or nothing where nobody watched."""
    place = {"stage": "pretrain", "step": 900}
    warning = {**FINDING, "rule": "overfit", "severity": "warning", "first_step": None, "last_step": None}
    hostile = [{"rule": 3}, {**FINDING, "first_step": "<b>"}, {**FINDING, "evidence": ["x"]}, {"x": 1}]
    records = [*example.metrics(), {"stage": "sft", "step": 1, "facts": {"vocab_size": 5}}]
    records += [{**place, "finding": finding} for finding in (*hostile, warning, FINDING)]
    text = page_of(changed(tmp_path, run, "metrics.jsonl", records)).text
    assert "2 findings while it ran." in text and "<b>" not in text
    rows = [
        "loss-spikes (serious) 1,200 to 1,800 4 updates stand far above lower learning_rate",
        "overfit (warning) 4 updates",
    ]
    assert text.index(rows[0]) < text.index(rows[1])
    assert text.count("No rule of groundup doctor found anything wrong") == 1


def test_tiles_carry_the_difference(page: Page) -> None:
    assert "95% interval 68–75%; chat against the span baseline: +46 points" in page.text
    assert "best baseline: 2.01 (xz primed with the training text)" in page.text
    assert "predicted 6 min 11 s" in page.text


def test_plan_against_actual(page: Page) -> None:
    for row in (
        "corpus 4.0 s 3.8 s 0.95",
        "pretrain 4 min 0 s 4 min 12 s 1.05",
        "report 3.0 s this page –",
        "total 6 min 8 s 6 min 32 s 1.07",
        "peak memory 1.90 GB 1.74 GB 0.92",
    ):
        assert row in page.text, row


def test_bits_per_byte_table_is_sorted_and_marks_exact_numbers(page: Page) -> None:
    rows = [
        "groundup base 1.731 1.691–1.772 22%",
        "xz primed with the training text 2.012 – 25% whole text in one piece",
        "trigram of tokens 2.123 2.070–2.180 27%",
        "uniform over bytes 8.000 – 100%",
    ]
    places = [page.text.index(row) for row in rows]
    assert places == sorted(places)
    assert "measured on 171,877 bytes, 401 documents and 22 groups that no method was trained on" in page.text


def test_verdicts_do_not_repeat_their_numbers(page: Page) -> None:
    assert (
        "trigram of tokens : +0.392 bits per byte (95% interval +0.340 to +0.440), in favour of the model. The "
        "difference is more than chance." in page.text
    )
    assert (
        "what a function does: chat against base : +2.5 points (95% interval −2 to +7). The difference cannot be told "
        "from chance." in page.text
    )


def test_kinds_are_in_plain_words_with_intervals(page: Page) -> None:
    assert "parameter after a given one 200 2% (0–3%) 74% (68–80%) 26% (20–32%)" in page.text
    assert "refusing a name that does not exist 200 0% (0–1%) 90% (86–94%) –" in page.text
    assert "the intervals overlap for “what a function does”" in page.text


def test_training_text(page: Page) -> None:
    assert "900 updates, 3.69 million tokens, 4 min 3 s of training." in page.text
    assert "1 update was skipped: the gradient was not finite." in page.text
    assert "after update 308" in page.text


def test_how_to_talk_and_repeat(page: Page, run: Path) -> None:
    place = f"{run.parent.name}/demo"
    assert f"groundup chat {place}/chat" in page.text
    assert "groundup speedrun python-docs --name demo --depth 4 --seed 7 --sft.learning-rate 0.0006" in page.text
    assert "groundup speedrun --config settings.json --name demo-again" in page.text
    assert "torch 2.13.0+cpu" in page.text
    assert '"learning_rate": 0.003' in page.text
    # A page that is handed on does not tell where its author keeps things.
    assert str(run.parent) not in page.text


def test_settings_to_repeat_hold_what_the_probe_chose(html: str) -> None:
    shown = re.search(r"<summary>All settings of the run</summary>\s*<pre>(.*?)</pre>", html, re.DOTALL)
    assert shown is not None
    values = json.loads(shown.group(1).replace("&#34;", '"'))
    asked = example.plan()["settings"]
    assert values.pop("execution") == {
        "device": "cpu", "precision": "bfloat16", "threads": 2, "micro_batch": 8, "compile": False,
    }  # fmt: skip
    assert values == {key: value for key, value in asked.items() if key != "execution"}


def test_what_ran_otherwise_than_planned_is_said(page: Page, run: Path, tmp_path: Path) -> None:
    assert "execution: precision bfloat16 in pretraining, float32 in tuning" in page.text
    plan = example.plan()
    plan["execution"] |= {"precision": "float64", "threads": 3}
    text = page_of(changed(tmp_path, run, "plan.json", plan)).text
    assert "execution: precision bfloat16 in pretraining, float32 in tuning (planned: float64)" in text
    assert "execution: threads 2 (planned: 3)" in text


def test_numbers_are_right_aligned(html: str) -> None:
    assert '<td class="num short">1.731</td>' in html
    assert '<th scope="col" class="num">bits per byte</th>' in html


def test_same_files_same_bytes(run: Path, html: str, tmp_path: Path) -> None:
    assert write_report(run).read_text(encoding="utf-8") == html
    copy = tmp_path / run.parent.name / "demo"
    shutil.copytree(run, copy)
    assert write_report(copy).read_text(encoding="utf-8") == html


def test_a_users_matplotlib_settings_change_nothing(run: Path, html: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "text.usetex": True}):
        assert write_report(run).read_text(encoding="utf-8") == html
        assert matplotlib.rcParams["font.size"] == 30


def test_no_global_figure_is_left(run: Path) -> None:
    write_report(run)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


# ------------------------------------------------------------------------------------- ten unedited answers


def test_five_right_and_five_wrong_spread_over_the_kinds(html: str) -> None:
    for style in ("good", "bad"):
        kinds = re.findall(rf'<article class="answer {style}">\s*<p class="kind">([^·<]*)', html)
        assert len(kinds) == 5 and len(set(kinds)) == 5


@pytest.mark.usefixtures("no_charts")
def test_the_choice_is_the_rule_on_the_page(run: Path, tmp_path: Path) -> None:
    """Recomputed here from the sentence on the page, with questions in another order."""
    from groundup.recipes.report.folder import read_run
    from groundup.recipes.report.results import chosen_answers

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    rows = example.transcript()
    for row in rows:
        row["expected"] = row["id"]
    copy = changed(tmp_path, run, "eval/transcript.jsonl", rows[::-1])
    kinds = sorted({row["kind"] for row in rows}, key=digest)
    for right in (True, False):
        firsts = []
        for kind in kinds:
            ids = [row["id"] for row in rows if row["kind"] == kind and row["right"] is right]
            firsts += sorted(ids, key=digest)[:1]
        assert [answer["expected"] for answer in chosen_answers(read_run(copy), right=right)] == firsts[:5]


@pytest.mark.usefixtures("no_charts")
def test_few_answers_are_said_to_be_few(run: Path, tmp_path: Path) -> None:
    rows = [row for row in example.transcript() if row["right"]][:2]
    page = page_of(changed(tmp_path, run, "eval/transcript.jsonl", rows))
    assert "There are no more right answers." in page.text
    assert "There is no wrong answer." in page.text


# ---------------------------------------------------------------------------------------------- honesty


@pytest.mark.usefixtures("no_charts")
def test_what_cannot_be_told_is_said_wherever_the_number_stands(run: Path, tmp_path: Path) -> None:
    answers = example.answers()
    answers["differences"][0].update(difference=0.01, low=-0.03, high=0.05, verdict="")
    language = example.language()
    language["differences"][1].update(difference=0.02, low=-0.01, high=0.05, verdict="")
    copy = changed(tmp_path, run, "eval/answers.json", answers)
    example.put(copy / "eval" / "language.json", language)
    text = page_of(copy).text
    assert "(xz primed with the training text); that difference cannot be told from chance." in text  # summary
    assert "best baseline: 2.01 (xz primed with the training text); the difference cannot be told from chance" in text
    assert "chat against the span baseline: +1.0 points, cannot be told from chance" in text  # tile
    assert "The difference “reading: chat against the span baseline” cannot be told from chance." in text
    assert "+0.020 bits per byte (95% interval −0.010 to +0.050). The difference cannot be told from chance." in text


@pytest.mark.parametrize("low", [None, float("-inf"), float("nan"), "0.1"])
@pytest.mark.usefixtures("no_charts")
def test_a_difference_without_a_usable_interval_is_not_claimed(run: Path, tmp_path: Path, low: Any) -> None:
    language = example.language()
    language["differences"][0].update(low=low, verdict=None)
    text = page_of(changed(tmp_path, run, "eval/language.json", language)).text
    assert "+0.392 bits per byte (no interval). The difference cannot be told from chance." in text


@pytest.mark.usefixtures("no_charts")
def test_a_model_that_loses_is_said_to_lose(run: Path, tmp_path: Path) -> None:
    language = example.language()
    language["methods"][0]["bits_per_byte"] = 2.5
    language["differences"] = [{"name": "trigram of tokens", "difference": -0.38, "low": -0.4, "high": -0.3}]
    text = page_of(changed(tmp_path, run, "eval/language.json", language)).text
    assert "It needs 2.50 bits for each byte of text it never saw, 0.49 more than the best baseline" in text
    assert "how far chance goes there was not measured" in text
    assert "−0.380 bits per byte (95% interval −0.400 to −0.300), in favour of the baseline." in text


# ------------------------------------------------------------------------------------- missing and damaged


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("plan.json", "The plan was not run: plan.json is not in the folder"),
        ("stages.json", "The ledger of stages was not run"),
        ("corpus/corpus.json", "The corpus was not run: corpus/corpus.json is not in the folder of this run (groundup"),
        ("metrics.jsonl", "Training was not run: metrics.jsonl is not in the folder of this run (groundup pretrain"),
        ("eval/tokenizer.json", "The measurement of the tokenizer was not run"),
        ("eval/language.json", "The measurement of bits per byte was not run"),
        ("eval/answers.json", "The test of answers was not run: eval/answers.json"),
        ("eval/transcript.jsonl", "The test of answers was not run: eval/transcript.jsonl"),
        ("eval/samples.json", "Sampling was not run"),
        ("base/lineage.json", ""),
    ],
)
@pytest.mark.usefixtures("no_charts")
def test_a_missing_file_is_said_in_its_section(run: Path, tmp_path: Path, name: str, sentence: str) -> None:
    page = page_of(changed(tmp_path, run, name, None))
    assert_sound(page)
    assert sentence in page.text


@pytest.mark.usefixtures("no_charts")
def test_a_run_with_a_plan_alone(tmp_path: Path) -> None:
    example.put(tmp_path / "small" / "plan.json", {"parameters": 10})
    page = page_of(tmp_path / "small")
    assert_sound(page)
    assert "A language model of 10 parameters." in page.text
    assert page.text.count("was not run") == 9


def test_empty_objects_everywhere(tmp_path: Path, run: Path) -> None:
    for path in sorted(run.rglob("*.json*")):
        example.put(tmp_path / "empty" / path.relative_to(run), [] if "l" in path.suffix[5:] else {})
    page = page_of(tmp_path / "empty")
    assert_sound(page)
    assert "A language model." in page.text


@pytest.mark.parametrize(
    "junk", [None, 3, "text", [1, "a", None], {"a": {"b": [None]}}, True, [[]], 1e400, -0.0, 1e308, -1e308, 5e-324]
)
def test_values_of_the_wrong_type_do_no_harm(run: Path, tmp_path: Path, junk: Any) -> None:
    """Every value of every file in turn becomes something else, three levels deep."""

    def spoil(value: Any, depth: int) -> Any:
        if depth == 0:
            return junk
        if isinstance(value, dict):
            return {key: spoil(item, depth - 1) for key, item in value.items()}
        return [spoil(item, depth - 1) for item in value] if isinstance(value, list) else junk

    for depth in (1, 2, 3):
        copy = tmp_path / f"spoilt{depth}"
        for path in sorted(run.rglob("*.json*")):
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in path.read_text().splitlines()][:20]
                example.put(copy / path.relative_to(run), [spoil(row, depth) for row in rows])
            else:
                example.put(copy / path.relative_to(run), spoil(json.loads(path.read_text()), depth))
        assert_sound(page_of(copy))


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"[1, 2]\n", b'"x"\n', b"[" * 100_000])
@pytest.mark.usefixtures("no_charts")
def test_damaged_files_are_named(run: Path, tmp_path: Path, damage: bytes) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(run, copy)
    for name in ("eval/language.json", "eval/samples.json"):
        (copy / name).write_bytes(damage)
    page = page_of(copy)
    assert_sound(page)
    assert "eval/language.json cannot be" in page.text
    assert "eval/samples.json cannot be" in page.text


@pytest.mark.usefixtures("no_charts")
def test_a_half_last_line_of_metrics_is_left_out(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(run, copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "sft", "step": 99')
    assert "900 updates" in page_of(copy).text


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no folder: give the folder of a run"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(DataError, match=r"is no run folder: none of plan\.json, stages\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 5_000])
def test_any_number_of_updates(tmp_path: Path, run: Path, steps: int) -> None:
    rows = [
        {"stage": "dpo", "step": i + 1, "elapsed_s": i, "loss": 1.0 / (i + 1), "lr": 1e-5, "grad_norm": 10.0 ** (i % 7)}
        for i in range(steps)
    ]
    copy = changed(tmp_path, run, "metrics.jsonl", rows)
    path = write_report(copy)
    page = Page(path.read_text(encoding="utf-8"))
    assert_sound(page)
    assert f"dpo {steps:,} updates" in page.text
    # The weight of the page is bounded however long the run was.
    assert path.stat().st_size < 450_000


def test_losses_that_are_not_finite_or_constant(tmp_path: Path, run: Path) -> None:
    rows = [
        {"stage": "pretrain", "step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.0},
        {"stage": "pretrain", "step": 2, "loss": 1e30, "grad_norm": 0.0, "lr": 0.0, "tokens_per_s": 0},
        {"stage": "pretrain", "step": 3, "loss": None, "skipped": True},
        {"stage": "pretrain", "step": 3, "evaluation": {"loss": float("nan")}},
        {"stage": "pretrain", "step": 4, "evaluation": {"accuracy": 0.5}},
    ]
    page = page_of(changed(tmp_path, run, "metrics.jsonl", rows))
    assert_sound(page)
    assert "4 updates" not in page.text and "3 updates" in page.text


def test_running_means_do_not_bend_at_the_ends() -> None:
    import numpy as np

    from groundup.recipes.report.charts import _running_mean, _running_median

    values = np.array([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 105.0])
    assert _running_mean(values, 2)[0] == 9.0
    assert _running_mean(values, 2)[1] == pytest.approx(4.0)
    assert _running_mean(values, 2)[3] == pytest.approx(3.0)
    assert _running_mean(values, 2)[6] == pytest.approx(38.0)
    assert _running_median(values, 2)[6] == 5.0
    assert len(_running_mean(np.array([1.0]), 1)) == 1
