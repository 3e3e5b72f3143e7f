"""One run of a comparison: trained, measured on the test split, and finished once and for all."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.core import console
from groundup.core.files import read_json, sha256_json, write_json
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import JsonlSink, read_jsonl
from groundup.core.seeds import random_for
from groundup.data.corpus import Corpus
from groundup.data.document import Document
from groundup.evaluate.language import bits_per_byte
from groundup.model.load import load_model
from groundup.recipes.comparison.budget import Side
from groundup.recipes.evaluation import unknown_bits
from groundup.recipes.speedrun import remove_folder
from groundup.recipes.training import TrainingRun, pretrain
from groundup.tokenizer.base import Tokenizer

#: Held-out text that is read, at most: more makes the interval over texts narrower than that over a few seeds.
MAX_TEST_BYTES = 400_000
METRICS, RESULT = "metrics.jsonl", "result.json"


@dataclass(frozen=True)
class Bench:
    """What all runs have in common.

    Attributes:
        out: the comparison's folder.
        corpus: the text.
        test: the held-out documents that are measured, those of a group in a row.
        trust_code: allow parts of kind `file`.
        stop: asks for a checkpoint and an end.
        replan: go on under another execution plan than the recorded one.
    """

    out: Path
    corpus: Corpus
    test: Sequence[Document]
    trust_code: bool
    stop: StopRequest
    replan: bool = False

    def folder(self, side: Side, seed: int) -> Path:
        return self.out / "runs" / f"{side.key}-seed{seed}"


def held_out_documents(corpus: Corpus, seed: int) -> list[Document]:
    """The test split, or so many whole groups of it, in a random order, as `MAX_TEST_BYTES` hold (at least two)."""
    documents = list(corpus.documents("test"))
    if sum(document.num_bytes for document in documents) <= MAX_TEST_BYTES:
        return documents
    by_group: dict[str, list[Document]] = {}
    for document in documents:
        by_group.setdefault(document.group, []).append(document)
    names = sorted(by_group)
    random_for(seed, "compare", "test").shuffle(names)
    chosen: list[Document] = []
    for index, name in enumerate(names):
        if index >= 2 and sum(document.num_bytes for document in chosen) >= MAX_TEST_BYTES:
            break
        chosen += by_group[name]
    return chosen


def finished(bench: Bench, side: Side, seed: int) -> dict[str, Any] | None:
    """The result of a run that was finished with these settings, or None."""
    path = bench.folder(side, seed) / RESULT
    result = read_json(path) if path.is_file() else {}
    return dict(result) if result.get("inputs") == _inputs(side, seed) else None


def _inputs(side: Side, seed: int) -> str:
    return sha256_json({"settings": side.settings.pretrain.to_dict(), "model": side.config.to_dict(), "seed": seed})


def run_one(bench: Bench, side: Side, seed: int, shards: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Train and measure, from the newest checkpoint where there is one; the checkpoints are removed at the end.

    Raises:
        Interrupted: after a checkpoint.
    """
    done = finished(bench, side, seed)
    if done is not None:
        return done
    folder = bench.folder(side, seed)
    marker, inputs = folder / "inputs.json", _inputs(side, seed)
    if folder.exists() and (not marker.is_file() or read_json(marker) != inputs):
        remove_folder(folder)  # another number of updates, before the budgets were made equal
    write_json(marker, inputs)
    train = side.settings.pretrain
    trained = pretrain(
        shards,
        tokenizer,
        side.settings.model,
        train,
        side.settings.execution,
        TrainingRun(folder, JsonlSink(folder / METRICS), bench.stop, bench.replan),
        folder / "model",
        seed=seed,
        lineage={"recipe": f"compare: {side.idea.name}", "source": bench.corpus.manifest.get("sources")},
        trust_code=bench.trust_code,
    )
    bench.stop.check("stopped before the test split was read: the same command goes on from there")
    with bench.stop.at_once("stopped while the test split was read: the same command goes on from there"):
        bits = _measure(bench, side, folder / "model", tokenizer)
    rows = read_jsonl(folder / METRICS)
    result = {
        "inputs": inputs,
        "seed": seed,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "seconds": update_seconds(rows),
        "skipped": trained.skipped,
        "ended": trained.ended,
        "best_step": trained.best_step,
        "validation_bits_per_byte": trained.best_value,
        "bits": bits,
    }
    write_json(folder / RESULT, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def _measure(bench: Bench, side: Side, model: Path, tokenizer: Tokenizer) -> list[float]:
    """Bits of each group of the test documents."""
    texts, groups = [document.text for document in bench.test], [document.group for document in bench.test]
    loaded = load_model(model, device=side.settings.execution.device, trust_code=bench.trust_code)
    context = side.settings.pretrain.context
    with console.progress_if_slow("test split", "tokens") as report:
        found = bits_per_byte(
            loaded.model, tokenizer, texts, groups=groups, context=context, stride=max(1, context // 2),
            on_progress=report,
        )  # fmt: skip
    found = dataclasses.replace(found, bits=found.bits + unknown_bits(tokenizer, texts))
    return group_sums(groups, found.bits.tolist())


def group_sums(groups: Sequence[str], values: Sequence[float]) -> list[float]:
    """Sums by group, in the order of first appearance."""
    places = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    owners = np.array([places[group] for group in groups], dtype=np.int64)
    return [float(value) for value in np.bincount(owners, weights=np.asarray(values, dtype=np.float64))]


def update_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of the updates alone, without evaluations and checkpoints, over all starts of a run."""
    total, before = 0.0, 0
    for row in rows:
        if "tokens_per_s" in row and row["tokens_per_s"] > 0:
            total += (row["tokens"] - before) / row["tokens_per_s"]
            before = row["tokens"]
    return total


def curve_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Validation bits per byte with the tokens and the seconds of updates before each evaluation."""
    points: list[dict[str, float]] = []
    seconds, before = 0.0, 0
    for row in rows:
        if "tokens_per_s" in row and row["tokens_per_s"] > 0:
            seconds += (row["tokens"] - before) / row["tokens_per_s"]
            before = row["tokens"]
        value = row.get("evaluation", {}).get("bits_per_byte")
        if value is not None and math.isfinite(value):
            points.append({"tokens": before, "seconds": round(seconds, 3), "bits_per_byte": value})
    return points
