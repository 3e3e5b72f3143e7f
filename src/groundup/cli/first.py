"""`groundup first`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    lesson: Annotated[str | None, Parameter(help="name of a lesson; without one, the list")] = None,
    source: Annotated[
        str | None,
        Parameter(
            help="what to learn from: a list of words or any text, as a file, a folder or a named source [default: python-docs]"
        ),
    ] = None,
    *,
    effort: Annotated[
        float, Parameter(help="times the usual number of updates: 0.1 for a glance, 5 to train longer")
    ] = 1.0,
    seed: Annotated[int, Parameter(help="of everything random")] = 0,
    out: Annotated[
        Path | None, Parameter(help="file of the page [default: runs/first/LESSON.html]", show_default=False)
    ] = None,
) -> None:
    """Train and show one piece of what a language model stands on, from autograd to attention.

    Each takes less than two minutes, and leaves one self-contained page of plots.
    """
    from groundup.core.errors import UsageError
    from groundup.recipes.first.catalog import list_lessons

    if lesson is None:
        if out is not None:
            raise UsageError("--out is the page of a lesson: name one; groundup first  lists them")
        list_lessons()
        return
    from groundup.recipes.first.material import Pace
    from groundup.recipes.first.run import run_lesson

    run_lesson(lesson, source, pace=Pace(effort=effort, seed=seed), out=out)
