"""`groundup doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    run: Annotated[Path, Parameter(help="the folder of a run (runs/NAME), or the --out of pretrain or sft")],
    *,
    json: Annotated[bool, Parameter(help="as JSON, for a program", negative="")] = False,
) -> None:
    """Say what is wrong with a training run, with the evidence and the fix.

    Reads metrics.jsonl, which a run fills while it goes on (also what is measured inside of the model), and the run's
    checkpoints, shards and model. Exit code 0 without a serious finding, 1 with one, 2 where RUN is no run.
    """
    import sys

    from groundup.recipes.doctor import doctor

    if doctor(run, as_json=json):
        sys.exit(1)
