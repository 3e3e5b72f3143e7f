"""Write the report of a run: one page that needs nothing else."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from groundup.core.files import write_text
from groundup.recipes.report import commands, results, training
from groundup.recipes.report.folder import RunFiles, read_run, table_of
from groundup.recipes.report.words import clean, compact, decimal, duration, label, number, size

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Read the JSON files of a run folder and write `run/report.html`.

    What was not run, or cannot be read, is said in its section. The same files give the same bytes.

    Args:
        run: the folder, such as `runs/NAME`.

    Returns:
        the path of the page.

    Raises:
        DataError: when `run` is no folder of a run, or the page cannot be written.
    """
    path = run / REPORT
    write_text(path, render_report(read_run(run)))
    return path


def render_report(files: RunFiles) -> str:
    """Return the page of a run as HTML."""
    return page_template("page.html.j2").render(page_of(files))


@lru_cache(maxsize=4)
def page_template(name: str) -> Template:
    """A template of this folder; the page's style is its global `css`."""
    folder = resource_files("groundup.recipes.report")
    environment = Environment(
        loader=FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals["css"] = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    """Every text that enters the page passes here: models write control characters, and lone surrogates end a file."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page_of(files: RunFiles) -> dict[str, Any]:
    """All that the template shows."""
    methods = results.methods_of(files)
    settings = commands.repeatable_settings(files)
    return {
        "name": files.name,
        "chat_command": commands.chat_command(files),
        "generate_command": commands.generate_command(files),
        "summary": summary_of(files),
        "tiles": tiles_of(files),
        "problem": files.problem,
        "plan_facts": training.plan_facts(files),
        "plan_table": training.plan_table(files),
        "corpus_text": training.corpus_text(files),
        "corpus_tables": training.corpus_tables(files),
        "tokenizer_table": training.tokenizer_table(files),
        "longest": training.longest_tokens(files),
        "stages": training.training_stages(files),
        "methods": methods,
        "language_sentence": results.language_sentence(files, "The model"),
        "language_chart": results.language_chart(methods) if methods else None,
        "language_table": results.language_table(files, methods),
        "language_differences": results.language_differences(files),
        "answers_charts": results.answers_charts(files),
        "answers_table": results.answers_table(files),
        "overlaps": results.overlap_sentences(files),
        "answer_differences": results.answer_differences(files),
        "right": results.chosen_answers(files, right=True),
        "wrong": results.chosen_answers(files, right=False),
        "num_answers": len(files.many("eval/transcript.jsonl")),
        "samples": training.samples_of(files),
        "lineage": commands.lineage_tables(files),
        "versions": commands.versions_of(files),
        "given_command": commands.given_command(files),
        "settings_command": commands.settings_command(files),
        "seed": commands.seed_of(files),
        "settings": json.dumps(settings, indent=2, ensure_ascii=False) if settings else "",
        "parameters": compact(files.object("plan.json").get("parameters")),
    }


def summary_of(files: RunFiles) -> str:
    """What came out, in sentences made from the numbers."""
    plan, manifest = files.object("plan.json"), files.object("corpus/corpus.json")
    text = "A language model"
    if number(plan.get("parameters")) is not None:
        text += f" of {compact(plan['parameters'])} parameters"
    learned = number(table_of(table_of(manifest.get("splits")).get("train")).get("text_bytes"))
    if learned is not None:
        text += f", trained on {size(learned)} of text"
        if commands.source_of(files):
            text += f" ({label(commands.source_of(files), 80)})"
    seconds = training.total_seconds(files)
    execution = table_of(plan.get("execution"))
    if seconds is not None:
        text += f" in {duration(seconds)}"
        if execution.get("device") == "cpu" and number(execution.get("threads")) is not None:
            text += f" on {decimal(execution['threads'], 0)} CPU threads"
        elif isinstance(execution.get("device"), str):
            text += f" on {label(execution['device'])}"
    sentences = [f"{text}.", results.language_sentence(files, "It"), results.answers_sentence(files)]
    return " ".join(sentence for sentence in sentences if sentence)


def tiles_of(files: RunFiles) -> list[tuple[str, str, str]]:
    """(name, value, note) of the key numbers; what was not measured has no tile."""
    plan = files.object("plan.json")
    tiles = []
    if number(plan.get("parameters")) is not None:
        rest = number(plan.get("non_embedding_parameters"))
        tiles.append(("parameters", compact(plan["parameters"]), f"{compact(rest)} without embeddings" if rest else ""))
    if number(plan.get("train_tokens")) is not None:
        epochs = number(plan.get("epochs"))
        note = f"{decimal(epochs, 1)} times through the text" if epochs is not None else ""
        tiles.append(("tokens in pretraining", compact(plan["train_tokens"]), note))
    seconds = training.total_seconds(files)
    if seconds is not None:
        predicted = number(table_of(plan.get("predicted")).get("total_s"))
        tiles.append(("time", duration(seconds), f"predicted {duration(predicted)}" if predicted is not None else ""))
    peak = training.peak_bytes(files)
    if peak is not None:
        predicted = number(table_of(plan.get("predicted")).get("peak_bytes"))
        tiles.append(("peak memory", size(peak), f"predicted {size(predicted)}" if predicted is not None else ""))
    methods = results.methods_of(files)
    model, baseline = results.best_of(methods, "model"), results.best_of(methods, "baseline")
    if model is not None:
        note = ""
        if baseline is not None:
            note = f"best baseline: {decimal(baseline['value'], 2)} ({label(baseline['name'])})"
            entry = results.difference_to(files, baseline["name"])
            if not results.read_difference(entry, shares=False).told:
                note += f"; the difference {results.NOT_TOLD}" if entry else "; no interval of the difference"
        tiles.append(("bits per byte, unseen text", decimal(model["value"], 2), note))
    for group in table_of(files.object("eval/answers.json").get("groups")):
        tile = results.accuracy_tile(files, str(group))
        if tile is not None:
            tiles.append((f"{label(group)} answered right", *tile))
    return tiles
