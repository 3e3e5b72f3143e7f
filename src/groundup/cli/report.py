"""`groundup report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(run: Annotated[Path, Parameter(help="the run's folder, such as runs/python-docs")]) -> None:
    """Write RUN/report.html, one self-contained page, from what the run measured."""
    from groundup.core import console
    from groundup.core.errors import DataError
    from groundup.recipes.report import write_report

    if not (run / "plan.json").is_file():
        raise DataError(f"{run} is not the folder of a run (plan.json is missing): name one such as runs/python-docs")
    console.say(str(write_report(run)))
