"""The plan before the run: parameters, tokens, operations, time and memory, predicted from a short probe."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.model.counts import count_parameters, flops_per_token, training_memory_bytes
from groundup.model.transformer import build
from groundup.recipes.dial import BYTES_PER_TOKEN, settings_for
from groundup.recipes.settings import SpeedrunSettings
from groundup.recipes.training import probe_plan, shape_config
from groundup.train.probe import ProbeResult

# What the process holds before the first tensor: Python, torch and its libraries (measured, see docs/experiments.md).
INTERPRETER_BYTES = 450e6
# Seconds a megabyte of text and seconds a scored question take on the reference machine; the parts of the run that
# do not scale with the probe. Measured, docs/experiments.md.
CORPUS_S_PER_MB = 4.0
TOKENIZER_S_PER_MB = 4.0
SCORED_KINDS = 8
ANSWER_TOKENS = 24
REPORT_S = 4.0
DEPTHS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
# Of a budget, the part that pretraining may take; tuning, evaluation and the rest need the remainder.
PRETRAIN_SHARE_OF_BUDGET = 0.62
SFT_SHARE_OF_BUDGET = 0.18
AVERAGE_CONVERSATION_TOKENS = 96


@dataclass(frozen=True)
class Plan:
    """What a run will do and what it should cost; `plan.json` holds it.

    Attributes:
        settings: the resolved settings.
        parameters, non_embedding_parameters: of the model.
        train_tokens: tokens that pretraining will see, repetitions included.
        corpus_tokens: estimated tokens of the training text.
        epochs: passes over it.
        flops: operations of pretraining and tuning together.
        predicted: seconds by stage, their sum and the peak memory.
        execution: the execution plan that the probe settled.
        tokens_per_s: measured by the probe.
        budget_s: what the user asked for, or none.
    """

    settings: dict[str, Any]
    parameters: int
    non_embedding_parameters: int
    train_tokens: int
    corpus_tokens: int
    epochs: float
    flops: int
    predicted: dict[str, Any]
    execution: dict[str, Any]
    tokens_per_s: float
    budget_s: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    settings: SpeedrunSettings, train_bytes: int, *, budget_s: float | None = None, probe: ProbeResult | None = None
) -> Plan:
    """Predict what `settings` will take on this machine.

    Args:
        train_bytes: text of the training split.
        probe: an earlier measurement of the same shape; measured now where not given.
    """
    config = shape_config(settings)
    if probe is None:
        probe = measure(settings)
    pretrain, sft = settings.pretrain, settings.sft
    update_tokens = pretrain.batch_size * pretrain.context
    train_tokens = pretrain.num_steps * update_tokens
    corpus_tokens = int(train_bytes / (1.0 if settings.tokenizer.kind == "char" else BYTES_PER_TOKEN))
    counts = count_parameters(config)
    sft_tokens = sft.num_steps * sft.batch_size * AVERAGE_CONVERSATION_TOKENS
    per_token = flops_per_token(config, pretrain.context)
    megabytes = train_bytes / 1e6
    forward_s = 1 / (3 * probe.items_per_s)
    evaluations = pretrain.num_steps / max(1, pretrain.evaluate_every)
    stages = {
        "corpus": CORPUS_S_PER_MB * megabytes,
        "tokenizer": TOKENIZER_S_PER_MB * megabytes,
        "pretrain": pretrain.num_steps * probe.update_seconds(update_tokens)
        + evaluations * min(60_000, 0.05 * corpus_tokens) * forward_s,
        "sft": sft.num_steps * probe.update_seconds(sft.batch_size * AVERAGE_CONVERSATION_TOKENS) * 1.15,
        "eval": _evaluation_seconds(settings, megabytes, forward_s),
        "report": REPORT_S,
    }
    rows = probe.plan.micro_batch
    memory = INTERPRETER_BYTES + training_memory_bytes(config, rows, pretrain.context, probe.plan.precision)
    return Plan(
        settings=settings.to_dict(),
        parameters=counts.total,
        non_embedding_parameters=counts.non_embedding,
        train_tokens=train_tokens,
        corpus_tokens=corpus_tokens,
        epochs=train_tokens * (1 - pretrain.chat_share) / max(1, corpus_tokens),
        flops=3 * per_token * (train_tokens + sft_tokens),
        predicted={"stages": stages, "total_s": sum(stages.values()), "peak_bytes": int(memory)},
        execution=probe.plan.to_dict(),
        tokens_per_s=probe.items_per_s,
        budget_s=budget_s,
    )


def measure(settings: SpeedrunSettings) -> ProbeResult:
    """Probe the speed of the settings' model on random tokens."""
    return probe_plan(
        build(shape_config(settings)),
        settings.execution,
        rows=settings.pretrain.batch_size,
        context=settings.pretrain.context,
    )


def fit_to_budget(budget_s: float, train_bytes: int, overrides: dict[str, Any]) -> tuple[SpeedrunSettings, ProbeResult]:
    """Choose depth and steps so that the whole run takes about `budget_s` seconds.

    The deepest model is taken whose own number of steps (`settings_for`) fits; when not even the smallest fits, it
    is trained for fewer steps. A depth or number of steps among the overrides stays as it is.

    Raises:
        UsageError: when the budget does not even cover what happens around the training.
    """
    depths = (overrides["depth"],) if "depth" in overrides else DEPTHS
    chosen: tuple[SpeedrunSettings, ProbeResult] | None = None
    for depth in depths:
        settings = settings_for(depth, train_bytes, overrides)
        probe = measure(settings)
        plan = make_plan(settings, train_bytes, probe=probe)
        fits = plan.predicted["stages"]["pretrain"] <= PRETRAIN_SHARE_OF_BUDGET * budget_s
        if chosen is None or fits:
            chosen = settings, probe
        if not fits:
            break
    assert chosen is not None
    settings, probe = chosen
    plan = make_plan(settings, train_bytes, probe=probe)
    around = sum(s for name, s in plan.predicted["stages"].items() if name not in ("pretrain", "sft"))
    left = budget_s - around
    if left < 0.2 * budget_s:
        raise UsageError(
            f"a budget of {console.format_seconds(budget_s)} is too short: reading, tokenising, evaluating and "
            f"reporting alone take about {console.format_seconds(around)} here. "
            f"Use --budget {math.ceil(around / 30)}m or more"
        )
    share = SFT_SHARE_OF_BUDGET / (SFT_SHARE_OF_BUDGET + PRETRAIN_SHARE_OF_BUDGET)
    scaled = json.loads(json.dumps(overrides))
    scaled["depth"] = settings.depth
    for stage, seconds in (("sft", share * left), ("pretrain", (1 - share) * left)):
        table = scaled.setdefault(stage, {})
        if "num_steps" not in table:
            steps = getattr(settings, stage).num_steps
            fitting = int(steps * seconds / plan.predicted["stages"][stage])
            table["num_steps"] = max(50, min(steps, fitting))
    return settings_for(settings.depth, train_bytes, scaled), probe


def _evaluation_seconds(settings: SpeedrunSettings, megabytes: float, forward_s: float) -> float:
    held_out = megabytes * 1e6 / BYTES_PER_TOKEN * settings.corpus.test_fraction
    windows = settings.model.max_position_embeddings / settings.evaluation.stride
    questions = 2 * SCORED_KINDS * settings.evaluation.questions_per_kind
    # Answers are made token by token, which costs about ten times a token of a long pass.
    answering = questions * (AVERAGE_CONVERSATION_TOKENS + 10 * ANSWER_TOKENS) * forward_s
    return held_out * windows * forward_s + answering + 4.0 * megabytes


def show_plan(plan: Plan) -> None:
    """Print the plan before anything long begins."""
    settings, stages = plan.settings, plan.predicted["stages"]
    model, pretrain, execution = settings["model"], settings["pretrain"], plan.execution
    console.heading("Plan")
    shape = f"{model['preset']}, {model['num_hidden_layers']} layers, {model['hidden_size']} wide"
    rows = [
        ["model", f"{shape}, {console.format_count(plan.parameters)} parameters"],
        [
            "pretraining",
            f"{pretrain['num_steps']:,} steps, {console.format_count(plan.train_tokens)} tokens, "
            f"{plan.epochs:.1f} passes over the text",
        ],
        ["tuning", f"{settings['sft']['num_steps']:,} steps of {settings['sft']['batch_size']} conversations"],
        ["operations", f"{console.format_count(plan.flops)}FLOP"],
        [
            "execution",
            f"{execution['device']}, {execution['precision']}, {execution['threads']} threads, "
            f"{console.format_count(plan.tokens_per_s)} tokens/s measured",
        ],
        ["predicted time", console.format_seconds(plan.predicted["total_s"])],
        ["", ", ".join(f"{name} {console.format_seconds(seconds)}" for name, seconds in stages.items())],
        ["predicted memory", console.format_bytes(plan.predicted["peak_bytes"])],
    ]
    console.facts(rows)


def parse_duration(text: str) -> float:
    """`90`, `90s`, `5m`, `1.5h` as seconds.

    Raises:
        UsageError: when it is none of these, or not positive.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    unit = units.get(text[-1:], 1.0)
    number = text[:-1] if text[-1:] in units else text
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--budget {text!r} is no duration: write for example 90s, 5m or 1.5h")
    return seconds
