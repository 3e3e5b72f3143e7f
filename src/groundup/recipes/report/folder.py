"""What a run folder holds. Nothing in it is trusted: a missing or damaged file becomes a sentence on the page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.core.errors import DataError

Record = dict[str, Any]

# file -> what it is and the command that writes it
SOURCES = {
    "plan.json": ("The plan", "groundup speedrun"),
    "stages.json": ("The ledger of stages", "groundup speedrun"),
    "corpus/corpus.json": ("The corpus", "groundup corpus"),
    "metrics.jsonl": ("Training", "groundup pretrain"),
    "eval/tokenizer.json": ("The measurement of the tokenizer", "groundup eval"),
    "eval/language.json": ("The measurement of bits per byte", "groundup eval"),
    "eval/answers.json": ("The test of answers", "groundup eval"),
    "eval/transcript.jsonl": ("The test of answers", "groundup eval"),
    "eval/samples.json": ("Sampling", "groundup eval"),
    "base/lineage.json": ("Pretraining", "groundup pretrain"),
    "chat/lineage.json": ("Tuning on conversations", "groundup sft"),
}


@dataclass(frozen=True)
class RunFiles:
    """The readable content of a run folder.

    Attributes:
        name: of the run: the folder's name.
        place: the folder as a command of the page should name it, without the way to it.
        objects: file -> JSON object, for the files that hold one.
        records: file -> JSON objects, for the files that hold many.
        problems: file -> a sentence that says why there is nothing of it.
    """

    name: str
    place: str
    objects: dict[str, Record] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def object(self, name: str) -> Record:
        return self.objects.get(name, {})

    def many(self, name: str) -> list[Record]:
        return self.records.get(name, [])

    def problem(self, name: str) -> str:
        """Why a section that lives from this file is empty; an empty text when it is not."""
        return self.problems.get(name, "")


def read_run(run: Path) -> RunFiles:
    """Read all files of `SOURCES` that are there.

    Raises:
        DataError: when `run` is no folder or holds none of the files.
    """
    if not run.is_dir():
        raise DataError(f"{run} is no folder: give the folder of a run, such as runs/NAME")
    full = run.resolve()
    files = RunFiles(name=full.name, place=f"{full.parent.name}/{full.name}".lstrip("/"))
    for name in SOURCES:
        _read(run, name, files)
    if not files.objects and not files.records and all("was not run" in text for text in files.problems.values()):
        raise DataError(f"{run} is no run folder: none of {', '.join(SOURCES)} is in it. Run  groundup speedrun  first")
    return files


def _read(run: Path, name: str, files: RunFiles) -> None:
    what, command = SOURCES[name]
    path = run / name
    if not path.is_file():
        files.problems[name] = f"{what} was not run: {name} is not in the folder of this run ({command} writes it)."
        return
    many = name.endswith(".jsonl") or name == "eval/samples.json"
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = _parse_lines(text) if name.endswith(".jsonl") else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        files.problems[name] = f"{name} cannot be read: {error}."
        return
    if many and isinstance(values, list) and all(isinstance(item, dict) for item in values):
        files.records[name] = values
    elif not many and isinstance(values, dict):
        files.objects[name] = values
    else:
        found = "list of objects" if many else "object"
        files.problems[name] = f"{name} cannot be used: it does not hold a JSON {found}."
        return
    if not values:
        files.problems[name] = f"{name} is empty."


def _parse_lines(text: str) -> list[Any]:
    """The values of the lines that end; a last one without its end was cut by a crash.

    A line ends with \\n alone: `str.splitlines` would tear answers that hold U+2028 or a form feed.
    """
    return [json.loads(line) for line in text.split("\n")[:-1] if line.strip()]


def table_of(value: Any) -> Record:
    """The value when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def rows_of(value: Any) -> list[Record]:
    """The objects in a JSON list; anything else is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def flatten(value: Record, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names of a nested object's values, in its order."""
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            pairs += flatten(item, f"{name}.")
        else:
            pairs.append((name, item))
    return pairs
