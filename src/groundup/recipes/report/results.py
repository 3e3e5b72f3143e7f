"""The sections on what the model can do: bits per byte, answers, the ten unedited ones, and the summary."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from groundup.evaluate.intervals import cannot_be_told
from groundup.recipes.report.charts import BASE, CHAT, OTHER, Bar, bar_chart
from groundup.recipes.report.folder import Record, RunFiles, rows_of, table_of
from groundup.recipes.report.tables import Chart, Table
from groundup.recipes.report.words import (
    NOTHING,
    decimal,
    kind_words,
    label,
    listed,
    model_words,
    number,
    percent,
    percents,
    points,
    shorten,
)

NOT_TOLD = "cannot be told from chance"
# The numbers that `evaluate.intervals.verdict` repeats in brackets; the page has them before the verdict.
_REPEATED = re.compile(r" \([-+][^()]*% interval [^()]*\)")
# Longer texts of a transcript are cut on the page; the file has them whole.
MAX_TEXT = 3_000


@dataclass(frozen=True)
class Difference:
    """A difference with its interval, in words.

    Attributes:
        name: what is compared.
        value: such as "+39 points (95% interval +34 to +44)".
        verdict: a sentence.
        told: whether it can be told from chance.
    """

    name: str
    value: str
    verdict: str
    told: bool


def read_difference(entry: Record, *, shares: bool) -> Difference:
    """Put one difference into words; without a usable interval nothing can be told.

    Args:
        entry: `name`, `difference`, `low`, `high`, `verdict`.
        shares: whether it is one of shares (given in points) or of bits per byte (baseline minus model).
    """
    value, low, high = (number(entry.get(key)) for key in ("difference", "low", "high"))
    told = value is not None and low is not None and high is not None and not cannot_be_told(low, high)
    words = points(value) if shares else f"{decimal(value, 3, sign=True)} bits per byte"
    if low is not None and high is not None:
        ends = [decimal(100 * x, 0, sign=True) if shares else decimal(x, 3, sign=True) for x in (low, high)]
        words += f" (95% interval {ends[0]} to {ends[1]})"
    else:
        words += " (no interval)"
    if told and not shares and value is not None:
        words += f", in favour of the {'model' if value > 0 else 'baseline'}"
    verdict = entry.get("verdict")
    text = _REPEATED.sub("", shorten(verdict, 400)) if isinstance(verdict, str) else ""
    if not told and "chance" not in text:
        text = f"{text} The difference {NOT_TOLD}.".strip()
    about, point, rest = str(entry.get("name", "")).partition(":")
    name = f"{kind_words(about)}:{rest}" if point else about
    return Difference(label(name, 120), words, text or "The difference is more than chance.", told)


# ------------------------------------------------------------------------------------------- bits per byte


def methods_of(files: RunFiles) -> list[Record]:
    """Methods with a number, best first; each has `name`, `kind`, `value`, `low`, `high`, `note`."""
    methods = []
    for entry in rows_of(files.object("eval/language.json").get("methods")):
        value = number(entry.get("bits_per_byte"))
        if value is not None:
            low, high = number(entry.get("low")), number(entry.get("high"))
            exact = low is None or high is None or low == high
            methods.append(
                {
                    "name": str(entry.get("name", "")),
                    "kind": str(entry.get("kind", "")),
                    "value": value,
                    "low": None if exact else low,
                    "high": None if exact else high,
                    "note": label(entry.get("note") or "", 160),
                }
            )
    return sorted(methods, key=lambda method: (method["value"], method["name"]))


def language_chart(methods: list[Record]) -> Chart:
    """Bits per byte of the model and of the baselines, as bars with their intervals."""
    groups = []
    for method in methods:
        colour = CHAT if method["kind"] == "model" else OTHER
        bar = Bar(method["value"], method["low"], method["high"], colour, decimal(method["value"], 2))
        groups.append((method["name"], [bar]))
    svg = bar_chart(
        "language", "Bits per byte of the model and of the baselines", groups, "bits per byte (lower is better)"
    )
    return Chart(svg, "Bits for each byte of held-out text, best on top; the model in colour, baselines in grey. Thin "
                 "lines are 95% intervals over the held-out text; a compressor gives one number and no interval.")  # fmt: skip


def language_table(files: RunFiles, methods: list[Record]) -> Table:
    """The numbers of the chart, with size and remark."""
    facts = files.object("eval/language.json")
    parts = [
        f"{decimal(facts[key], 0)} {words}"
        for key, words in (("test_bytes", "bytes"), ("documents", "documents"), ("groups", "groups"))
        if number(facts.get(key)) is not None
    ]
    table = Table(
        f"The same numbers; measured on {listed(parts)} that no method was trained on."
        if parts
        else "The same numbers.",
        ("method", "#bits per byte", "#95% interval", "#size of the text packed", "remark"),
    )
    for method in methods:
        interval = NOTHING
        if method["low"] is not None and method["high"] is not None:
            interval = f"{decimal(method['low'])}–{decimal(method['high'])}"
        table.add(
            label(method["name"], 80), decimal(method["value"]), interval, percent(method["value"] / 8),
            method["note"], style="model" if method["kind"] == "model" else "",
        )  # fmt: skip
    return table


def language_differences(files: RunFiles) -> list[Difference]:
    """The paired differences of bits per byte that were computed."""
    entries = rows_of(files.object("eval/language.json").get("differences"))
    return [read_difference(entry, shares=False) for entry in entries]


# ------------------------------------------------------------------------------------------------- answers


def answer_models(files: RunFiles) -> list[str]:
    """Names of the models that were asked: base, chat, then the others."""
    answers = files.object("eval/answers.json")
    names = [str(name) for name in table_of(answers.get("models"))]
    for scores in table_of(answers.get("groups")).values():
        names += [str(name) for name in table_of(scores)]
    return sorted(dict.fromkeys(names), key=lambda name: {"base": 0, "chat": 1}.get(name, 2))


def scores_by_kind(files: RunFiles) -> list[tuple[str, bool, dict[str, Record]]]:
    """(name in words, is a whole group, scores by model): each group, then its kinds."""
    answers = files.object("eval/answers.json")
    models, groups = table_of(answers.get("models")), table_of(answers.get("groups"))
    kinds = list(dict.fromkeys(str(kind) for scores in models.values() for kind in table_of(scores)))
    result = []
    for group in dict.fromkeys([*map(str, groups), *(kind.partition(".")[0] for kind in kinds)]):
        scores = {str(name): table_of(entry) for name, entry in table_of(groups.get(group)).items()}
        if scores:
            result.append((f"all {kind_words(group)} questions", True, scores))
        for kind in kinds:
            if kind.partition(".")[0] == group and kind != group:
                of_kind = {str(name): table_of(table_of(entry).get(kind)) for name, entry in models.items()}
                result.append((kind_words(kind), False, {name: entry for name, entry in of_kind.items() if entry}))
    return result


def _colour(model: str) -> str:
    return {"base": BASE, "chat": CHAT}.get(model, OTHER)


def answers_charts(files: RunFiles) -> list[Chart]:
    """Bars for the groups and their kinds, one chart for each group."""
    models, charts = answer_models(files), []
    blocks: list[list[tuple[str, bool, dict[str, Record]]]] = []
    for row in scores_by_kind(files):
        if row[1] or not blocks:
            blocks.append([])
        blocks[-1].append(row)
    for index, block in enumerate(blocks):
        groups = []
        for name, _, scores in block:
            shown = [
                (model, scores[model]) for model in models if number(scores.get(model, {}).get("accuracy")) is not None
            ]
            groups.append((name, [_accuracy_bar(model, score) for model, score in shown]))
        asked = [model for model in models if any(model in scores for _, _, scores in block)]
        legend = [(_colour(model), model_words(model)) for model in asked]
        title = f"Right answers: {block[0][0]}"
        svg = bar_chart(f"answers{index}", title, groups, "right answers in percent", legend, limit=100.0)
        charts.append(Chart(svg, "Share of right answers by kind of question, with 95% intervals (Wilson)."))
    return charts


def _accuracy_bar(model: str, score: Record) -> Bar:
    low, high = number(score.get("low")), number(score.get("high"))
    value = number(score.get("accuracy")) or 0.0
    scaled = [None if x is None else 100 * x for x in (low, high)]
    return Bar(100 * value, scaled[0], scaled[1], _colour(model), percent(value))


def answers_table(files: RunFiles) -> Table:
    """Right answers of each model for each kind of question."""
    models = answer_models(files)
    table = Table(
        "Right answers, and in brackets the 95% interval. An answer is right only when it equals the expected one "
        "(white space, a final full stop and backticks do not count).",
        ("question", "#asked", *(f"#{model_words(model)}" for model in models)),
    )
    for name, is_group, scores in scores_by_kind(files):
        totals = [number(score.get("total")) for score in scores.values()]
        asked = max((total for total in totals if total is not None), default=None)
        cells = [_accuracy_cell(scores.get(model, {})) for model in models]
        table.add(name, decimal(asked, 0), *cells, style="total" if is_group else "")
    return table


def _accuracy_cell(score: Record) -> str:
    if number(score.get("accuracy")) is None:
        return NOTHING
    interval = percents(score.get("low"), score.get("high"))
    return percent(score["accuracy"]) + ("" if interval == NOTHING else f" ({interval})")


def overlap_sentences(files: RunFiles) -> list[str]:
    """Kinds at which the intervals of the tuned model and of another one overlap: no difference is claimed there."""
    sentences = []
    for other in answer_models(files):
        if other == "chat":
            continue
        kinds = [
            name for name, _, scores in scores_by_kind(files) if _overlap(scores.get("chat", {}), scores.get(other, {}))
        ]
        if kinds:
            sentences.append(
                f"Chat against {model_words(other)}: the intervals overlap for {listed([f'“{kind}”' for kind in kinds])}; "
                f"from these intervals alone the difference there {NOT_TOLD} (a difference measured on the same "
                "questions, where one stands above, is the sharper test)."
            )
    return sentences


def _overlap(first: Record, second: Record) -> bool:
    ends = [number(score.get(key)) for score in (first, second) for key in ("low", "high")]
    if any(end is None for end in ends):
        return False
    low_a, high_a, low_b, high_b = (end or 0.0 for end in ends)
    return low_a <= high_b and low_b <= high_a


def answer_differences(files: RunFiles) -> list[Difference]:
    """The paired differences of shares of right answers that were computed."""
    return [
        read_difference(entry, shares=True) for entry in rows_of(files.object("eval/answers.json").get("differences"))
    ]


# ---------------------------------------------------------------------------------------------- transcript


def chosen_answers(files: RunFiles, *, right: bool, wanted: int = 5) -> list[dict[str, Any]]:
    """Pick answers by a rule that cannot see how good they look.

    The questions of each kind are ordered by the SHA-256 of their id, the kinds by that of their name; then the first
    of every kind is taken, then the second, until there are enough.
    """
    by_kind: dict[str, list[tuple[str, Record]]] = {}
    for index, record in enumerate(files.many("eval/transcript.jsonl")):
        if record.get("right") is right:
            by_kind.setdefault(str(record.get("kind", "")), []).append((_hash(record.get("id", index)), record))
    queues = [sorted(by_kind[kind], key=lambda pair: pair[0]) for kind in sorted(by_kind, key=_hash)]
    rounds = max((len(queue) for queue in queues), default=0)
    picked = [queue[turn][1] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return [_answer_view(record) for record in picked[:wanted]]


def _hash(value: object) -> str:
    return hashlib.sha256(str(value).encode("utf-8", "backslashreplace")).hexdigest()


def _answer_view(record: Record) -> dict[str, Any]:
    question = record.get("question")
    if isinstance(question, list):
        turns = [(label(turn.get("role", "")), _text(turn.get("content"))) for turn in rows_of(question)]
    else:
        turns = [("user", _text(question))]
    return {
        "kind": kind_words(str(record.get("kind", ""))),
        "group": label(record.get("group", ""), 60),
        "turns": turns,
        "expected": _text(record.get("expected")),
        "answers": [(name, _text(record[name])) for name in ("chat", "base", "copy") if _is_given(record, name)],
    }


def _is_given(record: Record, name: str) -> bool:
    """A model may answer with nothing; the span baseline then was not asked."""
    return record.get(name) is not None and (name != "copy" or record[name] != "")


def _text(value: object) -> str:
    return shorten("" if value is None else str(value), MAX_TEXT)


# ------------------------------------------------------------------------------------------------- summary


def best_of(methods: list[Record], kind: str) -> Record | None:
    """The method of a kind with the fewest bits."""
    return next((method for method in methods if method["kind"] == kind), None)


def difference_to(files: RunFiles, name: str) -> Record:
    """The difference between the model and one baseline; empty when it was not measured."""
    entries = rows_of(files.object("eval/language.json").get("differences"))
    return next((entry for entry in entries if entry.get("name") == name), {})


def language_sentence(files: RunFiles, subject: str) -> str:
    """Bits per byte beside the best baseline, in a sentence that begins with `subject`."""
    methods = methods_of(files)
    model, baseline = best_of(methods, "model"), best_of(methods, "baseline")
    if model is None:
        return ""
    text = f"{subject} needs {decimal(model['value'], 2)} bits for each byte of text it never saw"
    if baseline is None:
        return text + "."
    gap = baseline["value"] - model["value"]
    side = "fewer" if gap >= 0 else "more"
    text += f", {decimal(abs(gap), 2)} {side} than the best baseline ({label(baseline['name'])})"
    difference = difference_to(files, baseline["name"])
    if not difference:
        return text + "; how far chance goes there was not measured."
    return text + ("." if read_difference(difference, shares=False).told else f"; that difference {NOT_TOLD}.")


def answers_sentence(files: RunFiles) -> str:
    """Accuracy after tuning by group, beside the others, in sentences."""
    groups = table_of(files.object("eval/answers.json").get("groups"))
    parts = []
    for group, entries in groups.items():
        scores = table_of(entries)
        chat = number(table_of(scores.get("chat")).get("accuracy"))
        if chat is None:
            continue
        others = [
            f"{'before tuning' if name == 'base' else model_words(str(name))} {percent(table_of(entry).get('accuracy'))}"
            for name, entry in scores.items()
            if name != "chat" and number(table_of(entry).get("accuracy")) is not None
        ]
        part = f"{percent(chat)} of the {kind_words(str(group))} questions"
        parts.append(part + (f" ({'; '.join(others)})" if others else ""))
    if not parts:
        return ""
    text = f"After tuning it answers {listed(parts)} right."
    found = [difference for group in groups for difference in differences_about(files, str(group))]
    unclear = [f"“{difference.name}”" for difference in found if not difference.told]
    if unclear:
        text += f" The difference{'s' if len(unclear) > 1 else ''} {listed(unclear)} {NOT_TOLD}."
    return text


def differences_about(files: RunFiles, group: str) -> list[Difference]:
    """The differences whose name begins with `GROUP:`."""
    entries = rows_of(files.object("eval/answers.json").get("differences"))
    about = [entry for entry in entries if str(entry.get("name", "")).partition(":")[0].strip() == group]
    return [read_difference(entry, shares=True) for entry in about]


def accuracy_tile(files: RunFiles, group: str) -> tuple[str, str] | None:
    """Value and note of the tile of one group of questions."""
    answers = files.object("eval/answers.json")
    score = table_of(table_of(table_of(answers.get("groups")).get(group)).get("chat"))
    if number(score.get("accuracy")) is None:
        return None
    notes = []
    for difference in differences_about(files, group):
        rest, value = difference.name.partition(":")[2].strip(), difference.value.partition(" (")[0]
        notes.append(f"{rest or 'difference'}: {value}" + ("" if difference.told else f", {NOT_TOLD}"))
    interval = percents(score.get("low"), score.get("high"))
    head = f"95% interval {interval}" if interval != NOTHING else "no interval"
    return percent(score["accuracy"]), "; ".join([head, *notes])
