"""`groundup speedrun`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import (
    CorpusSettings,
    EvaluationSettings,
    ExecutionSettings,
    ModelSettings,
    PretrainSettings,
    SftSettings,
    TokenizerSettings,
)


@with_settings(
    {
        "corpus": CorpusSettings,
        "tokenizer": TokenizerSettings,
        "model": ModelSettings,
        "pretrain": PretrainSettings,
        "sft": SftSettings,
        "execution": ExecutionSettings,
        "evaluation": EvaluationSettings,
    },
    dialled=("tokenizer", "model", "pretrain", "sft"),
    computed={"evaluation.context": "that of a training window"},
    also=("depth", "seed"),
)
def run(
    source: Annotated[str | None, Parameter(help="python-docs, shakespeare, or a file or folder of your text")] = None,
    *,
    name: Annotated[str | None, Parameter(help="name of the run [default: from the source]")] = None,
    depth: Annotated[int | None, Parameter(help="the one dial: layers; the rest follows [default: 4]")] = None,
    budget: Annotated[str | None, Parameter(help="choose depth and steps to take about so long: 90s, 5m, 2h")] = None,
    seed: Annotated[int | None, Parameter(help="of everything random [default: 0]")] = None,
    runs: Annotated[Path, Parameter(help="folder of the runs")] = Path("runs"),
    replan: Annotated[bool, Parameter(help="make a new plan although one is recorded", negative="")] = False,
    overrides: dict[str, Any],
) -> None:
    """Text in, a chat model out: corpus, tokenizer, pretraining, tuning, evaluation and a report.

    Leaves RUNS/NAME/base and RUNS/NAME/chat (model directories), metrics.jsonl and report.html. Ctrl-C saves; the
    same command goes on from where it stopped, and a finished stage is not repeated unless its inputs changed.
    """
    from groundup.core.config import merge
    from groundup.core.errors import UsageError
    from groundup.recipes.plan import parse_duration
    from groundup.recipes.speedrun import speedrun

    given: dict[str, Any] = {}
    if source is not None:
        given["corpus"] = {"source": source}
    if depth is not None:
        given["depth"] = depth
    if seed is not None:
        given["seed"] = seed
    merged = merge(overrides, given)
    used = merged.get("corpus", {}).get("source", "python-docs")
    name = name or re.sub(r"[^\w.-]+", "-", Path(used).expanduser().resolve().name)[:80].strip("-.") or "run"
    if name in (".", "..") or re.search(r"[/\\]", name):
        raise UsageError(
            f"--name {name!r} is no name of a folder: use letters, digits, - and _, and --runs for a place"
        )
    folder = runs / name
    speedrun(merged, run=folder, budget_s=None if budget is None else parse_duration(budget), replan=replan)
