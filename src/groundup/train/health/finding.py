"""What is wrong with a run: the rule that found it, the numbers it saw, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: `serious`: what comes out is worth little, or the number it is judged by is wrong. `warning`: it costs quality or time.
Severity = Literal["serious", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: name of the rule, such as `learning-rate-high`.
        severity: how much it matters.
        evidence: what was seen, with the numbers.
        fix: the setting to change, and to about what.
        first_step, last_step: the updates that it was seen in; None for what is wrong with files.
    """

    rule: str
    severity: Severity
    evidence: str
    fix: str
    first_step: int | None = None
    last_step: int | None = None

    @property
    def where(self) -> str:
        """The updates in words; empty for what is wrong with files."""
        if self.first_step is None:
            return ""
        if self.last_step in (None, self.first_step):
            return f"{self.first_step:,}"
        return f"{self.first_step:,} to {self.last_step:,}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, value: dict[str, Any]) -> Finding | None:
        """Read what `to_dict` wrote; None where it is something else."""
        try:
            finding = cls(**value)
        except TypeError:
            return None
        words = (finding.rule, finding.severity, finding.evidence, finding.fix)
        steps = (finding.first_step, finding.last_step)
        is_sound = all(isinstance(word, str) for word in words) and all(
            step is None or (isinstance(step, int) and not isinstance(step, bool)) for step in steps
        )
        return finding if is_sound else None


@dataclass(frozen=True)
class Unchecked:
    """A rule that could not be applied, and what it lacked."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of all rules.

    Attributes:
        findings: serious ones first.
        checked: names of the rules that were applied.
        unchecked: those that were not.
        notes: what was seen besides, such as the distance to a reference curve.
    """

    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Diagnosis) -> Diagnosis:
        findings = sorted((*self.findings, *other.findings), key=lambda finding: finding.severity != "serious")
        return Diagnosis(
            tuple(findings),
            (*self.checked, *other.checked),
            (*self.unchecked, *other.unchecked),
            (*self.notes, *other.notes),
        )

    @property
    def is_serious(self) -> bool:
        return any(finding.severity == "serious" for finding in self.findings)
