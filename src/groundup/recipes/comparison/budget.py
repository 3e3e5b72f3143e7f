"""An equal budget for both: how many updates each may make, and how well the budgets agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from groundup.core import console
from groundup.core.config import merge
from groundup.core.errors import UsageError
from groundup.model.config import TransformerConfig
from groundup.recipes.comparison.ideas import Idea, Sizes, sizes_of
from groundup.recipes.plan import MIN_STEPS
from groundup.recipes.settings import SpeedrunSettings
from groundup.train.probe import ProbeResult

Match = Literal["tokens", "flops", "time", "parameters"]

#: Budgets further apart than this are said to be unequal. Counts meet it by rounding to whole updates; time may not.
EQUAL_WITHIN = {"tokens": 0.01, "flops": 0.01, "time": 0.05, "parameters": 0.01}
#: A first run that took longer or shorter than this is repeated with other updates.
TIME_WITHIN = 0.03
#: A size is rounded to a multiple of this, which matrix products like.
MULTIPLE = 8
DEFAULT_BUDGET_S = 360.0


@dataclass(frozen=True)
class Side:
    """One idea with everything that its runs need.

    Attributes:
        key: "a" or "b".
        idea: its file.
        settings: resolved.
        config: the composition, with the tokenizer's ids.
        sizes: of the model.
    """

    key: str
    idea: Idea
    settings: SpeedrunSettings
    config: TransformerConfig
    sizes: Sizes

    @property
    def update_tokens(self) -> int:
        """Trained tokens of one update."""
        return self.settings.pretrain.batch_size * self.settings.pretrain.context

    @property
    def steps(self) -> int:
        return self.settings.pretrain.num_steps

    def work(self, match: Match) -> float:
        """The budget that this side uses, in the unit of the match (not for time, which is measured)."""
        tokens = self.steps * self.update_tokens
        return float(tokens * self.sizes.flops_per_token if match == "flops" else tokens)


def equal_steps(match: Match, a: Side, b: Side, steps_a: int, seconds: tuple[float, float]) -> int:
    """Updates of b that use the budget of `steps_a` updates of a.

    Args:
        match: what is equal.
        seconds: of one update of a and of b, for time.
    """
    if match == "time":
        ratio = seconds[0] / seconds[1]
    else:
        ratio = a.update_tokens / b.update_tokens
        if match == "flops":
            ratio *= a.sizes.flops_per_token / b.sizes.flops_per_token
    return max(1, round(steps_a * ratio))


def check_given_steps(b: Side, given: Any, steps_a: int, steps_b: int, match: Match) -> None:
    """Refuse a number of updates in the second file that is not the equal one; the first file's is the budget.

    Raises:
        UsageError: with both numbers.
    """
    if given is not None and given not in (steps_a, steps_b):
        raise UsageError(
            f"{b.idea.path} sets train.num_steps = {given}, and with an equal budget (--match {match}) it gets {steps_b}: "
            "leave it out there; the first file's is the budget"
        )


def steps_in_budget(
    budget_s: float, num_seeds: int, update_s: float, around_s: float, ratio_s: float, least: float
) -> int:
    """Updates of a so that all runs take about `budget_s` seconds.

    Args:
        num_seeds: runs of each side.
        update_s: one update of a.
        around_s: evaluations of one run of a and one of b.
        ratio_s: seconds that b needs for its share of one update of a.
        least: fewest updates of a that give each side `MIN_STEPS`.

    Raises:
        UsageError: when the budget is too small for runs that say anything, with the least that would do.
    """
    steps = int((budget_s / num_seeds - around_s) / (update_s + ratio_s))
    if steps < least:
        needed = num_seeds * (around_s + math.ceil(least) * (update_s + ratio_s))
        raise UsageError(
            f"a budget of {console.format_seconds(budget_s)} is too short for {2 * num_seeds} runs of at least "
            f"{MIN_STEPS} updates: use --budget {math.ceil(needed / 60)}m or more, fewer --seeds, or smaller models"
        )
    return steps


def evaluation_seconds(side: Side, probe: ProbeResult, validation_tokens: int, test_tokens: int) -> float:
    """What watching and measuring one run costs beside its updates."""
    train = side.settings.pretrain
    times = max(1, train.num_steps // train.evaluate_every) if train.evaluate_every else 1
    # Without a backward pass a third of the time; held-out text is read in windows that overlap by half.
    return (times * validation_tokens + 2 * test_tokens) / (3 * probe.items_per_s)


def resized(a: Side, idea: Idea, b: Side, context: int, trust_code: bool, **ids: int | None) -> dict[str, Any]:
    """Settings that give b as many parameters as a has, by the width of its MLP.

    Nothing is changed where the two already agree. The count grows by the same number with each unit of the width, so
    two widths tell all.

    Returns:
        `{"model": {"intermediate_size": ...}}`, or nothing.

    Raises:
        UsageError: when no width does, with the numbers.
    """
    within = EQUAL_WITHIN["parameters"]
    target = a.sizes.parameters
    if abs(b.sizes.parameters / target - 1) <= within:
        return {}
    if "intermediate_size" in _mlp_of(idea):
        raise UsageError(
            f"{idea.path} sets model.layer.mlp.intermediate_size, so its {b.sizes.parameters:,} parameters cannot be "
            f"brought to the {target:,} of {a.idea.path}: leave it out there"
        )

    def parameters(width: int) -> int:
        model = b.settings.model.replace(intermediate_size=width)
        return sizes_of(idea.config(b.settings.replace(model=model.to_dict()), trust_code, **ids), context).parameters

    width = b.settings.model.intermediate_size
    slope = (parameters(width + MULTIPLE) - b.sizes.parameters) / MULTIPLE
    for multiple in (MULTIPLE, 1):
        exact = width + (target - b.sizes.parameters) / slope if slope else 0
        wanted = multiple * round(exact / multiple)
        if wanted >= MULTIPLE and abs(parameters(wanted) / target - 1) <= within:
            return {"model": {"intermediate_size": wanted}}
    raise UsageError(
        f"{idea.name} has {b.sizes.parameters:,} parameters and {a.idea.name} {target:,}: no intermediate_size brings "
        f"them within {within:.0%} (it would have to be {exact:,.0f}). Change another size, or compare with --match tokens"
    )


def _mlp_of(idea: Idea) -> dict[str, Any]:
    layer = idea.given.get("model", {}).get("layer", {})
    mlp = layer.get("mlp", {}) if isinstance(layer, dict) else {}
    return mlp if isinstance(mlp, dict) else {}


def with_steps(side: Side, depth: int, train_bytes: int, steps: int, more: dict[str, Any]) -> Side:
    """The side with another number of updates, and with what the dial makes of it (warm-up, evaluations).

    Args:
        more: what else was settled for this side (its size, its execution).
    """
    settings = side.idea.settings(depth, train_bytes, merge(more, {"pretrain": {"num_steps": steps}}))
    return replace(side, settings=settings)
