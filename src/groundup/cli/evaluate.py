"""`groundup eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import EvaluationSettings


@with_settings({"": EvaluationSettings}, computed={"context": "that of a training window"})
def run(
    model: Annotated[str, Parameter(help="the model to measure: directory, .gguf file, name or hub id")],
    *,
    corpus: Annotated[Path, Parameter(help="the corpus folder whose test split is read and asked about")],
    before: Annotated[
        str | None,
        Parameter(help="the model before tuning: its bits per byte are measured, and both answer", show_default=False),
    ] = None,
    out: Annotated[Path, Parameter(help="folder for the results")] = Path("eval"),
    seed: Annotated[int, Parameter(help="of the choice of questions and of the intervals")] = 0,
    overrides: dict[str, Any],
) -> None:
    """Measure a model: bits per byte beside honest baselines, and accuracy on held-out questions, with intervals."""
    from groundup.recipes.stages import evaluate_stage

    evaluate_stage(model, corpus, out, before=before, seed=seed, overrides=overrides)
