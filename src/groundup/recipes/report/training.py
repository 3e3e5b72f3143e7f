"""The sections on how the model came about: plan and stages, corpus, tokenizer, curves, samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundup.data.document import SPLITS
from groundup.recipes.report.charts import Series, line_chart, loss_chart
from groundup.recipes.report.commands import execution_of
from groundup.recipes.report.folder import Record, RunFiles, flatten, rows_of, table_of
from groundup.recipes.report.tables import Chart, Table, plain
from groundup.recipes.report.words import (
    NOTHING,
    clean,
    compact,
    count,
    decimal,
    duration,
    label,
    number,
    percent,
    scientific,
    shorten,
    significant,
    size,
)
from groundup.train.health.finding import Finding

STAGES = ("corpus", "tokenizer", "pretrain", "sft", "eval", "report")
_TOKENIZERS = {
    "bpe": "byte-level BPE",
    "char": "characters",
    "ByteBPE": "byte-level BPE",
    "CharTokenizer": "characters",
}
_TRAINING = {"pretrain": "Pretraining", "sft": "Tuning on conversations"}


@dataclass(frozen=True)
class Stage:
    """Charts and facts of one stage of training.

    Attributes:
        health: what the rules of `groundup doctor` found while it ran, in a sentence; empty where nobody watched.
        findings: the evidence and the fix of each finding.
    """

    key: str
    title: str
    text: str
    charts: list[Chart]
    health: str
    findings: Table


# ------------------------------------------------------------------------------------------ plan, stages


def plan_table(files: RunFiles) -> Table:
    """Seconds of each stage and peak memory: predicted, measured, and measured over predicted."""
    predicted = table_of(table_of(files.object("plan.json").get("predicted")).get("stages"))
    ledger = files.object("stages.json")
    table = Table(
        "What the plan said before the run and what the clock said afterwards. A ratio above 1 means slower, or more "
        "memory, than predicted. The total compares only stages that have both numbers.",
        ("stage", "#predicted", "#measured", "#ratio"),
    )
    names = list(dict.fromkeys([*STAGES, *map(str, predicted), *map(str, ledger)]))
    both = [0.0, 0.0]
    for name in names:
        plan, seconds = number(predicted.get(name)), number(table_of(ledger.get(name)).get("seconds"))
        if plan is None and seconds is None:
            continue
        if plan is not None and seconds is not None:
            both = [both[0] + plan, both[1] + seconds]
        measured = "this page" if name == "report" and seconds is None else duration(seconds)
        table.add(label(name), duration(plan), measured, _ratio(plan, seconds))
    if any(both):
        table.add("total", duration(both[0]), duration(both[1]), _ratio(*both), style="total")
    plan_bytes, peak = number(table_of(files.object("plan.json").get("predicted")).get("peak_bytes")), peak_bytes(files)
    if plan_bytes is not None or peak is not None:
        table.add("peak memory", size(plan_bytes), size(peak), _ratio(plan_bytes, peak))
    return table


def _ratio(predicted: float | None, actual: float | None) -> str:
    return NOTHING if not predicted or actual is None else decimal(actual / predicted, 2)


def peak_bytes(files: RunFiles) -> float | None:
    """The largest memory that any stage noted."""
    peaks = [number(table_of(entry).get("peak_bytes")) for entry in files.object("stages.json").values()]
    return max((peak for peak in peaks if peak), default=None)


def total_seconds(files: RunFiles) -> float | None:
    """Seconds of all finished stages."""
    seconds = [number(table_of(entry).get("seconds")) for entry in files.object("stages.json").values()]
    known = [value for value in seconds if value is not None]
    return sum(known) if known else None


def plan_facts(files: RunFiles) -> Table:
    """What was planned, in counts."""
    plan = files.object("plan.json")
    table = Table("The sizes of the run, and how the arithmetic ran.", ("quantity", "#value"))
    rows: list[tuple[str, str, Callable[[Any], str]]] = [
        ("parameters", "parameters", count),
        ("parameters without embeddings", "non_embedding_parameters", count),
        ("tokens of the training text", "corpus_tokens", count),
        ("tokens seen in pretraining", "train_tokens", count),
        ("times each token was seen (epochs)", "epochs", lambda value: decimal(value, 1)),
        ("floating-point operations", "flops", scientific),
        ("time asked for", "budget_s", duration),
    ]
    for name, key, words in rows:
        if number(plan.get(key)) is not None:
            table.add(name, words(plan[key]))
    for key, (planned, base, chat) in execution_of(files).items():
        used = [value for value in (base, chat) if value is not None]
        text = " in pretraining, ".join(label(plain(value), 90) for value in used[: 1 if base == chat else 2])
        if len(used) == 2 and base != chat:
            text += " in tuning"
        if used and planned is not None and planned not in used:
            text += f" (planned: {label(plain(planned), 90)})"
        table.add(f"execution: {label(key).replace('_', ' ')}", text or label(plain(planned), 90))
    return table


# --------------------------------------------------------------------------------------- corpus, tokenizer


def corpus_tables(files: RunFiles) -> list[Table]:
    """Splits, licences and sources."""
    manifest = files.object("corpus/corpus.json")
    splits = Table(
        "The splits. A group (a module or a file) is never torn apart, so nothing of a held-out group was trained on.",
        ("split", "#documents", "#groups", "#text"),
    )
    for name, entry in table_of(manifest.get("splits")).items():
        values = table_of(entry)
        splits.add(
            label(name), count(values.get("documents")), count(values.get("groups")), size(values.get("text_bytes"))
        )
    tables = [splits] if splits.rows else []
    for key, caption, head in (
        ("licenses", "Licences of the documents.", "licence"),
        ("sources", "Where the documents come from.", "source"),
    ):
        table = Table(caption, (head, "#documents"))
        entries = sorted(table_of(manifest.get(key)).items(), key=lambda pair: (-(number(pair[1]) or 0), pair[0]))
        for name, value in entries[:12]:
            table.add(label(name, 80), count(value))
        if len(entries) > 12:
            table.add(f"{len(entries) - 12:,} more", count(sum(number(value) or 0 for _, value in entries[12:])))
        if table.rows:
            tables.append(table)
    return tables


def corpus_text(files: RunFiles) -> str:
    """A sentence on the documents that occurred more than once."""
    manifest = files.object("corpus/corpus.json")
    dropped = number(manifest.get("duplicates_dropped"))
    if dropped is None:
        return ""
    if dropped == 0:
        return "No document occurred twice."
    return (
        f"{compact(dropped)} {'copy' if dropped == 1 else 'copies'} of documents that were there already were dropped."
    )


def tokenizer_table(files: RunFiles) -> Table:
    """The tokenizer's numbers; those known here in words, all others under their own names."""
    values = files.object("eval/tokenizer.json")
    table = Table("The tokenizer in numbers.", ("quantity", "#value"))
    if "kind" in values:
        table.add("kind", _TOKENIZERS.get(str(values["kind"]), plain(values["kind"])))
    if "vocab_size" in values:
        table.add("vocabulary", count(values["vocab_size"]))
    per_token = values.get("bytes_per_token")
    for split, value in table_of(per_token).items():
        table.add(f"bytes per token, {label(split)} text", decimal(value, 2))
    if number(per_token) is not None:
        table.add("bytes per token", decimal(per_token, 2))
    if "used_share" in values:
        table.add("share of the vocabulary that the text uses", percent(values["used_share"]))
    known = ("kind", "vocab_size", "bytes_per_token", "used_share", "longest")
    for name, value in flatten({key: item for key, item in values.items() if key not in known}):
        what, _, split = name.rpartition(".")
        words = f"{what}, {split} text" if split in SPLITS else name
        table.add(label(words.replace("_", " ")), label(plain(value), 120))
    return table


def longest_tokens(files: RunFiles) -> list[str]:
    """The longest tokens, spaces and line ends made visible."""
    longest = files.object("eval/tokenizer.json").get("longest")
    texts = [item for item in longest if isinstance(item, str)] if isinstance(longest, list) else []
    marks = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})
    return [shorten(clean(text).translate(marks), 60) for text in texts[:24]]


# ----------------------------------------------------------------------------------------------- curves


def training_stages(files: RunFiles) -> list[Stage]:
    """One entry for each stage that wrote metrics, in the order of the run."""
    records = files.many("metrics.jsonl")
    names = list(dict.fromkeys(str(record.get("stage")) for record in records if record.get("stage")))
    order = sorted(names, key=lambda name: list(_TRAINING).index(name) if name in _TRAINING else len(_TRAINING))
    stages = []
    for index, name in enumerate(order):
        rows = [record for record in records if str(record.get("stage")) == name]
        title = _TRAINING.get(name, label(name))
        charts = charts_of(f"curve{index}", title, rows)
        if charts:
            text = _stage_text(rows, files.object("stages.json").get(name))
            stages.append(Stage(f"training-{index}", title, text, charts, *_health(rows)))
    return stages


def _health(rows: list[Record]) -> tuple[str, Table]:
    """What was found while a stage ran, in a sentence and as a table."""
    table = Table(
        "Serious ones first; the updates are those of the first report.", ("rule", "updates", "seen", "what helps")
    )
    read = [Finding.from_record(row["finding"]) for row in rows if isinstance(row.get("finding"), dict)]
    found = sorted((finding for finding in read if finding), key=lambda finding: finding.severity != "serious")
    for finding in found:
        name = f"{label(finding.rule)} ({label(finding.severity)})"
        table.add(name, label(finding.where), label(finding.evidence, 300), label(finding.fix, 300))
    if found:
        return f"{len(found)} finding{'s' * (len(found) > 1)} while it ran.", table
    watched = any(isinstance(row.get("facts"), dict) for row in rows)
    return "No rule of groundup doctor found anything wrong while it ran." if watched else "", table


def charts_of(key: str, title: str, rows: list[Record]) -> list[Chart]:
    """The curves of one stage: loss, learning rate, gradient norm, speed.

    Args:
        key: begins the ids of the drawings.
        title: of the stage.
        rows: its records in metrics.jsonl.
    """
    train, watched = _series(rows, "loss"), _validation(rows)
    charts = []
    if train.steps:
        caption = "Loss of every update (faint) and its running mean (line)"
        caption += "; the points are the loss on held-out text." if watched.steps else "."
        charts.append(Chart(loss_chart(f"{key}-loss", f"{title}: loss over the updates", train, watched), caption))
    for field, unit, caption, noisy in (
        ("lr", "learning rate", "Learning rate: warm-up, then decay.", False),
        (
            "grad_norm",
            "gradient norm",
            "Length of the gradient before clipping: every update (faint) and the running median.",
            True,
        ),
        (
            "tokens_per_s",
            "tokens per second",
            "Speed, in tokens trained on per second: every update (faint) and the running median.",
            True,
        ),
    ):
        series = _series(rows, field)
        if series.steps:
            svg = line_chart(f"{key}-{field}", f"{title}: {unit} over the updates", series, unit, noisy=noisy)
            charts.append(Chart(svg, caption))
    return charts


def _series(rows: list[Record], key: str) -> Series:
    pairs = [(number(row.get("step")), number(row.get(key))) for row in rows]
    known = [(step, value) for step, value in pairs if step is not None and value is not None]
    return Series([step for step, _ in known], [value for _, value in known])


def _validation(rows: list[Record]) -> Series:
    return _series([{"step": row.get("step"), **table_of(row.get("evaluation"))} for row in rows], "loss")


def _stage_text(rows: list[Record], entry: Any) -> str:
    updates = [row for row in rows if "evaluation" not in row]
    steps = [step for step in (number(row.get("step")) for row in updates) if step is not None]
    parts = []
    if steps:
        parts.append(f"{count(max(steps))} updates")
    tokens = _series(updates, "tokens").values
    if tokens:
        parts.append(f"{compact(max(tokens))} tokens")
    elapsed = [value for value in (number(row.get("elapsed_s")) for row in rows) if value is not None]
    if elapsed:
        parts.append(f"{duration(max(elapsed))} of training")
    text = ", ".join(parts) + "." if parts else ""
    watched = _validation(rows)
    if watched.steps:
        best = min(range(len(watched.values)), key=lambda index: watched.values[index])
        text += (
            f" The lowest validation loss is {significant(watched.values[best])} nats per token, "
            f"after update {count(watched.steps[best])}."
        )
    skipped = sum(1 for row in rows if row.get("skipped") is True)
    if skipped:
        text += f" {count(skipped)} {'update was' if skipped == 1 else 'updates were'} skipped: the gradient was not finite."
    ended = table_of(entry).get("ended")
    if isinstance(ended, str) and ended:
        text += f" It ended by: {label(ended, 80)}."
    return text.strip()


# ---------------------------------------------------------------------------------------------- samples


def samples_of(files: RunFiles) -> list[dict[str, Any]]:
    """Samples grouped by prompt: the prompt once, then the continuation at each temperature."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for sample in rows_of(files.many("eval/samples.json")):
        prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
        entry = {
            "temperature": decimal(sample.get("temperature"), 1),
            "text": shorten(text.removeprefix(prompt), 3000),
        }
        groups.setdefault((str(sample.get("model", "")), prompt), []).append(entry)
    return [
        {"model": label(model), "prompt": shorten(prompt, 600), "samples": samples}
        for (model, prompt), samples in groups.items()
    ]
