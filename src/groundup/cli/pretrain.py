"""`groundup pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.recipes.settings import ExecutionSettings, ModelSettings, PretrainSettings


@with_settings(
    {"model": ModelSettings, "train": PretrainSettings, "execution": ExecutionSettings}, dialled=("model", "train")
)
def run(
    corpus: Annotated[Path, Parameter(help="a corpus folder (groundup corpus)")],
    *,
    tokenizer: Annotated[Path, Parameter(help="a tokenizer folder (groundup tokenizer train)")],
    out: Annotated[Path, Parameter(help="the model directory to write")] = Path("base"),
    depth: Annotated[int, Parameter(help="the one dial: layers; the rest follows")] = 4,
    init_from: Annotated[Path | None, Parameter(help="go on from this model directory", show_default=False)] = None,
    seed: Annotated[int, Parameter(help="of weights and data order")] = 0,
    replan: Annotated[bool, Parameter(help="make a new execution plan although one is recorded", negative="")] = False,
    trust_code: Annotated[
        bool, Parameter(help="run the Python files of parts of kind file (read them first)", negative="")
    ] = False,
    find_lr: Annotated[
        bool, Parameter(help="look for a learning rate with a short test of these settings, and end", negative="")
    ] = False,
    overrides: dict[str, Any],
) -> None:
    """Train a model on a corpus. Checkpoints lie beside OUT in OUT.work; the same command resumes from them."""
    if find_lr:
        from groundup.recipes.find_rate import find_learning_rate

        find_learning_rate(
            corpus,
            tokenizer,
            out,
            depth=depth,
            init_from=init_from,
            seed=seed,
            trust_code=trust_code,
            overrides=overrides,
        )
        return
    from groundup.recipes.stages import pretrain_stage

    pretrain_stage(
        corpus,
        tokenizer,
        out,
        depth=depth,
        init_from=init_from,
        seed=seed,
        replan=replan,
        trust_code=trust_code,
        overrides=overrides,
    )
