"""What came out: the difference with its interval, a verdict, and what each side cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from groundup.core.metrics import read_jsonl
from groundup.evaluate.crossed import CrossedInterval, paired_seeds_interval
from groundup.evaluate.intervals import cannot_be_told
from groundup.model.config import AttentionConfig
from groundup.model.counts import training_memory_bytes
from groundup.recipes.comparison.budget import EQUAL_WITHIN, Match, Side
from groundup.recipes.comparison.runs import METRICS, Bench, curve_of, group_sums

UNIT = "bits per byte"


def difference_of(
    results_a: Sequence[dict[str, Any]], results_b: Sequence[dict[str, Any]], num_bytes: Sequence[float]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The difference b - a with its interval, and the numbers of each seed."""
    a, b = ([result["bits"] for result in results] for results in (results_a, results_b))
    found = paired_seeds_interval(a, b, num_bytes)
    total = float(np.sum(num_bytes))
    seeds = [
        {"seed": first["seed"], "a": sum(x) / total, "b": sum(y) / total, "difference": (sum(y) - sum(x)) / total}
        for first, x, y in zip(results_a, a, b, strict=True)
    ]
    return _as_json(found), seeds


def _as_json(found: CrossedInterval) -> dict[str, Any]:
    interval = found.interval
    finite = bool(np.isfinite(interval.low))
    return {
        "unit": UNIT,
        "value": interval.value,
        "low": interval.low if finite else None,
        "high": interval.high if finite else None,
        "confidence": interval.confidence,
        "over": found.over,
        "degrees_of_freedom": round(found.degrees, 2),
        "between_seeds": found.between_seeds,
        "between_texts": found.between_texts,
        "told": finite and not cannot_be_told(interval.low, interval.high),
    }


def verdict_of(name_a: str, name_b: str, difference: dict[str, Any], num_seeds: int) -> str:
    """The result in one sentence, or two where there is one seed."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    more = ""
    if num_seeds == 1:
        more = " The interval is over texts only: another seed may give another result; use --seeds 3 or more."
    if low is None:
        return f"{name_b} cannot be told from {name_a}: one seed and one text give no interval ({value:+.4f} {UNIT})."
    if value == 0 and low == high == 0:
        return f"{name_b} cannot be told from {name_a}: there is no difference at all.{more}"
    if not difference["told"]:
        return (
            f"{name_b} cannot be told from {name_a}: the difference is {value:+.4f} {UNIT} "
            f"(95 % interval {low:+.4f} to {high:+.4f}).{more}"
        )
    smallest, largest = sorted((abs(low), abs(high)))
    side = "lower" if value < 0 else "higher"
    return (
        f"{name_b} is {side} than {name_a} by {abs(value):.4f} {UNIT} "
        f"(95 % interval {smallest:.4f} to {largest:.4f}).{more}"
    )


def costs_of(side: Side, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one side took; seconds are medians over the seeds."""
    seconds = [float(result["seconds"]) for result in results]
    tokens = int(results[0]["tokens"])
    knows_memory = all(isinstance(layer.mixer, AttentionConfig) for layer in side.config.layers())
    execution, context = side.settings.execution, side.settings.pretrain.context
    memory = None
    if knows_memory:
        precision = "float32" if execution.precision == "auto" else execution.precision
        memory = training_memory_bytes(side.config, execution.micro_batch or 1, context, precision)
    return {
        "parameters": side.sizes.parameters,
        "non_embedding_parameters": side.sizes.non_embedding,
        "flops_per_token": side.sizes.flops_per_token,
        "steps": int(results[0]["steps"]),
        "tokens": tokens,
        "flops": tokens * side.sizes.flops_per_token,
        "seconds": statistics.median(seconds),
        "seconds_of_seeds": seconds,
        "tokens_per_s": tokens / max(statistics.median(seconds), 1e-9),
        "memory_bytes": memory,
        "skipped_updates": sum(int(result["skipped"]) for result in results),
    }


def mismatch_of(match: Match, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """How far apart the used budgets are: b over a, minus 1, in each unit; and whether that is equal enough."""
    apart = {
        "tokens": b["tokens"] / a["tokens"] - 1,
        "flops": b["flops"] / a["flops"] - 1,
        "time": sum(b["seconds_of_seeds"]) / max(sum(a["seconds_of_seeds"]), 1e-9) - 1,
        "parameters": b["parameters"] / a["parameters"] - 1,
    }
    ones = ("parameters", "tokens") if match == "parameters" else (match,)
    return {**apart, "is_equal": all(abs(apart[one]) <= EQUAL_WITHIN[one] for one in ones)}


def curves_of(bench: Bench, side: Side, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The validation curve of each seed."""
    return [{"seed": seed, "points": curve_of(read_jsonl(bench.folder(side, seed) / METRICS))} for seed in seeds]


def text_bytes(bench: Bench) -> tuple[list[str], list[float]]:
    """Names and bytes of the groups that are measured."""
    groups = [document.group for document in bench.test]
    sizes = group_sums(groups, [float(document.num_bytes) for document in bench.test])
    return list(dict.fromkeys(groups)), sizes
