"""Where numbers go while a run is under way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from groundup.core.files import explain_write_error, write_bytes, write_text


@runtime_checkable
class MetricsSink(Protocol):
    """Receives one record at a time; values are JSON types."""

    def write(self, record: dict[str, Any]) -> None: ...

    def rewind(self, stage: str, step: int) -> None:
        """Forget the records of `stage` after `step`: a resumed run is about to write them again."""
        ...


class JsonlSink:
    """Appends each record as a line of a `.jsonl` file; a half line left by a crash is cut on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_write_error(path, error) from error
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) != len(data):
                write_bytes(path, whole)

    def write(self, record: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise explain_write_error(self.path, error) from error

    def rewind(self, stage: str, step: int) -> None:
        """Drop the records of `stage` after `step`, which a resumed run is about to write again."""
        kept = [r for r in read_jsonl(self.path) if r.get("stage") != stage or r.get("step", -1) <= step]
        write_text(self.path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


class NullSink:
    """Takes records and keeps none."""

    def write(self, record: dict[str, Any]) -> None:
        del record

    def rewind(self, stage: str, step: int) -> None:
        del stage, step


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the records of a metrics file; a last half line is left out. Empty when the file does not exist."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
