"""The plan before the run: parameters, tokens, operations, time and memory, predicted from a short probe."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from groundup.core import console
from groundup.core.errors import UsageError
from groundup.core.execution import ExecutionPlan
from groundup.model.counts import count_parameters, flops_per_token, training_memory_bytes
from groundup.model.transformer import build
from groundup.recipes.dial import BYTES_PER_TOKEN, MAX_EPOCHS, approximate_parameters, settings_for
from groundup.recipes.settings import SpeedrunSettings
from groundup.recipes.training import LONGEST_CONVERSATION, probe_plan, shape_config, tuning_rows
from groundup.train.probe import COMPILE_FROM_S, ProbeResult, describe

# What the process holds beside the tensors, measured (docs/experiments.md): Python, torch, its libraries and the
# kernels they prepare; tuning prepares more of them, since its batches have many shapes, and holds the conversations.
INTERPRETER_BYTES = 700e6
TUNING_BYTES = 350e6
# Text lies in memory as documents, as ids and as counts of the n-grams while the baselines are measured.
BYTES_PER_TEXT_BYTE = 40
# Seconds a megabyte of text and seconds a scored question take on the reference machine; the parts of the run that
# do not scale with the probe. Measured, docs/experiments.md.
CORPUS_S_PER_MB = 6.0
TOKENIZER_S_PER_MB = 3.0
BASELINES_S_PER_MB = 6.0
SCORED_KINDS = 8
ANSWER_TOKENS = 24
REPORT_S = 1.0
DEPTHS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
# Of the time for training, the part that tuning takes at most.
SFT_SHARE = 0.3
# A deeper model is chosen when it can have so much of the dial's own number of steps; a chosen model may be trained for
# up to so many times that number, or of the dial's passes over the text where its steps make fewer. A step from one
# depth to the next costs about twice.
ENOUGH_STEPS, STRETCH = 0.8, 1.5
MIN_STEPS = 50
# Parameters for each token of the text beyond which a budget buys no larger model: what it would add is memory of the
# text itself. The default run has 4; Muennighoff et al. 2023, arXiv:2305.16264, section 5, find the value of parameters
# beyond what the text supports to fall off exponentially, as that of repetitions does.
PARAMETERS_PER_TOKEN = 16
# In runs of over an hour: time between checkpoints, which is what a power cut costs, and between evaluations.
LONG_RUN_S, CHECKPOINT_S, EVALUATE_S = 3_600.0, 300.0, 900.0
# Of the budget: below it the plan says why it asks for less.
MOST_OF_BUDGET = 0.7
# Tokens of a conversation on average (measured): python-docs asks about short signatures too, other text about passages.
CONVERSATION_TOKENS = {"python-docs": 96}
PROSE_CONVERSATION_TOKENS = 190


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
    corpus_tokens = _corpus_tokens(settings, train_bytes)
    counts = count_parameters(config)
    conversation_tokens = CONVERSATION_TOKENS.get(settings.corpus.source, PROSE_CONVERSATION_TOKENS)
    sft_tokens = sft.num_steps * sft.batch_size * conversation_tokens
    per_token = flops_per_token(config, pretrain.context)
    megabytes = train_bytes / 1e6
    # Without a backward pass a third of the time; but measuring is done in float32, which costs twice bfloat16.
    forward_s = 1 / ((1.5 if probe.plan.precision == "bfloat16" else 3.0) * probe.items_per_s)
    evaluations = pretrain.num_steps / max(1, pretrain.evaluate_every)
    stages = {
        "corpus": CORPUS_S_PER_MB * megabytes,
        "tokenizer": TOKENIZER_S_PER_MB * megabytes,
        "pretrain": pretrain.num_steps * probe.update_seconds(update_tokens)
        + evaluations * min(60_000, 0.05 * corpus_tokens) * forward_s,
        "sft": sft.num_steps * probe.update_seconds(sft.batch_size * conversation_tokens) * 1.15,
        "eval": _evaluation_seconds(settings, megabytes, forward_s, conversation_tokens),
        "report": REPORT_S,
    }
    rows, precision = probe.plan.micro_batch, probe.plan.precision
    longest = min(sft.max_length or LONGEST_CONVERSATION, settings.model.max_position_embeddings)
    tuned = settings.execution.micro_batch or tuning_rows(sft, probe.plan.device, longest)
    memory = INTERPRETER_BYTES + max(
        training_memory_bytes(
            config, rows, pretrain.context, precision, stores_pattern=probe.plan.attention == "stored"
        ),
        TUNING_BYTES + training_memory_bytes(config, tuned, longest, precision),
        BYTES_PER_TEXT_BYTE * train_bytes,
    )
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


def measure(settings: SpeedrunSettings, *, may_compile: bool = True) -> ProbeResult:
    """Probe the speed of the settings' model on random tokens."""
    return probe_plan(
        build(shape_config(settings)),
        settings.execution,
        settings.pretrain.train_config(),
        rows=settings.pretrain.batch_size,
        context=settings.pretrain.context,
        may_compile=may_compile,
    )


def fit_to_budget(budget_s: float, train_bytes: int, overrides: dict[str, Any]) -> tuple[SpeedrunSettings, ProbeResult]:
    """Choose depth and steps so that the whole run takes about `budget_s` seconds.

    The deepest model is taken that can have most of the steps that `settings_for` gives it and that the text is enough
    for; the steps then fill the budget, up to STRETCH times the dial's own passes. When not even the smallest fits, it is
    trained for fewer steps. A depth or number of steps among the overrides stays as it is.

    Raises:
        UsageError: when the budget does not even cover what happens around the training.
    """
    depths = (overrides["depth"],) if "depth" in overrides else DEPTHS
    chosen: tuple[SpeedrunSettings, ProbeResult, dict[str, float]] | None = None
    for depth in depths:
        settings = settings_for(depth, train_bytes, overrides)
        if chosen is not None and _is_too_large_for(settings, train_bytes):
            break
        probe = measure(settings, may_compile=False)
        try:
            factors = _step_factors(budget_s, settings, train_bytes, probe, overrides)
        except UsageError:
            if chosen is None:
                raise
            break
        fits = factors["pretrain"] >= ENOUGH_STEPS
        if chosen is None or fits:
            chosen = settings, probe, factors
        if not fits:
            break
    assert chosen is not None
    settings, probe, factors = chosen
    # Only the chosen depth is compiled to see what it gains.
    compiled = measure(settings) if budget_s > COMPILE_FROM_S else probe
    if compiled.plan.compile:
        probe, factors = compiled, _step_factors(budget_s, settings, train_bytes, compiled, overrides)
    scaled = json.loads(json.dumps(overrides))
    scaled["depth"] = settings.depth
    for stage, limit in (("pretrain", _stretch(settings, train_bytes)), ("sft", 1.0)):
        steps = getattr(settings, stage).num_steps
        scaled.setdefault(stage, {}).setdefault("num_steps", max(MIN_STEPS, int(steps * min(limit, factors[stage]))))
    _keep_watch(scaled, settings, probe)
    return settings_for(settings.depth, train_bytes, scaled), probe


def _stretch(settings: SpeedrunSettings, train_bytes: int) -> float:
    """By how much the dial's steps may be exceeded: STRETCH times its passes, however few its own steps make."""
    pretrain = settings.pretrain
    seen = pretrain.num_steps * pretrain.batch_size * pretrain.context * (1 - pretrain.chat_share)
    return max(STRETCH, STRETCH * MAX_EPOCHS * _corpus_tokens(settings, train_bytes) / seen)


def _keep_watch(overrides: dict[str, Any], settings: SpeedrunSettings, probe: ProbeResult) -> None:
    """In a long run, checkpoints and evaluations by the clock: counted in updates they would be far apart."""
    update_s = probe.update_seconds(settings.pretrain.batch_size * settings.pretrain.context)
    pretrain, steps = overrides["pretrain"], overrides["pretrain"]["num_steps"]
    for name, every_s in (("checkpoint_every", CHECKPOINT_S), ("evaluate_every", EVALUATE_S)):
        if name not in pretrain and steps * update_s > LONG_RUN_S:
            pretrain[name] = max(1, int(every_s / update_s))


def _corpus_tokens(settings: SpeedrunSettings, train_bytes: int) -> int:
    return int(train_bytes / (1.0 if settings.tokenizer.kind == "char" else BYTES_PER_TOKEN))


def _is_too_large_for(settings: SpeedrunSettings, train_bytes: int) -> bool:
    parameters = approximate_parameters(settings.model.to_dict(), settings.tokenizer.vocab_size)
    return parameters > PARAMETERS_PER_TOKEN * _corpus_tokens(settings, train_bytes)


def _step_factors(
    budget_s: float, settings: SpeedrunSettings, train_bytes: int, probe: ProbeResult, overrides: dict[str, Any]
) -> dict[str, float]:
    """By which factor the steps of pretraining and of tuning must change so that the whole run fills the budget."""
    stages = make_plan(settings, train_bytes, probe=probe).predicted["stages"]
    given = {stage: "num_steps" in overrides.get(stage, {}) for stage in ("pretrain", "sft")}
    steps_s = settings.pretrain.num_steps * probe.update_seconds(
        settings.pretrain.batch_size * settings.pretrain.context
    )
    # Evaluations take the same time whatever the number of steps.
    around = sum(stages.values()) - stages["sft"] - steps_s
    least = around + sum(
        taken if given[stage] else taken * MIN_STEPS / getattr(settings, stage).num_steps
        for stage, taken in (("pretrain", steps_s), ("sft", stages["sft"]))
    )
    least = max(least, around / 0.8)
    if budget_s < least:
        raise UsageError(
            f"a budget of {console.format_seconds(budget_s)} is too short: reading, tokenising, evaluating and "
            f"reporting alone take about {console.format_seconds(around)} here. "
            f"Use --budget {math.ceil(least / 60) + 1}m or more"
        )
    left = budget_s - around
    smallest_s = stages["sft"] * MIN_STEPS / settings.sft.num_steps
    if given["pretrain"]:
        tuning_s = stages["sft"] if given["sft"] else ENOUGH_STEPS * stages["sft"]
        # The factor only tells whether this depth fits; the steps stay those that were given.
        return {"pretrain": (left - tuning_s) / steps_s, "sft": max(smallest_s, left - steps_s) / stages["sft"]}
    sft_s = stages["sft"] if given["sft"] else min(stages["sft"], max(smallest_s, SFT_SHARE * left))
    return {"pretrain": (left - sft_s) / steps_s, "sft": sft_s / stages["sft"]}


def _evaluation_seconds(
    settings: SpeedrunSettings, megabytes: float, forward_s: float, conversation_tokens: int
) -> float:
    held_out = megabytes * 1e6 / BYTES_PER_TOKEN * settings.corpus.test_fraction
    context = settings.evaluation.context or settings.model.max_position_embeddings
    windows = max(1.0, context / settings.evaluation.stride)
    questions = 2 * SCORED_KINDS * settings.evaluation.questions_per_kind
    # Answers are made token by token, which costs about ten times a token of a long pass.
    answering = questions * (conversation_tokens + 10 * ANSWER_TOKENS) * forward_s
    return held_out * windows * forward_s + answering + BASELINES_S_PER_MB * megabytes


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
            f"{execution['device']}, {execution['threads']} threads, {describe(ExecutionPlan(**execution))}, "
            f"{console.format_count(plan.tokens_per_s)} tokens/s measured",
        ],
        ["predicted time", console.format_seconds(plan.predicted["total_s"])],
        ["", ", ".join(f"{name} {console.format_seconds(seconds)}" for name, seconds in stages.items())],
        ["predicted memory", console.format_bytes(plan.predicted["peak_bytes"])],
    ]
    console.facts(rows)
    if plan.budget_s is not None and plan.predicted["total_s"] < MOST_OF_BUDGET * plan.budget_s:
        console.say(
            f"This uses {console.format_seconds(plan.predicted['total_s'])} of the {console.format_seconds(plan.budget_s)}: "
            f"{console.format_count(plan.corpus_tokens)} tokens of text are not enough for a larger model or more passes. "
            "With more text (a folder of files) the same budget buys a larger model."
        )


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
