"""The rules in one list, and what each needs before it can be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from groundup.train.health.finding import Diagnosis, Finding, Unchecked
from groundup.train.health.history import History


@dataclass(frozen=True)
class Need:
    """Something that a history must hold: in words (of what is missing), and as a test."""

    missing: str
    is_met: Callable[[History], bool]


@dataclass(frozen=True)
class Rule:
    """A pure function of a history, with what it needs."""

    name: str
    check: Callable[[History], Finding | None]
    needs: tuple[Need, ...] = ()


FACTS = Need("the run was not watched (no facts in metrics.jsonl)", lambda h: h.facts is not None)
SAMPLES = Need("no measurements inside of the model in metrics.jsonl", lambda h: bool(h.samples))
LAYERS = Need("the layers were not measured (a compiled run, or another sort of model)", lambda h: _has_layers(h))
UNIGRAMS = Need(
    "nobody counted how often each token occurs", lambda h: h.facts is not None and h.facts.unigram_entropy is not None
)
PASSES = Need("the size of the data is not known", lambda h: h.passes is not None)


def updates(count: int) -> Need:
    """At least `count` updates."""
    return Need(f"fewer than {count} updates", lambda h: h.num_updates >= count)


def evaluations(count: int) -> Need:
    """At least `count` evaluations on held-out data."""
    return Need(f"fewer than {count} evaluations on held-out data", lambda h: len(h.evaluations) >= count)


def _has_layers(history: History) -> bool:
    return any(sample.residual for sample in history.samples)


def all_rules() -> tuple[Rule, ...]:
    """Every rule that reads a history, in the order in which they are reported."""
    from groundup.train.health.curve_rules import CURVE_RULES
    from groundup.train.health.model_rules import MODEL_RULES

    return (*CURVE_RULES, *MODEL_RULES)


def diagnose_history(history: History) -> Diagnosis:
    """Ask every rule; one whose needs are not met is reported as unchecked."""
    findings, checked, unchecked = [], [], []
    for rule in all_rules():
        missing = next((need.missing for need in rule.needs if not need.is_met(history)), None)
        if missing is not None:
            unchecked.append(Unchecked(rule.name, missing))
            continue
        checked.append(rule.name)
        finding = rule.check(history)
        if finding is not None:
            findings.append(finding)
    findings.sort(key=lambda finding: finding.severity != "serious")
    return Diagnosis(tuple(findings), tuple(checked), tuple(unchecked))
