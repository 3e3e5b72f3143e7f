"""The measurements of one stage of a run, read from the records of `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.train.health.finding import Finding

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunFacts:
    """What the rules must know besides measurements; it is the first record of a watched run.

    Attributes:
        vocab_size: ids that the model predicts.
        parameters: of the model.
        num_steps: updates that the run will have.
        learning_rate: the peak.
        max_grad_norm: length to which gradients are cut; 0 when they are not.
        optimizer: `adamw` or `muon`.
        warmup_steps: updates in which the learning rate rises.
        is_fresh: the model began with random weights, not with those of a trained model.
        epoch_tokens: trained tokens of one pass over the data; None where nobody counted.
        unigram_entropy: nats per trained token of a model that knows frequencies and no context; None likewise.
    """

    vocab_size: int
    parameters: int
    num_steps: int
    learning_rate: float
    max_grad_norm: float
    optimizer: str
    warmup_steps: int
    is_fresh: bool
    epoch_tokens: int | None = None
    unigram_entropy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, value: dict[str, Any]) -> RunFacts | None:
        """Read the facts of a record; None where it has others than these, so that old files stay readable."""
        names = {each.name for each in fields(cls)}
        try:
            return cls(**{name: entry for name, entry in value.items() if name in names})
        except TypeError:
            return None


@dataclass(frozen=True)
class Sample:
    """What was measured inside of the model and its optimizer in one update.

    Attributes:
        step: the update, counted from 1.
        residual: root mean square of the residual stream before the first layer and after each.
        branch: for each layer, the root mean square of what it adds over that of what it receives.
        silent: for each layer, the share of MLP units whose output was below `SILENT` for every token.
        gradient: norm of the gradient by part of the model: `embed`, `layer 0`, ...
        update: for each role (`matrix`, `table`, `vector`) the median, over its parameters, of the root mean square of
            the step over that of the values.
        trained: share of the tokens whose target is trained.
        shifted: share of the trained targets that are the next input, where that can be seen.
        copied: share of the trained targets that are the input itself.
        ahead: share of the tokens of a text whose hidden vectors change with its last token; only in the first update.
        waited: share of the update's time in which the source had not given its micro-batches.
    """

    step: int
    residual: tuple[float, ...] = ()
    branch: tuple[float, ...] = ()
    silent: tuple[float, ...] = ()
    gradient: dict[str, float] = field(default_factory=dict)
    update: dict[str, float] = field(default_factory=dict)
    trained: float | None = None
    shifted: float | None = None
    copied: float | None = None
    ahead: float | None = None
    waited: float | None = None

    def to_record(self) -> dict[str, Any]:
        """The measurements as JSON, in four digits; what is not finite becomes null."""
        values = asdict(self)
        del values["step"]
        return {name: _short(value) for name, value in values.items() if value not in (None, (), {})}

    @classmethod
    def from_record(cls, step: int, value: dict[str, Any]) -> Sample:
        """Read a record; null becomes not-a-number."""
        names = {each.name for each in fields(cls)} - {"step"}
        return cls(step, **{name: _long(entry) for name, entry in value.items() if name in names})


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(entry) for entry in value]
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _long(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _long(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return tuple(_long(entry) for entry in value)
    return math.nan if value is None else float(value)


class History:
    """The records of one stage, in their order; it can grow while the run goes on.

    Attributes:
        stage: name of the stage.
        facts: of the run; None for a run that was not watched.
        evaluations: step and values of each.
        samples: measurements inside of the model.
        findings: what was reported while the run went on, by rule.
    """

    def __init__(self, stage: str, records: Iterable[dict[str, Any]] = ()) -> None:
        self.stage = stage
        self.facts: RunFacts | None = None
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.samples: list[Sample] = []
        self.findings: dict[str, Finding] = {}
        self._updates: list[tuple[float, ...]] = []
        for record in records:
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """Take in one record; those of other stages, and what cannot be read, are left out."""
        step = record.get("step")
        if record.get("stage") != self.stage or not isinstance(step, int):
            return
        self.__dict__.pop("_table", None)
        evaluation, health, facts, finding = (record.get(n) for n in ("evaluation", "health", "facts", "finding"))
        if isinstance(evaluation, dict):
            values = {name: float(value) for name, value in evaluation.items() if isinstance(value, (int, float))}
            self.evaluations.append((step, values))
        elif isinstance(health, dict):
            self.samples.append(Sample.from_record(step, health))
        elif isinstance(facts, dict):
            self.facts = RunFacts.from_record(facts) or self.facts
        elif isinstance(finding, dict):
            read = Finding.from_record(finding)
            if read is not None:
                self.findings[read.rule] = read
        elif "loss" in record:
            names = ("loss", "lr", "grad_norm", "tokens", "tokens_per_s")
            self._updates.append((float(step), *(_number(record.get(name)) for name in names)))

    @cached_property
    def _table(self) -> FloatArray:
        return np.array(self._updates, dtype=np.float64).reshape(-1, 6)

    @property
    def num_updates(self) -> int:
        return len(self._updates)

    @property
    def steps(self) -> IntArray:
        """Number of each update, counted from 1."""
        return self._table[:, 0].astype(np.int64)

    @property
    def losses(self) -> FloatArray:
        """Mean loss of each update; not-a-number where the update was skipped."""
        return self._table[:, 1]

    @property
    def learning_rates(self) -> FloatArray:
        return self._table[:, 2]

    @property
    def grad_norms(self) -> FloatArray:
        """Length of the gradient before it was cut; not-a-number where the update was skipped."""
        return self._table[:, 3]

    @property
    def tokens(self) -> FloatArray:
        """Trained tokens up to and including each update."""
        return self._table[:, 4]

    @property
    def passes(self) -> float | None:
        """How often the data was gone through; None where its size is not known."""
        if self.facts is None or not self.facts.epoch_tokens or not self.num_updates:
            return None
        return float(self.tokens[-1]) / self.facts.epoch_tokens

    @property
    def progress(self) -> float:
        """Share of the run's updates that are done; 1 where their number is not known."""
        if self.facts is None:
            return 1.0
        return min(1.0, float(self.steps[-1]) / self.facts.num_steps) if self.num_updates else 0.0

    def watched(self) -> tuple[IntArray, FloatArray]:
        """Steps and values of the held-out measure: bits per byte where there are any, else the loss."""
        name = "bits_per_byte" if any("bits_per_byte" in values for _, values in self.evaluations) else "loss"
        pairs = [(step, values[name]) for step, values in self.evaluations if name in values]
        return np.array([step for step, _ in pairs], dtype=np.int64), np.array([value for _, value in pairs])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
