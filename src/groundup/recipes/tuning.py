"""Tuning a model on one's own conversations: the forecast before it, and the page after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.align.sft import conversation_loss
from groundup.core import console
from groundup.core.files import read_json, sha256_json, write_json
from groundup.data.batch import IGNORE_INDEX
from groundup.data.conversations import ConversationSource
from groundup.inference.config import Sampling
from groundup.inference.session import answer_stop_ids
from groundup.inference.text import complete_texts
from groundup.model.counts import count_parameters, training_memory_bytes
from groundup.model.directory import LoadedModel
from groundup.recipes.loading import open_model
from groundup.recipes.plan import INTERPRETER_BYTES
from groundup.recipes.report.tuning import write_tuning_report
from groundup.recipes.settings import SftSettings
from groundup.recipes.training import EVALUATION_TOKENS, TuningStart
from groundup.tokenizer.chat import Message, default_chat_template, encode_chat
from groundup.train.resume import weights_digest
from groundup.train.trainer import TrainResult

NUM_PAIRS = 10
MAX_ANSWER_TOKENS = 128
# A learning rate that a model of 135 M parameters takes well (docs/experiments.md); smaller models take larger ones.
REFERENCE_PARAMETERS, REFERENCE_RATE, HIGHEST_RATE = 135e6, 2e-4, 1e-3
PASSES = 2
# A held-out pass runs forward only, in float32, which costs about two thirds of a training pass in bfloat16.
EVALUATION_COST = 0.7
FORECAST_FILE, BEFORE_FILE, PAIRS_FILE, RESULT_FILE = "forecast.json", "before.json", "pairs.json", "tuning.json"


@dataclass(frozen=True)
class Forecast:
    """What tuning will do and should cost.

    Attributes:
        parameters: of the model.
        conversations, held_out: how many are trained on, and how many are only watched.
        steps: updates.
        tokens: in all updates, padding included.
        seconds: predicted, or None where the plan was recorded by an earlier run.
        peak_bytes: predicted memory of the process.
        precision: of the matrix products.
        rows: conversations in one pass.
        learning_rate: peak.
    """

    parameters: int
    conversations: int
    held_out: int
    steps: int
    tokens: int
    seconds: float | None
    peak_bytes: int
    precision: str
    rows: int
    learning_rate: float


def default_settings(values: dict[str, Any], num_conversations: int, parameters: int) -> dict[str, Any]:
    """Fill in what depends on the model and the data where the user gave nothing.

    Args:
        values: settings given by the user.
        num_conversations: to train on.
        parameters: of the model.
    """
    filled = dict(values)
    batch = int(filled.get("batch_size", SftSettings.model_fields["batch_size"].default))
    filled.setdefault("num_steps", max(1, round(PASSES * num_conversations / batch)))
    steps = int(filled["num_steps"])
    rate = REFERENCE_RATE * (REFERENCE_PARAMETERS / max(1, parameters)) ** 0.5
    filled.setdefault("learning_rate", float(f"{min(HIGHEST_RATE, rate):.2g}"))
    filled.setdefault("warmup_steps", min(50, steps // 20))
    filled.setdefault("evaluate_every", max(1, steps // 5))
    filled.setdefault("checkpoint_every", max(1, min(250, steps // 4)))
    filled.setdefault("max_length", None)
    return filled


def announce(start: TuningStart, settings: SftSettings, work: Path) -> None:
    """Print the forecast and measure the held-out loss before the first update; both are kept for the page."""
    forecast, of = make_forecast(start, settings), _identity(start, settings)
    recorded = read_json(work / FORECAST_FILE) if (work / FORECAST_FILE).is_file() else {}
    if forecast.seconds is None and recorded.get("of") == of:
        forecast = replace(forecast, seconds=recorded["seconds"])
    write_json(work / FORECAST_FILE, {**asdict(forecast), "of": of})
    time = "see the first run" if forecast.seconds is None else console.format_seconds(forecast.seconds)
    console.heading("Plan")
    console.facts(
        [
            ["model", f"{console.format_count(forecast.parameters)} parameters"],
            ["conversations", f"{forecast.conversations:,} to learn from, {forecast.held_out:,} held out"],
            [
                "updates",
                f"{forecast.steps:,} of {settings.batch_size} conversations, "
                f"{console.format_count(forecast.tokens)} tokens, learning rate {forecast.learning_rate:g}",
            ],
            ["execution", f"{forecast.precision}, {forecast.rows} conversations in a pass"],
            ["predicted time", time],
            ["predicted memory", console.format_bytes(forecast.peak_bytes)],
        ]
    )
    measured = read_json(work / BEFORE_FILE) if (work / BEFORE_FILE).is_file() else {}
    if start.held_out is not None and measured.get("of") != of:
        loss = conversation_loss(start.model, start.held_out, max_tokens=EVALUATION_TOKENS)
        write_json(work / BEFORE_FILE, {**loss, "of": of})


def _identity(start: TuningStart, settings: SftSettings) -> str:
    """Tells what the files in a work folder are of: another run may have left them there."""
    sources = [start.source] if start.held_out is None else [start.source, start.held_out]
    conversations = [[[chat.inputs.tolist(), chat.targets.tolist()] for chat in source.chats] for source in sources]
    return sha256_json([weights_digest(start.model), conversations, settings.to_dict()])


def make_forecast(start: TuningStart, settings: SftSettings) -> Forecast:
    """Predict time and memory from the probe and the lengths of the conversations."""
    config, plan = start.model.config, start.plan
    lengths = [len(chat.inputs) for chat in start.source.chats]
    per_update = settings.batch_size * sum(lengths) / len(lengths)
    seconds = None
    if start.probe is not None:
        # The probe counts trained tokens, among as many others as the conversations have.
        watched = 0 if start.held_out is None else _trained_tokens(start.held_out)
        trained = settings.batch_size * _trained_tokens(start.source) / len(lengths)
        times = 2 + (settings.num_steps // settings.evaluate_every if settings.evaluate_every else 1)
        seconds = settings.num_steps * start.probe.update_seconds(int(trained))
        seconds += times * watched * EVALUATION_COST / start.probe.items_per_s
    memory = INTERPRETER_BYTES + training_memory_bytes(
        config, plan.micro_batch, start.source.max_length, plan.precision
    )
    return Forecast(
        parameters=count_parameters(config).total,
        conversations=len(start.source.chats),
        held_out=0 if start.held_out is None else len(start.held_out.chats),
        steps=settings.num_steps,
        tokens=int(settings.num_steps * per_update),
        seconds=seconds,
        peak_bytes=int(memory),
        precision=plan.precision,
        rows=plan.micro_batch,
        learning_rate=settings.learning_rate,
    )


def _trained_tokens(source: ConversationSource) -> int:
    return sum(int((chat.targets != IGNORE_INDEX).sum()) for chat in source.chats)


def compare(
    parent: str, tuned: Path, held_out: Sequence[Sequence[Message]], result: TrainResult, work: Path, *, peak_bytes: int
) -> Path:
    """Let both models answer the same held-out questions, and write the page.

    The questions are the first of the held-out conversations in their shuffled order, whatever is answered; the
    answers are the likeliest ones, whole.

    Returns:
        the path of the page.
    """
    asked = [question for question in map(_last_question, held_out) if question is not None][:NUM_PAIRS]
    pairs: list[dict[str, Any]] = [
        {"messages": messages, "expected": expected, "before": "", "after": ""} for messages, expected in asked
    ]
    for key, source in (("before", parent), ("after", str(tuned))):
        loaded = open_model(source)
        with console.progress(f"sft: answers {key}", len(pairs), "questions") as ticker:
            for pair in pairs:
                pair[key] = answer(loaded, pair["messages"])
                ticker.advance(1)
    write_json(work / PAIRS_FILE, pairs)
    before = work / BEFORE_FILE
    write_json(
        work / RESULT_FILE,
        {
            "name": tuned.name,
            "parent": parent,
            "steps": result.steps,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "peak_bytes": peak_bytes,
            "loss_before": read_json(before)["loss"] if before.is_file() else None,
            "loss_after": result.best_value,
            "best_step": result.best_step,
        },
    )
    return write_tuning_report(work)


def answer(loaded: LoadedModel, messages: Sequence[Message]) -> str:
    """The likeliest answer of a model to a conversation, by its own template (`default_chat_template` where it has none)."""
    template = loaded.chat_template or default_chat_template(loaded.tokenizer)
    ids = encode_chat(loaded.tokenizer, template, messages, add_generation_prompt=True).ids
    longest = loaded.model.config.max_position_embeddings
    sampling = Sampling(temperature=0.0, max_new_tokens=MAX_ANSWER_TOKENS)
    if len(ids) >= longest:
        return ""
    return complete_texts(
        loaded.model,
        loaded.tokenizer,
        [ids],
        sampling,
        stop_ids=answer_stop_ids(loaded.tokenizer, template, loaded.generation),
        pad_id=loaded.tokenizer.pad_id or 0,
        continues=False,
    )[0].text


def _last_question(messages: Sequence[Message]) -> tuple[list[Message], str] | None:
    """The conversation up to its last answer, and that answer."""
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    return (list(messages[:last]), messages[last]["content"]) if last else None
