"""A learning rate by a range test: let it grow from update to update, and see where the loss falls and where it breaks.

Smith 2017, Cyclical learning rates for training neural networks, arXiv:1506.01186, section 3.3; the exponential growth
and the smoothed loss are those of Gugger 2018 ("How do you find a good learning rate"), as fast.ai has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from groundup.core.errors import TrainingError
from groundup.core.execution import ExecutionPlan
from groundup.core.seeds import seed_for
from groundup.train.config import TrainConfig
from groundup.train.contracts import BatchSource, MicroBatch, Objective
from groundup.train.distributed import Parallel
from groundup.train.environment import autocast, planned_environment
from groundup.train.gradients import norm_of, scale
from groundup.train.optimizer import Optimizer, make_optimizer

#: Memory of the smoothed loss.
SMOOTHING = 0.9
#: The test ends where the smoothed loss has lost this share of what it had gained, or stands this far above its start.
BROKEN = 0.5
#: What is suggested: so many times the rate at which the smoothed loss falls fastest. In sweeps of small models the best
#: rate lay 4 to 5 times above it (docs/experiments.md); a rate that is too low is the smaller harm.
FACTOR = 3.0


@dataclass(frozen=True)
class RangeTest:
    """The outcome.

    Attributes:
        rates: learning rate of each update.
        losses: its mean loss.
        smooth: the losses, smoothed.
        lowest: the rate at which `smooth` was lowest.
        steepest: the rate at which it fell fastest over the logarithm of the rate.
        broke: the rate at which it rose again for good, where the test ended; None when it never did.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    lowest: float
    steepest: float
    broke: float | None

    @property
    def suggestion(self) -> float:
        """A peak learning rate to begin with, in two digits."""
        return float(f"{FACTOR * self.steepest:.1e}")

    @property
    def warnings(self) -> list[str]:
        """Why this outcome is not to be trusted."""
        said = []
        if self.broke is None:
            said.append(f"the loss never broke, up to a rate of {self.rates[-1]:.3g}: the best rate may be higher")
        fall = self.smooth[0] - min(self.smooth)
        noise = float(np.median(np.abs(np.diff(self.losses)))) if len(self.losses) > 1 else 0.0
        if fall < 3 * noise:
            said.append(
                f"the loss fell by {fall:.3g} only, and differs by {noise:.3g} from one update to the next: the lowest "
                "point is chance, take a larger batch"
            )
        return said


def range_test(
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    plan: ExecutionPlan,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    num_steps: int = 150,
    on_step: Callable[[int, float], None] | None = None,
) -> RangeTest:
    """Train a throw-away model while the learning rate grows exponentially.

    Optimizer, decay, clipping and batches are those of the run; only its schedule is left out.

    Args:
        model: is trained, so give a copy.
        source, objective, config, plan: as the trainer takes them.
        lowest, highest: the first rate, and that of the last update.
        num_steps: updates.
        on_step: is told the updates done and the smoothed loss.

    Raises:
        TrainingError: when not even the first update has a finite loss.
    """
    rates, losses, smooth = list[float](), list[float](), list[float]()
    mean = 0.0
    broke = None
    with planned_environment(plan):
        model.to(plan.device).train()
        parallel = Parallel(model, objective, plan)
        optimizer = make_optimizer(model, config, plan.precision)
        for step in range(num_steps):
            rate = lowest * (highest / lowest) ** (step / max(1, num_steps - 1))
            torch.default_generator.manual_seed(seed_for(config.seed, "range test", step))
            loss = _update(model, source.update(step), parallel, optimizer, config, plan, rate)
            if loss is None:
                broke = rate
                break
            rates.append(rate)
            losses.append(loss)
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smooth.append(mean / (1 - SMOOTHING ** (step + 1)))
            if on_step is not None:
                on_step(step + 1, smooth[-1])
            if _is_broken(smooth):
                broke = rate
                break
        parallel.close()
    if not rates:
        raise TrainingError(f"the loss was not finite in the first update, at a learning rate of {lowest:g}")
    return RangeTest(
        tuple(rates),
        tuple(losses),
        tuple(smooth),
        lowest=rates[int(np.argmin(smooth))],
        steepest=rates[_steepest(smooth)],
        broke=broke,
    )


def _update(
    model: nn.Module,
    micro_batches: Sequence[MicroBatch],
    parallel: Parallel,
    optimizer: Optimizer,
    config: TrainConfig,
    plan: ExecutionPlan,
    rate: float,
) -> float | None:
    """One update at a rate; its mean loss, or None where loss or gradient is not finite."""
    total, count = 0.0, 0
    for micro_batch in micro_batches:
        with autocast(plan):
            loss = parallel.loss(micro_batch.to(plan.device))
        loss.total.backward()  # type: ignore[no-untyped-call]
        total, count = total + float(loss.total.detach()), count + loss.count
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = norm_of(gradients, parallel) / max(1, count)
    if count == 0 or not math.isfinite(norm) or not math.isfinite(total):
        return None
    limit = config.max_grad_norm
    scale(gradients, (limit / norm if 0 < limit < norm else 1.0) / count)
    optimizer.set_learning_rate(rate)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / count


def _is_broken(smooth: list[float]) -> bool:
    low, start = min(smooth), smooth[0]
    return smooth[-1] > max(low + BROKEN * (start - low), 1.02 * low) and smooth.index(low) < len(smooth) - 5


def _steepest(smooth: list[float]) -> int:
    """Where a straight line over a tenth of the updates falls fastest."""
    width = max(2, len(smooth) // 10)
    if len(smooth) <= width:
        return int(np.argmin(smooth))
    falls = [smooth[index + width] - smooth[index] for index in range(len(smooth) - width)]
    return int(np.argmin(falls)) + width // 2
