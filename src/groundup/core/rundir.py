"""A run's folder: which stages are finished, from which inputs, and what they left."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from groundup.core.errors import DataError, UsageError
from groundup.core.files import read_json, sha256_file, sha256_json, write_json


class RunDir:
    """`runs/NAME`: the stages' outputs, `metrics.jsonl` and `stages.json`, the ledger of finished stages.

    The folder is made by what is first written into it, so that a run that cannot begin leaves nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO | None = None

    def lock(self) -> None:
        """Keep other processes from training in this folder until this one ends (POSIX only).

        Raises:
            UsageError: when another process holds it.
        """
        if self._lock is not None or sys.platform == "win32":
            return
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / ".lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks
            raise UsageError(
                f"another process is working in {self.path}: wait for it, or choose another folder (--name, --out)"
            ) from None
        self._lock = file

    def unlock(self) -> None:
        """Let others work here again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def ledger_path(self) -> Path:
        return self.path / "stages.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def ledger(self) -> dict[str, Any]:
        return dict(read_json(self.ledger_path)) if self.ledger_path.exists() else {}

    def is_current(self, stage: str, inputs: dict[str, Any]) -> bool:
        """True when `stage` finished from these same inputs and its outputs are still as it left them."""
        entry = self.ledger().get(stage)
        if entry is None or entry["inputs"] != sha256_json(inputs):
            return False
        return all(
            (self.path / name).is_file() and sha256_file(self.path / name) == digest
            for name, digest in entry["outputs"].items()
        )

    def finish(self, stage: str, inputs: dict[str, Any], outputs: list[Path], seconds: float, **facts: Any) -> None:
        """Write `stage` into the ledger with the hash of its inputs and of each output file."""
        ledger = self.ledger()
        ledger[stage] = {
            "inputs": sha256_json(inputs),
            "outputs": {path.relative_to(self.path).as_posix(): sha256_file(path) for path in outputs},
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        write_json(self.ledger_path, ledger)

    def stage(self, stage: str, inputs: dict[str, Any], work: Callable[[], tuple[list[Path], dict[str, Any]]]) -> bool:
        """Run `work` unless the stage is current. Returns True when it ran.

        `work` returns the files it wrote and facts for the ledger; `earlier_s` among them are seconds that runs before
        this one spent on the stage.
        """
        if self.is_current(stage, inputs):
            return False
        start = time.monotonic()
        outputs, facts = work()
        missing = [str(path) for path in outputs if not path.is_file()]
        if missing:
            raise DataError(f"stage {stage} did not leave {', '.join(missing)}")
        earlier_s = float(facts.pop("earlier_s", 0.0))
        self.finish(stage, inputs, outputs, earlier_s + time.monotonic() - start, **facts)
        return True

    def facts(self, stage: str) -> dict[str, Any]:
        """What the ledger holds of a finished stage; empty when it has not finished."""
        return dict(self.ledger().get(stage, {}))
