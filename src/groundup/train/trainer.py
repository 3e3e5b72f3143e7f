"""The training loop: one for every method, and the same result however often it was stopped."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from groundup.core import console
from groundup.core.config import Config
from groundup.core.errors import CheckpointError, DataError, Interrupted, TrainingError, suggest
from groundup.core.execution import ExecutionPlan
from groundup.core.files import read_json
from groundup.core.interrupt import StopRequest
from groundup.core.metrics import MetricsSink
from groundup.core.seeds import seed_for
from groundup.train.checkpoint import Checkpoint, CheckpointStore
from groundup.train.config import TrainConfig
from groundup.train.contracts import BatchSource, MicroBatch, Objective, Observed, Observer
from groundup.train.distributed import Parallel
from groundup.train.environment import autocast, planned_environment
from groundup.train.gradients import diagnose, norm_of, scale
from groundup.train.optimizer import make_optimizer
from groundup.train.resume import check_same_plan, check_same_settings, load_best
from groundup.train.schedule import learning_rate_at
from groundup.train.state import restore_tensors, saved_tensors

log = logging.getLogger("groundup.train")


@runtime_checkable
class Configured(Protocol):
    """A model that knows the config it was built from."""

    config: Config


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended.

    Attributes:
        steps: updates, skipped ones included.
        seconds: wall time over all runs that it took.
        earlier_s: the part of `seconds` that earlier runs took, as far as their checkpoints kept it.
        tokens: trained tokens.
        best_value: lowest (or highest) watched value; None without evaluations.
        best_step: the update after which it was measured.
        ended: "steps" or "early stopping".
        skipped: updates left out for a non-finite gradient.
    """

    steps: int
    seconds: float
    tokens: int
    best_value: float | None
    best_step: int | None
    ended: str
    skipped: int = 0
    earlier_s: float = field(default=0.0, compare=False)


@dataclass
class Progress:
    """What changes from update to update besides tensors; it goes into the checkpoint as it is."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    best_value: float | None = None
    best_step: int | None = None
    evaluations_without_improvement: int = 0
    nonfinite_in_a_row: int = 0
    skipped: int = 0
    ended: str | None = None
    last_loss: float | None = None


@dataclass(frozen=True)
class Update:
    """What one update measured, over all micro-batches and processes."""

    loss: float
    grad_norm: float
    count: int
    stop: bool
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Trainer:
    """Minimises an objective over a source of batches, with exact resume.

    Args:
        model: its parameters stay in the type they have; `plan.precision` is that of the matrix products.
        source: gives the micro-batches of each update.
        objective: gives their loss sums.
        config: everything that decides the weights.
        plan: how the arithmetic runs (see `plan_for`, which takes a resumed run's plan from its checkpoint).
        folder: the checkpoints go to `folder/checkpoints`; `fit` goes on from them when there are any.
        stage: name in metrics and progress, such as `pretrain`.
        sink: receives one record for each update and each evaluation.
        evaluate: measures the model (in evaluation mode, without gradients, in the plan's precision).
        watch: which of its values decides the best checkpoint and early stopping.
        higher_is_better: of the watched value.
        stop: asks for a checkpoint and an end after the update under way.
        replan: go on under `plan` although the checkpoint was made under another one.
        identity: JSON values that must be the same when resumed (hash of the data, ...); a model's config is added.
        observer: watches the first process, such as `health.monitor.Monitor`.
    """

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        objective: Objective,
        config: TrainConfig,
        plan: ExecutionPlan,
        folder: Path,
        *,
        stage: str,
        sink: MetricsSink,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        watch: str = "loss",
        higher_is_better: bool = False,
        stop: StopRequest | None = None,
        replan: bool = False,
        identity: dict[str, Any] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.model, self.source, self.objective, self.config, self.plan = model, source, objective, config, plan
        self.folder, self.stage, self.sink = folder, stage, sink
        self.evaluate, self.watch, self.higher_is_better = evaluate, watch, higher_is_better
        self.stop, self.replan = stop or StopRequest(), replan
        self.identity: dict[str, Any] = json.loads(json.dumps(identity or {}))
        if isinstance(model, Configured):
            self.identity["model"] = model.config.to_dict()
        self.observer = observer
        self.store = CheckpointStore(folder / "checkpoints")
        self.progress = Progress()

    def fit(self) -> TrainResult:
        """Train to the end, from the newest intact checkpoint when there is one.

        Raises:
            Interrupted: after a checkpoint, when a stop was requested.
            TrainingError: when gradients stay non-finite, or an update has nothing to train on.
            CheckpointError: when the checkpoints are damaged or belong to a run with other settings.
            PlanError: when the recorded execution plan cannot be repeated.
        """
        with planned_environment(self.plan):
            step = self._newest_step()
            self.model.to(self.plan.device)
            self.parallel = Parallel(self.model, self.objective, self.plan)
            self.optimizer = make_optimizer(self.model, self.config, self.plan.precision)
            if step is not None:
                self._resume(step)
            self._earlier_s = self.progress.elapsed_s
            if self.parallel.rank == 0:  # also at step 0: the run may have been killed before its first checkpoint
                self.sink.rewind(self.stage, self.progress.step)
            self._begin_observing()
            try:
                if self.progress.ended is None:
                    self._train()
            finally:
                self.parallel.close()
            return self._result()

    def check_resumable(self) -> None:
        """Raise what `fit` would where a checkpoint is of other settings or data, without touching the model.

        Raises:
            CheckpointError: naming every setting that differs.
        """
        step = self.store.newest_intact()
        if step is not None:
            self._check_settings(step, read_json(self.store.path(step) / "state.json", CheckpointError))

    def load_best(self, model: nn.Module) -> int:
        """Copy the best weights (the last ones without evaluations) into `model`; returns their step."""
        return load_best(self.folder, model)

    def _train(self) -> None:
        done, total, rank = self.progress.step, self.config.num_steps, self.parallel.rank
        shown: AbstractContextManager[console.Ticker | None] = nullcontext()
        if rank == 0:
            shown = console.progress(self.stage, total, "steps", done)
        begun = time.monotonic() - self.progress.elapsed_s
        with shown as ticker:
            while self.progress.ended is None:
                update_begun = time.monotonic()
                update = self._update(self.progress.step)
                now = time.monotonic()
                self.progress.elapsed_s = now - begun
                rate = update.count / max(now - update_begun, 1e-9)
                self._count(update, rate)
                if ticker is not None:
                    ticker.advance(1, f"loss {update.loss:.3f}, {console.format_count(rate)} tokens/s")
                improved = self._evaluate_when_due()
                self.progress.elapsed_s = time.monotonic() - begun
                self._checkpoint_when_due(improved, update.stop)

    def _update(self, step: int) -> Update:
        """One optimizer update; `step` is counted from 0."""
        self._seed(step)
        self.model.train()
        if self.observer is not None:
            self.observer.before_data(step)
        micro_batches = self.source.update(step)
        if not micro_batches:
            raise TrainingError(f"update {step + 1} of {self.stage} has no micro-batches: the source is empty")
        self.parallel.check_micro_batches(len(micro_batches))
        if self.observer is not None:
            self.observer.before_update(step, micro_batches)
        total, count, metrics = self._accumulate(micro_batches)
        stop = float(self.stop.requested)
        summed = self.parallel.sum([total, float(count), stop, *metrics.values()])
        total, count, stop = summed[0], round(summed[1]), summed[2]
        if count == 0:
            raise TrainingError(
                f"update {step + 1} of {self.stage} has no trained tokens: every target of its "
                f"{len(micro_batches)} micro-batches is masked out"
            )
        grad_norm = self._apply(step, total / count, count)
        means = {name: value / count for name, value in zip(metrics, summed[3:], strict=True)}
        return Update(total / count, grad_norm, count, stop > 0, means)

    def _accumulate(self, micro_batches: Any) -> tuple[float, int, dict[str, float]]:
        """Add up loss sums and gradients; nothing is divided yet, since the count is known only at the end."""
        totals, count, metrics = [], 0, dict[str, float]()
        for index, micro_batch in enumerate(micro_batches):
            with self.parallel.micro_batch(last=index == len(micro_batches) - 1):
                with autocast(self.plan):
                    loss = self.parallel.loss(_moved(micro_batch, self.plan.device))
                loss.total.backward()  # type: ignore[no-untyped-call]
            totals.append(loss.total.detach())
            count += loss.count
            for name, value in loss.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + value
        return float(torch.stack(totals).sum()), count, metrics

    def _apply(self, step: int, loss: float, count: int) -> float:
        """Divide the gradients by the global count, clip them, and step, unless they are not finite.

        Returns the gradient norm before clipping.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # DDP and FSDP2 average over the processes; the division by the count is ours.
        to_mean = self.parallel.world_size / count
        grad_norm = norm_of(gradients, self.parallel) * to_mean
        if math.isfinite(grad_norm) and math.isfinite(loss):
            limit = self.config.max_grad_norm
            scale(gradients, to_mean * (limit / grad_norm if 0 < limit < grad_norm else 1.0))
            self.optimizer.set_learning_rate(learning_rate_at(self.config, step))
            self.optimizer.step()
            self.progress.nonfinite_in_a_row = 0
        else:
            self.progress.nonfinite_in_a_row += 1
            self.progress.skipped += 1
            log.warning("%s: update %d skipped: loss %s, gradient norm %s", self.stage, step + 1, loss, grad_norm)
            if self.progress.nonfinite_in_a_row >= self.config.max_nonfinite_steps:
                raise TrainingError(self._diagnosis(step, loss, grad_norm))
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def _diagnosis(self, step: int, loss: float, grad_norm: float) -> str:
        last = "none before it was finite" if self.progress.last_loss is None else f"{self.progress.last_loss:.4g}"
        return (
            f"{self.stage} stopped at update {step + 1}: {self.progress.nonfinite_in_a_row} updates in a row were not "
            f"finite (loss {loss:.4g}, gradient norm {grad_norm:.4g}, learning rate "
            f"{learning_rate_at(self.config, step):.3g}, last finite loss {last}). {diagnose(self.model)}. "
            "Lower learning_rate, raise warmup_steps, or use precision float32; the last checkpoint is from before"
        )

    def _seed(self, step: int) -> None:
        """Give each update its own random state, so that nothing before it (an evaluation, a stop) matters."""
        seed = seed_for(self.config.seed, self.stage, "step", step, self.parallel.rank)
        torch.default_generator.manual_seed(seed)
        if self.plan.device.startswith("cuda"):
            torch.cuda.manual_seed(seed)
        elif self.plan.device == "mps":
            torch.mps.manual_seed(seed)

    def _count(self, update: Update, tokens_per_s: float) -> None:
        progress = self.progress
        rate = learning_rate_at(self.config, progress.step)
        progress.step += 1
        progress.tokens += update.count
        if update.finite:
            progress.last_loss = update.loss
        if progress.step == self.config.num_steps:
            progress.ended = "steps"
        record: dict[str, Any] = {
            "loss": update.loss if update.finite else None,
            "lr": rate,
            "grad_norm": update.grad_norm if update.finite else None,
            "tokens": progress.tokens,
            "tokens_per_s": round(tokens_per_s, 1),
            **({} if update.finite else {"skipped": True}),
        }
        clashes = sorted(update.metrics.keys() & (record.keys() | {"stage", "step", "elapsed_s", "skipped"}))
        if clashes:
            raise TrainingError(
                f"the objective's metric {clashes[0]!r} has the name of one of the trainer's: rename it"
            )
        self._write(record | {name: _finite(value) for name, value in update.metrics.items()})

    def _write(self, record: dict[str, Any]) -> None:
        if self.parallel.rank == 0:
            place = {
                "stage": self.stage,
                "step": self.progress.step,
                "elapsed_s": round(self.progress.elapsed_s, 3),
            }
            self.sink.write({**place, **record})
            for beside in [] if self.observer is None else self.observer.recorded({**place, **record}):
                self.sink.write({**place, **beside})

    def _evaluate_when_due(self) -> bool:
        """Evaluate at the end and every `evaluate_every` updates; returns whether the watched value improved."""
        progress, every = self.progress, self.config.evaluate_every
        if self.evaluate is None or not (progress.ended or (every and progress.step % every == 0)):
            return False
        self.model.eval()
        with torch.no_grad(), autocast(self.plan):
            values = self.evaluate(self.model)
        self.model.train()
        if self.watch not in values:
            raise TrainingError(f"the evaluation has no value {self.watch!r}{suggest(self.watch, tuple(values))}")
        # Each process measured; the first one's number decides for all, so that all do the same.
        value = self.parallel.sum([values[self.watch] if self.parallel.rank == 0 else 0.0])[0]
        self._write({"evaluation": {name: _finite(measured) for name, measured in values.items()}})
        best = progress.best_value
        improved = math.isfinite(value) and (best is None or (value > best if self.higher_is_better else value < best))
        if improved:
            progress.best_value, progress.best_step, progress.evaluations_without_improvement = value, progress.step, 0
        else:
            progress.evaluations_without_improvement += 1
            patience = self.config.early_stopping_patience
            if patience and progress.evaluations_without_improvement >= patience and progress.ended is None:
                progress.ended = "early stopping"
        return improved

    def _checkpoint_when_due(self, improved: bool, stop: bool) -> None:
        progress, every = self.progress, self.config.checkpoint_every
        stopping = stop and progress.ended is None
        if stopping or improved or progress.ended or (every and progress.step % every == 0):
            self._save()
        if stopping:
            raise Interrupted(
                f"{self.stage} stopped after update {progress.step:,} of {self.config.num_steps:,}, saved in "
                f"{self.store.path(progress.step)}: the same command goes on from there"
            )

    def _save(self) -> None:
        """Write a checkpoint from the first process; every process takes part in gathering shards."""
        model, moments = saved_tensors(self.model, self.optimizer, self.parallel)
        failure: DataError | None = None
        if self.parallel.rank == 0:
            state = {
                "stage": self.stage,
                "config": self.config.to_dict(),
                "identity": self.identity,
                "plan": self.plan.to_dict(),
                "source": self.source.state_dict(),
                "optimizer_updates": self.optimizer.num_updates,
                **asdict(self.progress),
            }
            try:
                self.store.save(Checkpoint(self.progress.step, model, moments, state))
            except DataError as error:
                failure = error
        failed = self.parallel.sum([float(failure is not None)])[0]
        if failure is not None:
            raise failure
        if failed:
            raise TrainingError("the first process could not write the checkpoint; see its error")

    def _begin_observing(self) -> None:
        if self.parallel.rank != 0:
            self.observer = None
        if self.observer is not None:
            self.observer.begin(
                Observed(
                    self.model,
                    self.optimizer,
                    self.stage,
                    self.progress.step,
                    reaches_layers=not self.plan.compile,
                    may_run=not self.parallel.sharded,
                )
            )

    def _newest_step(self) -> int | None:
        """The step to resume, after checking that its plan is this run's."""
        step = self.store.newest_intact()
        if step is not None and not self.replan:
            check_same_plan(self.store, step, self.plan)
        return step

    def _resume(self, step: int) -> None:
        checkpoint = self.store.read(step)
        state = checkpoint.state
        self._check_settings(step, state)
        restore_tensors(checkpoint, self.model, self.optimizer, self.parallel)
        self.optimizer.num_updates = state["optimizer_updates"]
        self.source.load_state_dict(state["source"])
        self.progress = Progress(**{name: state[name] for name in asdict(self.progress)})
        if self.progress.step != step:
            raise CheckpointError(f"{self.store.path(step)} holds the state of step {self.progress.step}")
        log.info("%s goes on from update %d in %s", self.stage, step, self.store.path(step))

    def _check_settings(self, step: int, state: dict[str, Any]) -> None:
        check_same_settings(
            self.store.path(step),
            {"stage": state["stage"], "train": state["config"], **state["identity"]},
            {"stage": self.stage, "train": self.config.to_dict(), **self.identity},
        )

    def _result(self) -> TrainResult:
        p = self.progress
        return TrainResult(
            p.step,
            p.elapsed_s,
            p.tokens,
            p.best_value,
            p.best_step,
            p.ended or "steps",
            skipped=p.skipped,
            earlier_s=self._earlier_s,
        )


def _finite(value: float) -> float | None:
    """JSON has no word for infinity and not-a-number."""
    return value if math.isfinite(value) else None


def _moved(micro_batch: Any, device: str) -> Any:
    if not isinstance(micro_batch, MicroBatch):
        raise TrainingError(f"a micro-batch of type {type(micro_batch).__name__} has no method to(device)")
    return micro_batch.to(device)
