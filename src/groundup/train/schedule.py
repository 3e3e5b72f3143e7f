"""The learning rate as a pure function of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

from groundup.train.config import TrainConfig


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Return the learning rate of update `step`, counted from 0.

    It rises linearly over `warmup_steps` (update 0 already learns), then falls by the schedule and reaches
    `learning_rate * min_learning_rate_ratio` in the last update.

    Sources: cosine: Loshchilov & Hutter, SGDR, arXiv:1608.03983, without restarts. wsd: Hu et al., MiniCPM,
    arXiv:2404.06395; the decay 1 - sqrt(progress) is the best of those compared by Hägele et al., arXiv:2405.18392.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    shape = _cosine(config, step) if config.schedule == "cosine" else _warmup_stable_decay(config, step)
    low = config.min_learning_rate_ratio
    return config.learning_rate * (low + (1 - low) * shape)


def _cosine(config: TrainConfig, step: int) -> float:
    """From 1 at the end of the warm-up to 0 in the last update."""
    progress = (step - config.warmup_steps) / max(1, config.num_steps - 1 - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _warmup_stable_decay(config: TrainConfig, step: int) -> float:
    """1 until the decay begins, then down to 0 in the last update."""
    decay_steps = max(1, round(config.num_steps * config.decay_fraction))
    start = max(config.warmup_steps, config.num_steps - 1 - decay_steps)
    if step <= start:
        return 1.0
    return 1 - math.sqrt(min(1.0, (step - start) / max(1, config.num_steps - 1 - start)))
