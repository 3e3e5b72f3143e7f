"""A short measurement before the first step: which precision and micro-batch this machine runs fastest."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from groundup.core.errors import TrainingError, UsageError
from groundup.core.execution import ExecutionPlan, Precision, has_fast_bfloat16, machine_fingerprint
from groundup.train.config import TrainConfig
from groundup.train.contracts import MicroBatch, Objective
from groundup.train.environment import autocast, planned_environment
from groundup.train.optimizer import Optimizer, parameter_groups, parameter_roles

log = logging.getLogger("groundup.train.probe")

#: bfloat16 must be this much faster to be chosen, since it costs accuracy.
BFLOAT16_GAIN = 1.1
#: Seconds after which a candidate gets no further pass: a large model takes seconds for one, and varies less.
PATIENCE_S = 4.0
#: Passes of models from this size on take seconds, and few are timed: its precisions are measured twice, in turn and on a quarter
#: of the rows, and each one's better rate counts. Freed memory is given back too (recipes.training). Timed once each, they came out either way round by a third.
LARGE_MODEL_PARAMETERS = 50_000_000
#: Parameters on which an update of the optimizer is timed.
OPTIMIZER_SAMPLE = 20_000_000
#: A smaller micro-batch is taken when it is at most this much slower than the fastest, since it needs less memory.
SMALLER_LOSS = 1.03


@dataclass(frozen=True)
class Measurement:
    """Forward and backward pass of one micro-batch."""

    precision: Precision
    micro_batch: int
    items_per_s: float


@dataclass(frozen=True)
class ProbeResult:
    """What was measured and chosen.

    Attributes:
        plan: to be recorded and used for the whole run.
        items_per_s: trained tokens (what the objective counts) per second and process in forward and backward.
        optimizer_s: one optimizer update.
        measurements: all candidates, in the order they were tried.
        seconds: how long the probe took.
    """

    plan: ExecutionPlan
    items_per_s: float
    optimizer_s: float
    measurements: tuple[Measurement, ...]
    seconds: float

    def update_seconds(self, items: int) -> float:
        """Predict the time of one update over `items` trained tokens of all processes."""
        return items / (self.items_per_s * self.plan.world_size) + self.optimizer_s


def probe(
    model: nn.Module,
    objective: Objective,
    make_batch: Callable[[int], MicroBatch],
    plan: ExecutionPlan,
    *,
    micro_batches: Sequence[int],
    precisions: Sequence[Precision] | None = None,
    repeats: int = 5,
    config: TrainConfig | None = None,
) -> ProbeResult:
    """Measure candidates and return the plan with the fastest precision and micro-batch filled in.

    Precision is chosen first, at the middle micro-batch, then the micro-batch. The model's weights stay as they are.
    A candidate that does not fit into the memory of a GPU is left out.

    Args:
        model: the one to be trained.
        objective: its loss.
        make_batch: gives a micro-batch of n rows, as long as those of the run.
        plan: device, threads, compile and the rest, which are kept (the measurement itself is not compiled).
        micro_batches: candidates.
        precisions: candidates; None tries bfloat16 only where the device multiplies it natively.
        repeats: timed passes of each candidate, after one that warms up (fewer where they take long); the median
            counts, which foretells a long run better than the fastest.
        config: of the run, whose optimizer is timed; by default AdamW.

    Raises:
        TrainingError: when no candidate could be run.
    """
    if not micro_batches or min(micro_batches) < 1:
        raise UsageError(f"micro_batches must be sizes of at least 1, not {list(micro_batches)}")
    begun = time.perf_counter()
    sizes = sorted(set(micro_batches))
    measured: list[Measurement] = []
    with planned_environment(plan):
        model.to(plan.device).train()

        def measure(precision: Precision, size: int) -> float:
            trial = plan.replace(precision=precision, micro_batch=size)
            rate = _items_per_s(model, objective, make_batch(size), trial, repeats)
            measured.append(Measurement(precision, size, rate))
            return rate

        middle = sizes[len(sizes) // 2]
        candidates = tuple(precisions or native_precisions(plan.device))
        rows, rounds = (max(1, middle // 4), 2) if is_large(model) and len(candidates) > 1 else (middle, 1)
        by_precision = dict.fromkeys(candidates, 0.0)
        for _ in range(rounds):
            for candidate in candidates:
                by_precision[candidate] = max(by_precision[candidate], measure(candidate, rows))
        precision = max(by_precision, key=lambda p: by_precision[p] / (BFLOAT16_GAIN if p == "bfloat16" else 1.0))
        by_size = {s: by_precision[precision] if s == rows else measure(precision, s) for s in sizes}
        fastest = max(by_size.values())
        if fastest == 0:
            raise TrainingError(
                f"no micro-batch of {sizes} rows fits into the memory of {plan.device}: use smaller ones"
            )
        size = min(s for s, rate in by_size.items() if rate * SMALLER_LOSS >= fastest)
        optimizer_s = _optimizer_seconds(model, config or TrainConfig(), precision)
    chosen = plan.replace(precision=precision, micro_batch=size, machine=machine_fingerprint())
    seconds = time.perf_counter() - begun
    log.info("probe of %.1f s chose %s and micro-batches of %d: %.0f/s", seconds, precision, size, by_size[size])
    return ProbeResult(chosen, by_size[size], optimizer_s, tuple(measured), seconds)


def is_large(model: nn.Module) -> bool:
    """True from LARGE_MODEL_PARAMETERS on."""
    return sum(parameter.numel() for parameter in model.parameters()) >= LARGE_MODEL_PARAMETERS


def native_precisions(device: str) -> tuple[Precision, ...]:
    """The precisions worth trying on a device."""
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and has_fast_bfloat16()
    return ("float32", "bfloat16") if native else ("float32",)


def _items_per_s(model: nn.Module, objective: Objective, batch: MicroBatch, plan: ExecutionPlan, repeats: int) -> float:
    """Median rate of the passes; 0 when it does not fit into the memory of a GPU."""
    times: list[float] = []
    count, first = 0, time.perf_counter()
    try:
        on_device = batch.to(plan.device)
        for repeat in range(repeats + 1):
            if times and time.perf_counter() - first > PATIENCE_S:
                break
            _wait(plan.device)
            begun = time.perf_counter()
            with autocast(plan):
                loss = objective(model, on_device)
            loss.total.backward()  # type: ignore[no-untyped-call]
            _wait(plan.device)
            count = loss.count
            if repeat:
                times.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        return 0.0
    finally:
        model.zero_grad(set_to_none=True)
    return count / statistics.median(times)


def _optimizer_seconds(model: nn.Module, config: TrainConfig, precision: Precision) -> float:
    """Time of one update of the optimizer, measured on copies of some of the parameters and scaled to all.

    Copies of all would need as much memory again as training itself.
    """
    roles, parameters = parameter_roles(model), dict(model.named_parameters())
    trained = sorted(roles, key=lambda name: parameters[name].numel())
    total, count, copies = sum(parameters[name].numel() for name in trained), 0, []
    for name in trained:
        copies.append((roles[name], nn.Parameter(parameters[name].detach().clone())))
        count += parameters[name].numel()
        if count >= OPTIMIZER_SAMPLE:
            break
    device = str(copies[0][1].device)
    optimizer = Optimizer(parameter_groups(copies, config), config, precision)
    for _, copy in copies:
        copy.grad = torch.zeros_like(copy)
    optimizer.step()  # allocates the moments
    _wait(device)
    begun = time.perf_counter()
    optimizer.step()
    _wait(device)
    return (time.perf_counter() - begun) * total / count


def _wait(device: str) -> None:
    """Wait until a GPU has done what was asked of it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
