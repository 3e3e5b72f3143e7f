"""`groundup sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import ExecutionSettings, SftSettings


@with_settings(
    {"train": SftSettings, "execution": ExecutionSettings},
    computed={
        "train.num_steps": "two passes over the conversations",
        "train.learning_rate": "2e-4 for 135M parameters, more for smaller models, at most 1e-3",
        "train.max_length": "the longest there is, at most 1,024",
        "train.warmup_steps": "a twentieth of the steps, at most 50",
        "train.evaluate_every": "a fifth of the steps",
        "train.checkpoint_every": "a quarter of the steps, at most 250",
    },
)
def run(
    model: Annotated[str, Parameter(help="the model to tune: directory, .gguf file, name (smollm2-135m) or hub id")],
    data: Annotated[
        Path,
        Parameter(help="conversations (.jsonl or .json: messages, prompt/completion or Alpaca), or a corpus folder"),
    ],
    *,
    out: Annotated[Path, Parameter(help="the model directory to write")] = Path("chat"),
    preview: Annotated[
        int, Parameter(help="show so many conversations, trained tokens and stop token coloured, and end")
    ] = 0,
    seed: Annotated[int, Parameter(help="of the data order and of the held-out part")] = 0,
    replan: Annotated[bool, Parameter(help="make a new execution plan although one is recorded", negative="")] = False,
    overrides: dict[str, Any],
) -> None:
    """Tune a model on conversations; the loss is on the assistant's words only.

    Says first what it will take, and writes OUT.work/report.html: held-out loss and ten answers, before and after.
    Checkpoints lie in OUT.work too; the same command resumes from them. A twentieth of the conversations is held out.
    """
    from groundup.recipes.stages import preview_stage, sft_stage

    if preview:
        preview_stage(model, data, count=preview)
        return
    sft_stage(model, data, out, seed=seed, replan=replan, overrides=overrides)
