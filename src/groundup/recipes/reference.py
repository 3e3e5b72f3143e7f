"""Reference curves: what the held-out loss of a shipped recipe was, to lay a run of the same recipe beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files as resource_files
from typing import Any

import numpy as np

from groundup.core.files import sha256_json
from groundup.train.health.finding import Finding
from groundup.train.health.history import History
from groundup.train.resume import differences

#: Settings that change no update, or only the order of the data and the starting values.
_FREE = ("seed", "evaluate_every", "checkpoint_every", "early_stopping_patience", "max_nonfinite_steps")
#: The band is at least so wide: seeds are few, and precisions and machines differ too.
SMALLEST_BAND = 0.01


@dataclass(frozen=True)
class Reference:
    """The curve of one recipe.

    Attributes:
        name: of the recipe.
        command: how a user runs it.
        settings: everything that decides the curve, from `settings_of`.
        tokens: trained tokens of each point.
        values: held-out bits per byte there, for each seed.
        made: machine, date and version.
    """

    name: str
    command: str
    settings: dict[str, Any]
    tokens: list[int]
    values: list[list[float]]
    made: dict[str, str]

    def at(self, tokens: float) -> tuple[float, float] | None:
        """Mean and half width of the band (two standard deviations) after so many tokens; None outside of the curve."""
        places = np.array(self.tokens, dtype=np.float64)
        if not 0.99 * places[0] <= tokens <= 1.01 * places[-1]:
            return None
        curves = np.array(self.values)
        each = np.array([np.interp(np.log(tokens), np.log(places), curve) for curve in curves])
        spread = 2 * float(each.std(ddof=1)) if len(each) > 1 else 0.0
        return float(each.mean()), max(spread, SMALLEST_BAND * float(each.mean()))


@dataclass(frozen=True)
class Comparison:
    """A run beside a curve.

    Attributes:
        reason: why there is no comparison; empty where there is one.
        note: the outcome in a sentence.
        findings: one where the run is worse than the band.
    """

    reason: str = ""
    note: str = ""
    findings: list[Finding] = field(default_factory=list)


def references() -> list[Reference]:
    """Every curve that is shipped."""
    folder = resource_files("groundup.recipes") / "reference_curves"
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)
    return [Reference(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def settings_of(state: dict[str, Any]) -> dict[str, Any]:
    """What decides the curve of a pretraining run, from the state of one of its checkpoints.

    The text is named by the hash of its tokens: another split, tokenizer or Python version (whose documentation is the
    text of `python-docs`) has other held-out numbers, by more than the seeds of the training differ.
    """
    sources = state["source"].get("sources", [state["source"]])
    return {
        "train": {name: value for name, value in state["config"].items() if name not in _FREE},
        "model": state["identity"]["model"],
        "starting_values": state["identity"].get("starting_values"),
        "text_sha256": sha256_json(state["identity"]["data"])[:16],
        "rows": [[source["batch_size"], source["context"]] for source in sources],
    }


def compare_with_references(history: History, state: dict[str, Any]) -> Comparison:
    """Lay the held-out curve of a run beside the shipped one of the same recipe.

    Args:
        history: of pretraining.
        state: of one of its checkpoints; empty when there is none.
    """
    if not state or not history.evaluations:
        return Comparison("it needs a run with a checkpoint and an evaluation")
    ours = settings_of(state)
    nearest: tuple[int, str] | None = None
    for reference in references():
        different = differences(reference.settings, ours)
        if not different:
            return _beside(history, reference)
        if nearest is None or len(different) < nearest[0]:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            nearest = (
                len(different),
                f"no recipe with these settings; {reference.name}: {'; '.join(different[:3])}{more}",
            )
    return Comparison(nearest[1] if nearest else "no curve is shipped")


def _beside(history: History, reference: Reference) -> Comparison:
    steps, values = history.watched()
    trained = dict(zip(history.steps.tolist(), history.tokens.tolist(), strict=True))
    points = [
        (trained[step], float(value), int(step)) for step, value in zip(steps, values, strict=True) if step in trained
    ]
    inside = [
        (tokens, value, step, band) for tokens, value, step in points if (band := reference.at(tokens)) is not None
    ]
    if not inside:
        return Comparison(f"no evaluation lies on the curve of {reference.name}")
    tokens, value, step, (mean, width) = inside[-1]
    note = (
        f"held-out bits per byte after {tokens:,.0f} tokens: {value:.3f}, reference {mean:.3f} ± {width:.3f} "
        f"({reference.name}, {len(reference.values)} seeds, {reference.made.get('date', 'undated')})"
    )
    if value <= mean + width:
        return Comparison(note=note)
    finding = Finding(
        "reference-curve",
        "warning",
        note,
        f"the settings are those of  {reference.command}  : look at the findings above, the text, and changes of the code",
        step,
    )
    return Comparison(note=note, findings=[finding])
