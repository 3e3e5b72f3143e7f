"""`groundup compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def run(
    a: Annotated[Path, Parameter(help="the base: a .toml or .json file as for pretrain --config")],
    b: Annotated[Path, Parameter(help="the other idea: a file of the same form")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="folder of the comparison [default: runs/A-vs-B]")] = None,
    corpus: Annotated[str, Parameter(help="a corpus folder, or python-docs, shakespeare, or text")] = "python-docs",
    tokenizer: Annotated[Path | None, Parameter(help="a tokenizer folder [default: one is trained]")] = None,
    seeds: Annotated[int, Parameter(help="runs of each, paired by seed")] = 3,
    seed: Annotated[int, Parameter(help="the first seed")] = 0,
    match: Annotated[
        Literal["tokens", "flops", "time", "parameters"],
        Parameter(help="what is equal: trained tokens, operations, seconds of updates, or parameters and tokens"),
    ] = "tokens",
    budget: Annotated[
        str | None,
        Parameter(help="time of all runs: 90s, 5m, 2h [default: A's train.num_steps, or 6m]"),
    ] = None,
    depth: Annotated[int, Parameter(help="the one dial: layers; the rest follows, where the files say nothing")] = 4,
    trust_code: Annotated[
        bool, Parameter(help="run the Python files of parts of kind file (read them first)", negative="")
    ] = False,
    replan: Annotated[bool, Parameter(help="make a new execution plan although one is recorded", negative="")] = False,
) -> None:
    """Train two ideas with an equal budget and the same seeds, and say whether they can be told apart.

    Leaves OUT/comparison.json and OUT/comparison.html. Ctrl-C saves; the same command goes on from where it stopped.
    """
    from groundup.recipes.comparison import Request, compare
    from groundup.recipes.plan import parse_duration

    names = [a.stem, b.stem] if a.stem != b.stem else ["A", "B"]
    compare(
        (a, b),
        Request(
            out=out or Path("runs") / f"{names[0]}-vs-{names[1]}",
            corpus=corpus,
            tokenizer=tokenizer,
            num_seeds=seeds,
            first_seed=seed,
            match=match,
            budget_s=None if budget is None else parse_duration(budget),
            depth=depth,
            trust_code=trust_code,
            replan=replan,
        ),
    )
