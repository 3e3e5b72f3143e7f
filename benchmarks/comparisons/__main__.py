"""Four comparisons of published ideas, on the embedded documentation: optimizer, block, MLP and QK-norm.

python -m benchmarks.comparisons             all; writes benchmarks/results/comparisons.json
python -m benchmarks.comparisons mlp         one; the others' results stay
python -m benchmarks.comparisons --steps 50 --seeds 1 --work /tmp/try   a try: nothing is written into the results

Each is `groundup compare` on two files beside this one. Stopped, the same command goes on from where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, machine, write_results
from groundup.core.config import merge, read_config_file
from groundup.core.console import fail, format_seconds, heading, say, warn
from groundup.core.errors import GroundupError
from groundup.core.files import read_json, write_json
from groundup.recipes.comparison import Request, compare
from groundup.recipes.comparison.budget import Match
from groundup.recipes.comparison.setup import open_corpus

FOLDER = Path(__file__).resolve().parent
#: name -> the base, the other, and what is equal.
COMPARISONS: dict[str, tuple[str, str, Match]] = {
    "optimizer": ("adamw", "muon", "time"),
    "block": ("gpt2", "qwen3", "parameters"),
    "mlp": ("relu2", "swiglu", "parameters"),
    "qk-norm": ("without-qk-norm", "with-qk-norm", "tokens"),
}
SEEDS = 3
#: Seconds of one run on the reference machine (2 cores, docs/experiments.md), for the forecast before the first plan.
RUN_S = 65.0
#: What of `comparison.json` the results keep.
KEPT = ("match", "names", "verdict", "difference", "seeds", "costs", "budget", "differs", "test", "settings")


def run(name: str, work: Path, corpus: Path, *, seeds: int, steps: int | None) -> dict[str, Any]:
    """Run one comparison, or go on with it."""
    first, second, match = COMPARISONS[name]
    files = (FOLDER / f"{first}.toml", FOLDER / f"{second}.toml")
    if steps is not None:
        files = (_shortened(files[0], work, steps), _shortened(files[1], work, steps))
    request = Request(
        out=work / name,
        corpus=str(corpus),
        tokenizer=None,
        num_seeds=seeds,
        first_seed=0,
        match=match,
        budget_s=None,
        depth=3,
        trust_code=False,
        replan=False,
    )
    found = compare(files, request)
    return {key: found[key] for key in KEPT}


def _shortened(path: Path, work: Path, steps: int) -> Path:
    """A copy of a file with fewer updates."""
    copy = work / f"{path.stem}.json"
    write_json(copy, merge(read_config_file(path), {"train": {"num_steps": steps}}))
    return copy


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(COMPARISONS)} (default: all)")
    parser.add_argument("--work", type=Path, default=Path("runs") / "comparisons", help="where the runs lie")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each side")
    parser.add_argument("--steps", type=int, help="fewer updates, for a try; nothing goes into the results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in COMPARISONS]
    if unknown:
        fail(f"there is no comparison {unknown[0]!r}: use {', '.join(COMPARISONS)}")
        return 2
    names = options.names or list(COMPARISONS)
    path = RESULTS / "comparisons.json"
    results = dict(read_json(path)["comparisons"]) if path.is_file() else {}
    where, is_try = machine(), options.steps is not None or options.seeds != SEEDS
    share = 1.0 if options.steps is None else min(1.0, options.steps / 350)
    say(f"{len(names)} comparisons, about {format_seconds(2 * options.seeds * len(names) * RUN_S * share)} in all")
    begun = time.monotonic()
    try:
        corpus = open_corpus("python-docs", options.work / "corpus").folder
        for index, name in enumerate(names):
            heading(f"Comparison {index + 1} of {len(names)}: {name}")
            found = run(name, options.work, corpus, seeds=options.seeds, steps=options.steps)
            results[name] = {**found, "machine": where}
            if not is_try:
                write_results("comparisons", [], where, more={"comparisons": results})
    except GroundupError as error:
        (warn if error.exit_code == 130 else fail)(str(error))
        return error.exit_code
    heading(f"All in {format_seconds(time.monotonic() - begun)}")
    for name in names:
        say(f"{name}: {results[name]['verdict']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
