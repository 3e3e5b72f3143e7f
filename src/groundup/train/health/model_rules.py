"""Rules that read what was measured inside of the model: units, residual stream, gradients by layer, targets."""

from __future__ import annotations

import math
from collections.abc import Callable

from groundup.train.health.finding import Finding
from groundup.train.health.history import History, Sample
from groundup.train.health.rules import LAYERS, SAMPLES, Need, Rule

#: Silent units of a layer above this share are a finding; small healthy runs have at most 0.02.
DEAD_SHARE = 0.1
#: Root mean square of the residual stream; new models that learn well stay below 12 (docs/experiments.md).
LARGE_RESIDUAL = 100.0
#: Of a model that was trained before: growth since the first measurement.
RESIDUAL_GROWTH = 30.0
#: A layer that adds less than this share of what it receives is idle; small healthy runs have at least 0.005.
IDLE_BRANCH = 1e-3
#: Gradient of a layer over that of the strongest one; small healthy runs have at least 0.015.
FAINT_GRADIENT = 1e-4
#: Trained tokens below this share: nearly all work goes into tokens that teach nothing.
FEW_TRAINED = 0.01


def dead_units(history: History) -> Finding | None:
    """MLP units that stayed silent for every token that was looked at."""
    sample = _last(history, lambda s: s.silent)
    worst = max(range(len(sample.silent)), key=sample.silent.__getitem__)
    if sample.silent[worst] <= DEAD_SHARE:
        return None
    many = [index for index, share in enumerate(sample.silent) if share > DEAD_SHARE]
    return Finding(
        "dead-units",
        "serious" if sample.silent[worst] > 0.5 else "warning",
        f"{100 * sample.silent[worst]:.0f} % of the MLP units of layer {worst} gave nothing for any token"
        f" ({len(many)} of {len(sample.silent)} layers have more than {100 * DEAD_SHARE:.0f} %)",
        "lower learning_rate and begin anew (units that are pushed so far never come back), or look for biases and norms "
        "that hold their inputs far below zero",
        _first(history, lambda s: bool(s.silent) and max(s.silent) > DEAD_SHARE),
        sample.step,
    )


def residual_exploding(history: History) -> Finding | None:
    """The residual stream grows beyond what its layers can still change."""
    sample = _last(history, lambda s: s.residual)
    is_fresh = history.facts is None or history.facts.is_fresh
    first = next(s for s in history.samples if s.residual)
    limit = LARGE_RESIDUAL if is_fresh else RESIDUAL_GROWTH * max(first.residual)
    worst = max(range(len(sample.residual)), key=lambda index: _or_infinite(sample.residual[index]))
    if _or_infinite(sample.residual[worst]) <= limit:
        return None
    return Finding(
        "residual-exploding",
        "serious",
        f"the residual stream has a root mean square of {sample.residual[worst]:.3g} {_place(worst)}, and "
        f"{sample.residual[0]:.3g} where it begins (limit {limit:.3g})",
        "make the starting values of o_proj and down_proj smaller (they fall with the square root of the depth), lower "
        "learning_rate, or raise weight_decay",
        _first(history, lambda s: bool(s.residual) and max(map(_or_infinite, s.residual)) > limit),
        sample.step,
    )


def idle_layers(history: History) -> Finding | None:
    """Layers that add next to nothing to what passes through them."""
    sample = _last(history, lambda s: s.branch)
    idle = [index for index, share in enumerate(sample.branch) if share < IDLE_BRANCH]
    # Output projections that begin at zero are good practice: only later is idleness a finding.
    if not idle or sample.step == 1:
        return None
    weakest = min(idle, key=sample.branch.__getitem__)
    return Finding(
        "residual-vanishing",
        "serious",
        f"{len(idle)} of {len(sample.branch)} layers add less than {IDLE_BRANCH:g} of what they receive; layer {weakest} "
        f"adds {sample.branch[weakest]:.2g}",
        "see whether its o_proj and down_proj, or the norm before them, were scaled to almost nothing; where the stream "
        "itself is too large (residual-exploding), mend that first",
        _first(history, lambda s: s.step > 1 and bool(s.branch) and min(s.branch) < IDLE_BRANCH),
        sample.step,
    )


def gradient_vanishing(history: History) -> Finding | None:
    """Layers that the gradient hardly reaches."""
    sample = next(s for s in reversed(history.samples) if _layer_gradients(s))
    norms = _layer_gradients(sample)
    strongest, weakest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    if norms[weakest] >= FAINT_GRADIENT * norms[strongest] or sample.step == 1:
        return None
    return Finding(
        "gradient-vanishing",
        "serious",
        f"the gradient of {weakest} has norm {norms[weakest]:.2g}, that of {strongest} {norms[strongest]:.2g}",
        "see whether something cuts the way back (detach, no_grad, an output scaled to nothing), and whether a layer "
        "stands after a norm on the residual stream: norms before the branches let the gradient pass",
        sample.step,
    )


def not_shifted(history: History) -> Finding | None:
    """Targets that are not the next token."""
    sample = next(s for s in reversed(history.samples) if s.shifted is not None)
    assert sample.shifted is not None
    if sample.shifted >= 0.99:
        return None
    copied = sample.copied or 0.0
    what = "are the input itself" if copied > 0.5 else "are something else"
    return Finding(
        "wrong-targets",
        "serious",
        f"{100 * sample.shifted:.1f} % of the targets are the next input; {100 * max(copied, 1 - sample.shifted):.1f} % {what}",
        "let target t be input t + 1: targets = ids[1:], inputs = ids[:-1]",
        sample.step,
    )


def sees_ahead(history: History) -> Finding | None:
    """Tokens that see what comes after them."""
    sample = next(s for s in history.samples if s.ahead is not None)
    if not sample.ahead:
        return None
    return Finding(
        "sees-ahead",
        "serious",
        f"with another last token, {100 * sample.ahead:.0f} % of the hidden vectors before it change",
        "let attention be causal (is_causal), and mixers of your own read earlier tokens only: the loss is worth nothing",
        sample.step,
    )


def few_trained(history: History) -> Finding | None:
    """Nearly all tokens are read without being trained on."""
    sample = next(s for s in reversed(history.samples) if s.trained is not None)
    assert sample.trained is not None
    if sample.trained >= FEW_TRAINED:
        return None
    return Finding(
        "few-trained-tokens",
        "warning",
        f"{100 * sample.trained:.2g} % of the tokens of an update are trained",
        "shorten the prompts, or see whether the chat template marks the whole answer with {% generation %}",
        sample.step,
    )


def _last(history: History, holds: Callable[[Sample], object]) -> Sample:
    """The newest sample that holds something."""
    return next(sample for sample in reversed(history.samples) if holds(sample))


def _first(history: History, is_ill: Callable[[Sample], bool]) -> int | None:
    return next((sample.step for sample in history.samples if is_ill(sample)), None)


def _layer_gradients(sample: Sample) -> dict[str, float]:
    return {part: norm for part, norm in sample.gradient.items() if part.startswith("layer ")}


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _place(index: int) -> str:
    return "before the first layer" if index == 0 else f"after layer {index - 1}"


_UNITS = Need("no MLP units were measured", lambda h: any(s.silent for s in h.samples))
_GRADIENTS = Need(
    "fewer than two layers with a gradient", lambda h: any(len(_layer_gradients(s)) >= 2 for s in h.samples)
)
_TARGETS = Need("the batches do not show their targets", lambda h: any(s.shifted is not None for s in h.samples))
_AHEAD = Need("no pass with another last token was made", lambda h: any(s.ahead is not None for s in h.samples))
_TRAINED = Need("the batches do not show their targets", lambda h: any(s.trained is not None for s in h.samples))

MODEL_RULES = (
    Rule("wrong-targets", not_shifted, (SAMPLES, _TARGETS)),
    Rule("sees-ahead", sees_ahead, (SAMPLES, _AHEAD)),
    Rule("few-trained-tokens", few_trained, (SAMPLES, _TRAINED)),
    Rule("dead-units", dead_units, (SAMPLES, _UNITS)),
    Rule("residual-exploding", residual_exploding, (SAMPLES, LAYERS)),
    Rule("residual-vanishing", idle_layers, (SAMPLES, LAYERS)),
    Rule("gradient-vanishing", gradient_vanishing, (SAMPLES, _GRADIENTS)),
)
