"""The observer that measures a run every so often and says at once what is wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from groundup.train.contracts import Observed
from groundup.train.health.finding import Finding
from groundup.train.health.history import History, RunFacts
from groundup.train.health.measure import Measurement, seen_ahead
from groundup.train.health.rules import diagnose_history

log = logging.getLogger("groundup.train.health")

#: Updates from one measurement to the next: a tenth of the run within these limits. A measured update costs 7 % more
#: (docs/experiments.md), so every tenth costs 0.7 % and every fiftieth 0.14 %.
FEWEST, MOST = 10, 50
#: Measurements of a run, at most; the rules read all that was recorded, so they are not asked more often either.
MOST_SAMPLES = 200


class Monitor:
    """Measures the first update, every tenth to fiftieth and the last, and asks the rules after each.

    Its records go beside the trainer's own: `{"facts": ...}` once, `{"health": ...}` for each measurement and
    `{"finding": ...}` the first time that a rule finds something. A resumed run reads them back, so that its file is
    that of a run that was never stopped. With several processes the first one measures its own part of the batch and,
    with shards (FSDP2), its own part of gradients and weights.

    Args:
        facts: of the run.
        every: updates between measurements; by default chosen by the length of the run.
        earlier: gives the records that earlier runs left, up to the update that this one goes on from.
        tell: is given each finding when it first appears; by default it is logged.
        known: findings that were made before the first update, such as those about the data.
    """

    def __init__(
        self,
        facts: RunFacts,
        *,
        every: int | None = None,
        earlier: Callable[[], Iterable[dict[str, Any]]] = tuple,
        tell: Callable[[Finding], None] | None = None,
        known: Sequence[Finding] = (),
    ) -> None:
        self.facts = facts
        self.every = every or max(FEWEST, min(MOST, facts.num_steps // 10), -(-facts.num_steps // MOST_SAMPLES))
        self.earlier, self.tell, self.known = earlier, tell or log_finding, known
        self._measurement: Measurement | None = None
        self._batches: Sequence[Any] = ()
        self._ahead: float | None = None
        self._asked = self._came = 0.0

    def begin(self, run: Observed) -> None:
        """Take up the history of a run that goes on."""
        self.run = run
        self.history = History(run.stage, self.earlier())

    def before_data(self, step: int) -> None:
        """Start the clock of the source."""
        del step
        self._asked = time.monotonic()

    def before_update(self, step: int, micro_batches: Sequence[Any]) -> None:
        """Put hooks into the model where this update is to be measured."""
        self._came = time.monotonic()
        if step % self.every == 0 or step == self.facts.num_steps - 1:
            self._batches = micro_batches
            self._ahead = seen_ahead(self.run.model, micro_batches) if step == 0 and self.run.may_run else None
            self._measurement = Measurement(self.run.model, self.run.optimizer, reaches_layers=self.run.reaches_layers)

    def recorded(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Add the measurements of the update, and what the rules find that they did not find before."""
        written: list[dict[str, Any]] = []
        if self.history.facts is None:
            written.append({"facts": self.facts.to_dict()})
        place = {"stage": record["stage"], "step": record["step"]}
        self.history.add(record)
        if self._measurement is not None:
            written.append({"health": self._finish(record)})
        for beside in written:
            self.history.add(place | beside)
        if self._measurement is None and "evaluation" not in record:
            return written
        self._measurement, self._batches = None, ()
        for finding in (*self.known, *diagnose_history(self.history).findings):
            if finding.rule not in self.history.findings:
                written.append({"finding": finding.to_dict()})
                self.history.add(place | written[-1])
                self.tell(finding)
        return written

    def _finish(self, record: dict[str, Any]) -> dict[str, Any]:
        assert self._measurement is not None
        whole = time.monotonic() - self._asked
        waited = (self._came - self._asked) / whole if whole > 0 else None
        sample = self._measurement.finish(
            record["step"], record.get("grad_norm"), self._batches, waited=waited, ahead=self._ahead
        )
        return sample.to_record()


def log_finding(finding: Finding) -> None:
    """Say a finding where the program's log goes."""
    place = f" (update {finding.where})" if finding.where else ""
    log.warning("%s%s: %s. %s", finding.rule, place, finding.evidence, finding.fix)
