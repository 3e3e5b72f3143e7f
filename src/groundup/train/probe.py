"""A short measurement before the first step: which precision, kernels and micro-batch this machine runs fastest."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from groundup.core.errors import TrainingError, UsageError
from groundup.core.execution import (
    AttentionPath,
    ExecutionPlan,
    MatmulPath,
    Precision,
    has_fast_bfloat16,
    machine_fingerprint,
)
from groundup.model.ops.paths import compute_paths, has_onednn
from groundup.train.config import TrainConfig
from groundup.train.contracts import MicroBatch, Objective
from groundup.train.environment import autocast, planned_environment
from groundup.train.optimizer import Optimizer, parameter_groups, parameter_roles

log = logging.getLogger("groundup.train.probe")

#: bfloat16 must be this much faster to be chosen, since it costs accuracy.
BFLOAT16_GAIN = 1.1
#: Another library or kernel than torch's default must be this much faster: less is within what a measurement varies by.
PATH_GAIN = 1.04
#: torch.compile takes half a minute before the first step; it is tried for runs that are predicted to take so long.
COMPILE_FROM_S = 600.0
#: Seconds after the first pass after which a candidate gets no further one: a large model takes seconds for one, and varies less.
PATIENCE_S = 4.0
#: Passes of models from this size on take seconds, and few are timed: its precisions are measured twice, in turn and on a quarter
#: of the rows, and each one's better rate counts. Freed memory is given back too (recipes.training). Timed once each, they came out either way round by a third.
LARGE_MODEL_PARAMETERS = 50_000_000
#: Parameters on which an update of the optimizer is timed.
OPTIMIZER_SAMPLE = 20_000_000
#: A larger micro-batch must be this much faster than the one before it, since it needs more memory.
LARGER_GAIN = 1.03


@dataclass(frozen=True)
class Measurement:
    """Forward and backward pass of one micro-batch; `seconds` is what measuring it took, compilation included."""

    precision: Precision
    micro_batch: int
    items_per_s: float
    matmul: MatmulPath = "torch"
    attention: AttentionPath = "fused"
    compile: bool = False
    seconds: float = 0.0


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
    matmuls: Sequence[MatmulPath] | None = None,
    attentions: Sequence[AttentionPath] = ("fused",),
    compile_for: int | None = None,
    repeats: int = 5,
    config: TrainConfig | None = None,
) -> ProbeResult:
    """Measure candidates and return the plan with the fastest ones filled in.

    Precision and the library of the products are chosen first, at the smallest micro-batch, then the kernel of attention,
    then the micro-batch, from small to large as long as more rows gain, so that the probe itself needs little more memory
    than the run, then whether to compile. The model's weights stay as they are. A candidate that does not fit into the
    memory of a GPU is left out.

    Args:
        model: the one to be trained.
        objective: its loss.
        make_batch: gives a micro-batch of n rows, as long as those of the run.
        plan: device, threads and the rest, which are kept.
        micro_batches: candidates.
        precisions: candidates; None tries bfloat16 only where the device multiplies it natively.
        matmuls: candidates for float32 products; None tries oneDNN on CPUs where torch has it.
        attentions: candidates.
        compile_for: trained items of the whole run and all processes: where they are predicted to take long
            (COMPILE_FROM_S), torch.compile is a candidate too. None keeps what the plan says.
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
    with planned_environment(plan):
        model.to(plan.device).train()
        bench = _Bench(model, objective, make_batch, repeats)
        ways = _ways(plan, precisions or native_precisions(plan.device), matmuls)
        smallest = sizes[0]
        rows, rounds = (max(1, smallest // 4), 2) if is_large(model) and len(ways) > 1 else (smallest, 1)
        chosen, rate = bench.fastest([way.replace(micro_batch=rows) for way in ways], rounds)
        others = [chosen.replace(attention=path) for path in attentions if path != chosen.attention]
        if others:
            chosen, rate = bench.fastest([chosen, *others], 1, {chosen: rate})
        chosen, rate = chosen.replace(micro_batch=smallest), rate if rows == smallest else 0.0
        rate = rate or bench.rate(chosen)
        for size in sizes[1:]:
            larger = bench.rate(chosen.replace(micro_batch=size))
            if larger < rate * LARGER_GAIN:
                break
            chosen, rate = chosen.replace(micro_batch=size), larger
        if rate == 0:
            raise TrainingError(
                f"{smallest} rows do not fit into the memory of {plan.device}: use smaller micro-batches"
            )
        if compile_for is not None and not chosen.compile:
            predicted_s = compile_for / (rate * plan.world_size)
            chosen, rate = bench.compiled_where_it_pays(chosen, rate, predicted_s)
        optimizer_s = _optimizer_seconds(model, config or TrainConfig(), chosen.precision)
    chosen = chosen.replace(machine=machine_fingerprint())
    seconds = time.perf_counter() - begun
    log.info("probe of %.1f s chose %s: %.0f/s", seconds, describe(chosen), rate)
    return ProbeResult(chosen, rate, optimizer_s, tuple(bench.measurements), seconds)


def describe(plan: ExecutionPlan) -> str:
    """What a probe settles, in words."""
    parts: list[str] = [plan.precision]
    if plan.matmul == "onednn":
        parts.append("products by oneDNN")
    if plan.attention == "stored":
        parts.append("stored attention patterns")
    if plan.compile:
        parts.append("compiled")
    return f"{', '.join(parts)}, micro-batches of {plan.micro_batch}"


def _ways(
    plan: ExecutionPlan, precisions: Sequence[Precision], matmuls: Sequence[MatmulPath] | None
) -> list[ExecutionPlan]:
    """The plan in each precision, in float32 also with each library of products."""
    libraries: Sequence[MatmulPath] = matmuls or ("torch",)
    if matmuls is None and plan.device == "cpu" and has_onednn():
        libraries = ("torch", "onednn")
    in_float32 = libraries if "float32" in precisions else ()
    ways = [plan.replace(precision="float32", matmul=path) for path in in_float32]
    # Under autocast all products are oneDNN's already.
    return ways + [plan.replace(precision="bfloat16", matmul="torch")] * ("bfloat16" in precisions)


def _handicap(plan: ExecutionPlan) -> float:
    """How much faster a plan must be than the default one."""
    gain = BFLOAT16_GAIN if plan.precision == "bfloat16" else 1.0
    for differs in (plan.matmul != "torch", plan.attention != "fused", plan.compile):
        gain *= PATH_GAIN if differs else 1.0
    return gain


class _Bench:
    """Times passes of one model under different plans, and keeps the measurements."""

    def __init__(
        self, model: nn.Module, objective: Objective, make_batch: Callable[[int], MicroBatch], repeats: int
    ) -> None:
        self.model, self.objective, self.make_batch, self.repeats = model, objective, make_batch, repeats
        self.measurements: list[Measurement] = []

    def rate(self, plan: ExecutionPlan) -> float:
        """Items per second under a plan; 0 where it cannot be run."""
        begun = time.perf_counter()
        batch = self.make_batch(plan.micro_batch)
        with compute_paths(plan.matmul, plan.attention):
            rate = _items_per_s(self.model, self.objective, batch, plan, self.repeats)
        taken = time.perf_counter() - begun
        self.measurements.append(
            Measurement(plan.precision, plan.micro_batch, rate, plan.matmul, plan.attention, plan.compile, taken)
        )
        return rate

    def fastest(
        self, plans: Sequence[ExecutionPlan], rounds: int, known: dict[ExecutionPlan, float] | None = None
    ) -> tuple[ExecutionPlan, float]:
        """The plan with the best rate, handicaps considered, timed in turn."""
        rates = {plan: (known or {}).get(plan, 0.0) for plan in plans}
        for _ in range(rounds):
            for plan in plans:
                if known is None or plan not in known:
                    rates[plan] = max(rates[plan], self.rate(plan))
        best = max(plans, key=lambda plan: rates[plan] / _handicap(plan))
        return best, rates[best]

    def compiled_where_it_pays(
        self, plan: ExecutionPlan, rate: float, predicted_s: float
    ) -> tuple[ExecutionPlan, float]:
        """The plan compiled, where the run is long and gains more than compiling costs; else as it is."""
        if predicted_s < COMPILE_FROM_S:
            return plan, rate
        compiled = plan.replace(compile=True)
        self.model.compile()
        try:
            faster = self.rate(compiled)
        except RuntimeError as error:  # no compiler, or one that fails: what torch raises then is one of these
            log.info("the step cannot be compiled here: %s", str(error).splitlines()[0])
            return plan, rate
        finally:
            self.model._compiled_call_impl = None
        if faster < rate * PATH_GAIN:
            return plan, rate
        saved_s, cost_s = predicted_s * (1 - rate / faster), self.measurements[-1].seconds
        return (compiled, faster) if saved_s > cost_s else (plan, rate)


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
    count, first = 0, math.inf
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
            else:  # what compiling or preparing kernels took does not count towards the patience
                first = time.perf_counter()
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
