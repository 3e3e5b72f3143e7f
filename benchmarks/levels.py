"""One GPT at four levels: that loss and gradients are equal, then time and memory of a token at each.

python -m benchmarks.levels              about two minutes; writes benchmarks/results/levels.json
python -m benchmarks.levels --rounds 1   a glance

Each round goes through all levels in turn, so that a slow minute of the machine meets all alike; the medians of the rounds count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict

import numpy as np

from benchmarks.harness import ValidationError, duration, machine, write_results
from groundup.core import console
from groundup.foundations.gpt import GPTShape, initial_weights
from groundup.recipes.first.levels import SMALL, SMALL_ROWS, TINY
from groundup.recipes.levels import LEVELS, LevelCost, losses_and_gradients, measure_level

ROUNDS = 5
TOLERANCE = 1e-9


def validate(seed: int) -> float:
    """The largest difference of loss and gradients between the levels, relative to the loss and to the largest gradient.

    Raises:
        ValidationError: when it is above `TOLERANCE`.
    """
    ids = np.random.default_rng(seed).integers(0, TINY.vocab_size, (1, TINY.context))
    found = losses_and_gradients(TINY, initial_weights(TINY, seed, deviation=0.3), ids)
    loss, gradients = found["torch"]
    # Of the whole gradient: that of a bias of keys is zero, since it moves all scores of a query alike.
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    worst = 0.0
    for own_loss, own in found.values():
        apart = [float(np.abs(own[name] - gradient).max()) / largest for name, gradient in gradients.items()]
        worst = max(worst, abs(own_loss - loss) / loss, *apart)
    if not worst <= TOLERANCE:
        raise ValidationError(f"the levels differ by {worst:.3g} of the largest value; {TOLERANCE:.3g} is allowed")
    return worst


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="passes through all levels")
    rounds = max(1, parser.parse_args(arguments).rounds)
    where = machine()
    difference = validate(0)
    console.say(f"loss and gradients of the levels differ by {difference:.1e} of the largest value")
    plans = [(TINY, 1, level) for level in LEVELS]
    plans += [(SMALL, SMALL_ROWS, level) for level in LEVELS if level != "scalars"]
    found: dict[str, list[LevelCost]] = {}
    with console.progress("measure", rounds * len(plans), "levels") as ticker:
        for seed in range(rounds):
            for shape, rows, level in plans:
                name = f"{'tiny' if shape == TINY else 'small'}, {level}"
                found.setdefault(name, []).append(measure_level(level, shape, rows, seed=seed))
                ticker.advance(1, name)
    levels = {}
    for name, costs in found.items():
        seconds = [cost.seconds_per_token for cost in costs]
        middle = statistics.median(seconds)
        levels[name] = {
            **asdict(sorted(costs, key=lambda cost: cost.seconds_per_token)[len(costs) // 2]),
            "seconds_per_token": middle,
            "all_seconds_per_token": seconds,
        }
        spread = (max(seconds) - min(seconds)) / middle
        console.say(
            f"{name:<24} {duration(middle):>9} a token (spread {spread:.0%}), {costs[0].bytes_per_token:,.0f} bytes kept  {costs[0].note}"
        )
    shapes = {
        "tiny": {**asdict(TINY), "rows": 1, "parameters": _count(TINY)},
        "small": {**asdict(SMALL), "rows": SMALL_ROWS, "parameters": _count(SMALL)},
    }
    path = write_results("levels", [], where, more={"difference": difference, "shapes": shapes, "levels": levels})
    console.say(f"written to {path}")
    return 0


def _count(shape: GPTShape) -> int:
    return sum(int(np.prod(sizes)) for sizes in shape.weight_shapes().values())


if __name__ == "__main__":
    sys.exit(main())
