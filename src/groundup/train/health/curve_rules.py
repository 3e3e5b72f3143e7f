"""Rules that read the curves: loss, gradient norm, learning rate, held-out loss.

The limits lie between what ten healthy small runs and the planted faults of `benchmarks/doctor.py` showed
(docs/experiments.md); where a paper gives one, it is named.
"""

from __future__ import annotations

import math

import numpy as np

from groundup.train.health.finding import Finding
from groundup.train.health.history import FloatArray, History, IntArray
from groundup.train.health.rules import FACTS, PASSES, SAMPLES, UNIGRAMS, Need, Rule, evaluations, updates

#: A loss this near the unigram entropy is that of a model which has learned frequencies and nothing else.
NEAR_UNIGRAMS = 0.97
#: Step of the matrices over their size, root mean squares. Small runs that learn well have 0.002 to 0.03, one at a
#: thousandth of their rate 0.00007, and at 250 times it 0.1; 0.001 is the usual advice for large ones.
SLOW, FAST = 5e-4, 0.05
#: A spike stands out by so many robust standard deviations of the updates before it, and by so much of their median.
SPIKE_DEVIATIONS, SPIKE_SHARE, SPIKE_WINDOW = 8.0, 0.1, 25
#: Losses below this share of what frequencies alone give come from a leak. Answers that are copied from the question are
#: nearly certain to a tuned model: the default speedrun's tuning ends at 0.045.
TOO_GOOD, TOO_GOOD_TUNED = 0.05, 0.005
#: Passes over the same text after which more add nothing (Muennighoff et al. 2023, arXiv:2305.16264, section 6).
USELESS_PASSES = 16


def nonfinite(history: History) -> Finding | None:
    """Updates that were left out for a loss or gradient that is no number."""
    skipped = history.steps[~np.isfinite(history.losses)]
    if len(skipped) == 0:
        return None
    share = len(skipped) / history.num_updates
    return Finding(
        "non-finite-updates",
        "serious" if share > 0.01 and len(skipped) > 1 else "warning",
        f"{len(skipped)} of {history.num_updates:,} updates were left out: their loss or gradient was not finite",
        f"lower learning_rate (peak {_peak(history):.3g}) to a third, raise warmup_steps, or use precision float32",
        int(skipped[0]),
        int(skipped[-1]),
    )


def loss_at_start(history: History) -> Finding | None:
    """The first loss beside ln V, that of guessing: random weights begin near it, trained ones far below."""
    assert history.facts is not None
    guessing, first = math.log(history.facts.vocab_size), float(history.losses[0])
    evidence = f"the first loss is {first:.2f}; guessing among {history.facts.vocab_size:,} ids gives {guessing:.2f}"
    if history.facts.is_fresh and first > max(guessing + 2, 1.5 * guessing):
        fix = "make the starting values smaller: a new model should begin near guessing"
    elif history.facts.is_fresh and first < 0.5 * guessing:
        fix = "see whether the targets stand among the inputs, or the model was trained before"
    elif not history.facts.is_fresh and first > 1.1 * guessing:
        fix = "give the tokenizer that the model was trained with: a trained model that guesses worse reads other ids"
    else:
        return None
    return Finding("loss-at-start", "serious", evidence, fix, int(history.steps[0]))


def learning_rate_high(history: History) -> Finding | None:
    """The loss climbs above its start, or above what it had reached, or cannot leave the frequencies at large steps."""
    losses, steps = _finite(history)
    smooth = _running_median(losses, 5)
    noise = _deviation(losses)
    fix = f"lower learning_rate: the peak is {_peak(history):.3g}, try {_peak(history) / 10:.1g}"
    worst = int(smooth.argmax())
    start = float(np.median(losses[:2]))
    if smooth[worst] > 1.2 * start + 6 * noise and worst > 2:
        return Finding(
            "learning-rate-high",
            "serious",
            f"the loss climbed from {start:.2f} at its start to {smooth[worst]:.2f}",
            fix,
            int(steps[worst]),
        )
    best = int(smooth.argmin())
    now = float(np.median(losses[-10:]))
    if len(losses) - best > 20 and now > 1.1 * smooth[best] + 6 * noise:
        return Finding(
            "learning-rate-high",
            "serious",
            f"the loss had fallen to {smooth[best]:.2f} at update {steps[best]:,} and stands at {now:.2f} again",
            f"{fix}; if it broke at one update, see loss-spikes",
            int(steps[best]),
            int(steps[-1]),
        )
    speed = _speed(history)
    if speed is not None and speed > FAST and _knows_only_frequencies(history):
        return Finding(
            "learning-rate-high",
            "serious",
            f"an update changes the matrices by {100 * speed:.1f} % of their size (median), and the loss, {now:.2f}, is "
            f"still that of frequencies alone ({_unigrams(history):.2f})",
            fix,
            int(steps[0]),
            int(steps[-1]),
        )
    return None


def learning_rate_low(history: History) -> Finding | None:
    """The weights hardly move, and the loss has not even come down to the frequencies."""
    speed = _speed(history)
    if speed is None or speed >= SLOW or not _knows_only_frequencies(history):
        return None
    losses, steps = _finite(history)
    peak = _peak(history)
    return Finding(
        "learning-rate-low",
        "serious",
        f"an update changes the matrices by {100 * speed:.2g} % of their size (median; 0.2 to 3 % is usual), and the "
        f"loss went from {losses[0]:.2f} to {np.median(losses[-10:]):.2f}, above that of frequencies alone "
        f"({_unigrams(history):.2f})",
        f"raise learning_rate: the peak is {peak:.3g}, try {peak * min(1000.0, 10 * SLOW / max(speed, 1e-9)):.1g}, or look "
        "for it with  groundup pretrain ... --find-lr",
        int(steps[0]),
        int(steps[-1]),
    )


def plateau(history: History) -> Finding | None:
    """A run that ends where a table of frequencies stands: what comes before a token tells the model nothing."""
    assert history.facts is not None
    if not history.facts.is_fresh or history.progress < (0.5 if history.num_updates >= 500 else 1.0):
        return None
    speed = _speed(history)
    if not _knows_only_frequencies(history) or (speed is not None and not SLOW <= speed <= FAST):
        return None  # at such steps the learning rate is the finding
    return Finding(
        "ignores-context",
        "serious",
        f"after {history.num_updates:,} updates the loss is {_recent(history):.2f}, and knowing only how often each token "
        f"occurs gives {_unigrams(history):.2f}",
        "see whether the texts are in order (tokens shuffled, windows of a few tokens) and attention sees earlier tokens; "
        "else train longer",
        int(history.steps[-1]),
    )


def spikes(history: History) -> Finding | None:
    """Single updates whose loss stands far above those before them.

    Batches of tuning hold conversations of one length and often of one kind, so that their losses differ by nature: there
    only what is twice the largest before it counts.
    """
    losses, steps = _finite(history)
    tuned = history.facts is not None and not history.facts.is_fresh
    found = []
    for index in range(SPIKE_WINDOW, len(losses)):
        before_it = losses[index - SPIKE_WINDOW : index]
        if _is_spike(losses[index], before_it) and (not tuned or losses[index] > 2 * before_it.max()):
            found.append(index)
    if not found:
        return None
    worst = max(found, key=lambda index: losses[index])
    before = float(np.median(losses[worst - SPIKE_WINDOW : worst]))
    return Finding(
        "loss-spikes",
        "serious" if len(found) > max(3, 0.01 * len(losses)) else "warning",
        f"{len(found)} update(s) stand far above those before, the worst at {losses[worst]:.2f} after {before:.2f} "
        f"(update {steps[worst]:,})",
        "one alone: look at the texts of that update for what is not text; several: lower learning_rate or beta2, raise "
        "warmup_steps",
        int(steps[found[0]]),
        int(steps[found[-1]]),
    )


def gradient_exploding(history: History) -> Finding | None:
    """The gradient grows far beyond where it began, over several updates in a row."""
    norms = history.grad_norms[np.isfinite(history.grad_norms)]
    steps = history.steps[np.isfinite(history.grad_norms)]
    if len(norms) < 10:
        return None
    smooth = _running_median(norms, 10)
    worst, start = int(smooth.argmax()), float(norms[0])
    if smooth[worst] <= max(30.0, 5 * start):
        return None
    return Finding(
        "gradient-exploding",
        "serious",
        f"the gradient's norm is {smooth[worst]:.3g} (median of ten updates) after {start:.3g} in the first",
        f"lower learning_rate (peak {_peak(history):.3g}) to a tenth; max_grad_norm 1 keeps single updates short",
        int(steps[worst]),
    )


def too_good(history: History) -> Finding | None:
    """A loss near zero before the data was read twice: the answer stands in the input."""
    passes = history.passes
    losses, steps = _finite(history)
    share = TOO_GOOD if history.facts is not None and history.facts.is_fresh else TOO_GOOD_TUNED
    low = np.flatnonzero(_running_median(losses, 5) < share * _unigrams(history))
    if passes is None or len(low) == 0:
        return None
    then = passes * float(history.tokens[low[0]] / history.tokens[-1])
    if then >= 2:
        return None
    return Finding(
        "too-good",
        "serious",
        f"after {then:.2g} passes over the data the loss is {losses[low[0]]:.3g}, under {share:g} of what frequencies alone "
        f"give ({_unigrams(history):.2f})",
        "see whether the targets are shifted by one, attention is causal, and the text is not one sentence repeated",
        int(steps[low[0]]),
    )


def overfit(history: History) -> Finding | None:
    """The held-out loss rises again: the text is learned by heart."""
    steps, values = history.watched()
    best = int(values.argmin())
    if values[-1] <= 1.05 * values[best] or best == len(values) - 1:
        return None
    losses, _ = _finite(history)
    passes = "" if history.passes is None else f" after {history.passes:.3g} passes over the data"
    return Finding(
        "overfit",
        "warning",
        f"the held-out value was {values[best]:.3f} at update {steps[best]:,} and is {values[-1]:.3f} at {steps[-1]:,}"
        f"{passes}; the loss in training is {np.median(losses[-10:]):.3f}",
        f"give more text, or set num_steps to about {int(steps[best]):,}; a larger weight_decay also helps",
        int(steps[best]),
        int(steps[-1]),
    )


def repeated(history: History) -> Finding | None:
    """More passes over the text than can teach anything."""
    passes = history.passes
    assert passes is not None and history.facts is not None
    if passes <= USELESS_PASSES:
        return None
    return Finding(
        "data-starved",
        "warning",
        f"the run has gone through its {history.facts.epoch_tokens:,} tokens {passes:.1f} times: "
        f"{history.facts.epoch_tokens or 0:,} tokens for {history.facts.parameters:,} parameters",
        f"give more text or train for fewer updates: after 4 passes each is worth less, after {USELESS_PASSES} nothing",
        None,
        int(history.steps[-1]),
    )


def waiting(history: History) -> Finding | None:
    """The processor waits for data."""
    waits = [sample.waited for sample in history.samples if sample.waited is not None]
    share = float(np.median(waits))
    if share <= 0.3:
        return None
    return Finding(
        "waiting-for-data",
        "warning",
        f"{100 * share:.0f} % of an update (median of {len(waits)}) goes by until its data has come",
        "tokenise before training, keep the shards on a local disk, or make the batch source cheaper",
    )


def _finite(history: History) -> tuple[FloatArray, IntArray]:
    is_finite = np.isfinite(history.losses)
    return history.losses[is_finite], history.steps[is_finite]


def _is_spike(loss: float, before: FloatArray) -> bool:
    middle = float(np.median(before))
    spread = 1.48 * float(np.median(np.abs(before - middle)))
    return bool(loss - middle > max(SPIKE_DEVIATIONS * spread, SPIKE_SHARE * middle))


def _running_median(values: FloatArray, window: int) -> FloatArray:
    """Median of each value and those before it, up to `window`."""
    if len(values) <= window:
        return np.array([np.median(values[: index + 1]) for index in range(len(values))])
    head = [np.median(values[: index + 1]) for index in range(window - 1)]
    body = np.median(np.lib.stride_tricks.sliding_window_view(values, window), axis=1)
    return np.concatenate([head, body])


def _deviation(losses: FloatArray) -> float:
    """Robust standard deviation from one update to the next."""
    return float(1.48 * np.median(np.abs(np.diff(losses))) / math.sqrt(2)) if len(losses) > 2 else 0.0


def _peak(history: History) -> float:
    """Highest learning rate of the run; not-a-number where none was recorded."""
    rates = history.learning_rates[np.isfinite(history.learning_rates)]
    return float(rates.max()) if len(rates) else math.nan


def _recent(history: History) -> float:
    losses, _ = _finite(history)
    return float(np.median(losses[-max(5, min(50, len(losses) // 10)) :]))


def _unigrams(history: History) -> float:
    assert history.facts is not None and history.facts.unigram_entropy is not None
    return history.facts.unigram_entropy


def _knows_only_frequencies(history: History) -> bool:
    """True for a new model whose loss is not below the unigram entropy."""
    facts = history.facts
    if facts is None or facts.unigram_entropy is None or not facts.is_fresh:
        return False
    return _recent(history) > NEAR_UNIGRAMS * facts.unigram_entropy


def _speed(history: History) -> float | None:
    """Median step of the matrices over their size, brought to the peak of the learning rate.

    The first update is left out: AdamW's first step has its full length whatever the gradient.
    """
    rates = dict(zip(history.steps.tolist(), history.learning_rates.tolist(), strict=True))
    peak = _peak(history)
    speeds = [
        sample.update["matrix"] * peak / rates[sample.step]
        for sample in history.samples
        if "matrix" in sample.update and sample.step > 1 and rates.get(sample.step, 0.0) > 0
    ]
    return float(np.median(speeds)) if speeds else None


_FINITE = Need("fewer than 2 updates with a finite loss", lambda h: int(np.isfinite(h.losses).sum()) >= 2)
_STARTED = Need("the first update was skipped", lambda h: bool(np.isfinite(h.losses[0])))
_WARM = Need(
    "fewer than 20 updates after the warm-up",
    lambda h: h.facts is not None and h.num_updates >= h.facts.warmup_steps + 20,
)
_WAITS = Need("fewer than 3 measured updates", lambda h: sum(s.waited is not None for s in h.samples) >= 3)

CURVE_RULES = (
    Rule("non-finite-updates", nonfinite, (updates(1),)),
    Rule("loss-at-start", loss_at_start, (FACTS, updates(1), _STARTED)),
    Rule("learning-rate-high", learning_rate_high, (updates(20), _FINITE)),
    Rule("learning-rate-low", learning_rate_low, (UNIGRAMS, SAMPLES, updates(1), _WARM, _FINITE)),
    Rule("ignores-context", plateau, (UNIGRAMS, updates(50), _FINITE)),
    Rule("loss-spikes", spikes, (updates(SPIKE_WINDOW + 1), _FINITE)),
    Rule("gradient-exploding", gradient_exploding, (updates(10),)),
    Rule("too-good", too_good, (UNIGRAMS, PASSES, updates(10), _FINITE)),
    Rule("overfit", overfit, (evaluations(3), updates(10), _FINITE)),
    Rule("data-starved", repeated, (FACTS, PASSES)),
    Rule("waiting-for-data", waiting, (_WAITS,)),
)
