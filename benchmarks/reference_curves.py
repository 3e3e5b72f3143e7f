"""The held-out curves of the shipped recipes, which `groundup doctor` lays runs of the same recipe beside.

python -m benchmarks.reference_curves NAME [--seeds 0,1,2]   writes src/groundup/recipes/reference_curves/NAME.json
python -m benchmarks.reference_curves NAME --runs RUN ...    the same from speedruns of that recipe that have ended

NAME is one of `RECIPES`. Corpora, tokenizers and checkpoints lie in runs/reference; the same command goes on from where
it was stopped, and a finished seed is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from groundup import __version__
from groundup.core import console
from groundup.core.config import merge
from groundup.core.errors import UsageError
from groundup.core.execution import keep_freed_memory, machine_fingerprint
from groundup.core.files import write_json
from groundup.core.interrupt import stop_on_signal
from groundup.core.metrics import JsonlSink, read_jsonl
from groundup.data.corpus import read_corpus
from groundup.recipes import reference
from groundup.recipes.corpus import make_corpus, make_shards, make_tokenizer
from groundup.recipes.data_checks import recorded_state
from groundup.recipes.dial import settings_for
from groundup.recipes.reference import Reference, settings_of
from groundup.recipes.settings import CorpusSettings
from groundup.recipes.training import TrainingRun, pretrain
from groundup.tokenizer import load_tokenizer
from groundup.train.health.history import History
from groundup.train.resume import differences

CURVES = Path(reference.__file__).parent / "reference_curves"
#: Recipe -> the command that runs it, and its settings where they differ from those of the dial.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "python-docs": ("groundup speedrun", {}),
    "shakespeare": ("groundup speedrun shakespeare", {"corpus": {"source": "shakespeare"}}),
    "python-docs-small": (
        "groundup speedrun --depth 2 --pretrain.num-steps 200 --pretrain.evaluate-every 25",
        {"depth": 2, "pretrain": {"num_steps": 200, "evaluate_every": 25}},
    ),
}
#: Evaluations of a run, at least: the points of its curve.
POINTS = 16


def curve_of(data: Path, folder: Path, overrides: dict[str, Any], seed: int) -> tuple[History, dict[str, Any]]:
    """Pretrain as a speedrun does, or go on with it; returns its history and the state of its last checkpoint.

    Args:
        data: corpus, tokenizer and shards, made where they are missing; a speedrun's of seed 0 for every seed.
        folder: of this seed.
    """
    source = CorpusSettings(**overrides.get("corpus", {}))
    if not (data / "corpus" / "corpus.json").is_file():
        make_corpus(source, data / "corpus", seed=0)
    corpus = read_corpus(data / "corpus")
    settings = settings_for(overrides.get("depth", 4), corpus.num_bytes("train"), {**overrides, "seed": seed})
    every = max(1, min(settings.pretrain.evaluate_every, settings.pretrain.num_steps // POINTS))
    settings = settings.replace(pretrain=settings.pretrain.replace(evaluate_every=every))
    if not (data / "ready.json").is_file():
        longest = settings.model.max_position_embeddings
        tokenizer = make_tokenizer(corpus, settings.tokenizer, data / "tokenizer", max_length=longest)
        make_shards(corpus, tokenizer, data / "shards", chat=settings.pretrain.chat_share > 0, seed=0)
        write_json(data / "ready.json", {})
    work = folder / "pretrain"
    with stop_on_signal() as stop:
        pretrain(
            data / "shards",
            load_tokenizer(data / "tokenizer"),
            settings.model,
            settings.pretrain,
            settings.execution,
            TrainingRun(work, JsonlSink(work / "metrics.jsonl"), stop),
            folder / "base",
            seed=seed,
            lineage={"recipe": "reference curve", "source": source.source},
        )
    return History("pretrain", read_jsonl(work / "metrics.jsonl")), recorded_state(work)


def finished(run: Path) -> tuple[History, dict[str, Any]]:
    """The history of the pretraining of a speedrun, and the state of its last checkpoint."""
    return History("pretrain", read_jsonl(run / "metrics.jsonl")), recorded_state(run / "pretrain")


def make_reference(name: str, curves: dict[str, Callable[[], tuple[History, dict[str, Any]]]]) -> Reference:
    """Join the curves of a recipe.

    Args:
        name: of the recipe.
        curves: label of a run -> what runs it or reads it.

    Raises:
        UsageError: where two of them differ in what decides the curve.
    """
    command = RECIPES[name][0]
    values, tokens = list[list[float]](), list[int]()
    settings = dict[str, Any]()
    for label, curve in curves.items():
        history, state = curve()
        if settings and settings != settings_of(state):
            raise UsageError(f"{label} is of another recipe: {'; '.join(differences(settings, settings_of(state)))}")
        trained = dict(zip(history.steps.tolist(), history.tokens.tolist(), strict=True))
        steps, held_out = history.watched()
        settings = settings_of(state)
        tokens = [round(trained[step]) for step in steps.tolist()]
        values.append([round(float(value), 4) for value in held_out])
        console.say(f"{name}, {label}: {values[-1][-1]:.4f} bits per byte after {tokens[-1]:,} tokens")
    made = {"date": time.strftime("%Y-%m-%d"), "version": __version__, "machine": machine_fingerprint()}
    return Reference(name, command, settings, tokens, values, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("runs/reference"))
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of speedruns, instead of training")
    given = parser.parse_args()
    keep_freed_memory()
    name, folder, overrides = given.name, given.folder, RECIPES[given.name][1]
    curves: dict[str, Callable[[], tuple[History, dict[str, Any]]]] = {
        str(run): partial(finished, run) for run in given.runs
    } or {
        f"seed {seed}": partial(curve_of, folder / name, folder / f"{name}-{seed}", merge(overrides, {}), int(seed))
        for seed in given.seeds.split(",")
    }
    made = make_reference(name, curves)
    path = CURVES / f"{given.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    console.say(f"wrote {path}")


if __name__ == "__main__":
    main()
