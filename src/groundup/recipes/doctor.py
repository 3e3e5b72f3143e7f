"""`groundup doctor`: what is wrong with a run, from the folders that it left, with the evidence and the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.align.mask import check_mask
from groundup.align.sft import encode_conversations
from groundup.core import console
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import read_json
from groundup.core.metrics import read_jsonl
from groundup.data.shards import TokenShards
from groundup.model.companions import read_model_config
from groundup.recipes.data_checks import (
    check_checkpoints,
    check_conversation_leak,
    check_leak,
    check_vocabulary,
    recorded_state,
)
from groundup.recipes.reference import compare_with_references
from groundup.recipes.stages import read_chats, work_folder
from groundup.tokenizer import load_tokenizer
from groundup.tokenizer.chat import default_chat_template, load_chat_template
from groundup.train.checkpoint import CheckpointStore
from groundup.train.health.finding import Diagnosis, Finding, Unchecked
from groundup.train.health.history import History
from groundup.train.health.rules import diagnose_history

_OF_DATA = ("validation-leak", "wrong-mask", "tokenizer-mismatch", "vocabulary-mismatch")
#: The stages that leave metrics, with the folders of a speedrun that hold their results.
SPEEDRUN_STAGES = {"pretrain": "base", "sft": "chat"}


@dataclass(frozen=True)
class StageFolders:
    """Where a stage of training left what.

    Attributes:
        name: `pretrain` or `sft`.
        records: of its metrics.
        work: checkpoints and plan.
        model: the model directory; it may not be there yet.
        shards: the folder of `train` and `validation`; None for tuning.
        conversations: what `read_chats` takes; None for pretraining, or where the model does not say.
    """

    name: str
    records: list[dict[str, Any]]
    work: Path
    model: Path
    shards: Path | None
    conversations: Path | None


def find_stages(run: Path) -> list[StageFolders]:
    """The stages of a speedrun's folder, of an OUT.work folder, or of the model directory beside one.

    Raises:
        UsageError: when it is none of these.
    """
    if not run.is_dir():
        raise UsageError(f"{run} is no folder: give the folder of a run (runs/NAME), or the --out of pretrain or sft")
    if (run / "metrics.jsonl").is_file() and any((run / name).is_dir() for name in SPEEDRUN_STAGES):
        records = read_jsonl(run / "metrics.jsonl")
        return [
            StageFolders(
                name,
                records,
                run / name,
                run / out,
                run / "shards" if name == "pretrain" else None,
                run / "corpus" if name == "sft" else None,
            )
            for name, out in SPEEDRUN_STAGES.items()
            if (run / name).is_dir()
        ]
    resolved = run.resolve()
    is_work = resolved.name.endswith(".work")
    out = resolved.with_name(resolved.name.removesuffix(".work")) if is_work else resolved
    work = work_folder(out)
    if not (work / "metrics.jsonl").is_file():
        raise UsageError(
            f"{run} holds no metrics of a run, nor does {work}: give the folder of a run (runs/NAME), or the --out of "
            "pretrain or sft"
        )
    records = read_jsonl(work / "metrics.jsonl")
    names = list(dict.fromkeys(str(record["stage"]) for record in records if "stage" in record)) or ["pretrain"]
    return [
        StageFolders(
            name,
            records,
            work,
            out,
            work / "shards" if name == "pretrain" else None,
            _conversations_of(out) if name == "sft" else None,
        )
        for name in names
    ]


def _conversations_of(model: Path) -> Path | None:
    lineage = model / "lineage.json"
    source = read_json(lineage).get("source") if lineage.is_file() else None
    return Path(source) if isinstance(source, str) and Path(source).exists() else None


def diagnose(stage: StageFolders) -> Diagnosis:
    """Ask every rule about one stage: the curves, the measurements, and the files."""
    history = History(stage.name, stage.records)
    found = diagnose_history(history)
    for name, check in (
        ("damaged-checkpoint", _checkpoints),
        ("vocabulary-mismatch", _vocabulary),
        ("validation-leak", _leak),
        ("wrong-mask", _mask),
    ):
        found = found + _asked(name, check, stage)
    # What was seen in the data before the first update cannot always be seen again: files move, models go on.
    told = {finding.rule for finding in found.findings}
    earlier = [f for f in history.findings.values() if f.rule in _OF_DATA and f.rule not in told]
    return found + compare(stage) + Diagnosis(tuple(earlier))


class _CannotCheckError(GroundupError):
    """A check lacks what it reads."""


def _asked(name: str, check: Callable[[StageFolders], list[Finding]], stage: StageFolders) -> Diagnosis:
    try:
        return Diagnosis(tuple(check(stage)), (name,))
    except _CannotCheckError as error:
        return Diagnosis(unchecked=(Unchecked(name, str(error)),))
    except GroundupError as error:  # files of the run that cannot be read are a finding, not the end of the visit
        fix = "make the file again with the command that wrote it"
        return Diagnosis((Finding(name, "serious", f"it could not be checked: {error}", fix),), (name,))


def _checkpoints(stage: StageFolders) -> list[Finding]:
    store = CheckpointStore(stage.work / "checkpoints")
    if not store.steps():
        raise _CannotCheckError(f"there is no checkpoint in {store.folder}")
    return check_checkpoints(store)


def _vocabulary(stage: StageFolders) -> list[Finding]:
    if not (stage.model / "config.json").is_file():
        raise _CannotCheckError(f"{stage.model} is not written yet")
    shards = [] if stage.shards is None else [TokenShards(stage.shards / part) for part in ("train", "validation")]
    recorded = {
        "the run's checkpoint": recorded_state(stage.work).get("identity", {}).get("tokenizer"),
        "its training (lineage.json)": _lineage(stage).get("tokenizer"),
    }
    return check_vocabulary(read_model_config(stage.model), load_tokenizer(stage.model), shards, recorded)


def _leak(stage: StageFolders) -> list[Finding]:
    if stage.shards is not None:
        return check_leak(TokenShards(stage.shards / "train"), TokenShards(stage.shards / "validation"))
    if stage.conversations is None:
        raise _CannotCheckError("the conversations are not where lineage.json says")
    return check_conversation_leak(*read_chats(stage.conversations, seed=_seed(stage)))


def _mask(stage: StageFolders) -> list[Finding]:
    if stage.name != "sft":
        raise _CannotCheckError("pretraining trains every token")
    if stage.conversations is None or not (stage.model / "tokenizer.json").is_file():
        raise _CannotCheckError("the conversations, or the model with its template, are not where lineage.json says")
    tokenizer = load_tokenizer(stage.model)
    template = load_chat_template(stage.model) or default_chat_template(tokenizer)
    conversations = read_chats(stage.conversations, seed=_seed(stage))[0][:200]
    return check_mask(tokenizer, encode_conversations(tokenizer, template, conversations), conversations)


def compare(stage: StageFolders) -> Diagnosis:
    """Compare the held-out curve with the shipped one of the same recipe."""
    name = "reference-curve"
    if stage.name != "pretrain":
        return Diagnosis(unchecked=(Unchecked(name, "reference curves are of pretraining"),))
    comparison = compare_with_references(History(stage.name, stage.records), recorded_state(stage.work))
    if comparison.reason:
        return Diagnosis(unchecked=(Unchecked(name, comparison.reason),))
    return Diagnosis(tuple(comparison.findings), (name,), notes=(comparison.note,))


def _lineage(stage: StageFolders) -> dict[str, Any]:
    path = stage.model / "lineage.json"
    return dict(read_json(path)) if path.is_file() else {}


def _seed(stage: StageFolders) -> int:
    return int(_lineage(stage).get("seed", 0))


def doctor(run: Path, *, as_json: bool = False) -> bool:
    """Examine a run and print what was found.

    Returns:
        True when something serious was found.

    Raises:
        UsageError: when the folder is not that of a run.
    """
    diagnoses = {stage.name: diagnose(stage) for stage in find_stages(run)}
    if as_json:
        console.say(json.dumps({name: _as_json(found) for name, found in diagnoses.items()}, indent=2))
    else:
        for name, found in diagnoses.items():
            _show(name, found)
    return any(found.is_serious for found in diagnoses.values())


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "findings": [finding.to_dict() for finding in found.findings],
        "checked": list(found.checked),
        "unchecked": {entry.rule: entry.reason for entry in found.unchecked},
        "notes": list(found.notes),
    }


def _show(name: str, found: Diagnosis) -> None:
    console.heading(name)
    if not found.findings:
        console.say("no findings")
    for finding in found.findings:
        where = f", update {finding.where}" if finding.where else ""
        style = "bold red" if finding.severity == "serious" else "bold yellow"
        console.coloured([(f"{finding.severity}: {finding.rule}", style), (where, "dim")])
        console.say(f"  seen: {finding.evidence}")
        console.say(f"  fix:  {finding.fix}")
    for note in found.notes:
        console.say(note)
    console.say(f"checked: {', '.join(found.checked)}")
    for entry in found.unchecked:
        console.say(f"not checked: {entry.rule}: {entry.reason}")
