"""Checkpoints that are whole or not there: safetensors and JSON, hashed, renamed into place, `latest` last."""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.core.errors import CheckpointError, DataError, GroundupError
from groundup.core.files import explain_write_error, read_json, sha256_file, sync_folder, write_json

log = logging.getLogger("groundup.train.checkpoint")

FORMAT = 1
_STEP_FOLDER = re.compile(r"step-(\d{8})")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by file and name, and a JSON state."""

    step: int
    model: Tensors
    optimizer: Tensors
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one stage in a folder.

    ::

        checkpoints/
          latest.json               {"name": "step-00000200"}, written last
          step-00000100/            model.safetensors  optimizer.safetensors  state.json
          step-00000200/            index.json (size and SHA-256 of each file)

    A checkpoint is written under a temporary name, flushed and renamed, so that a folder with its final name is
    whole, whatever killed the process. The last two are kept, and the best ones that their states refer to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of which a checkpoint exists, ascending."""
        if not self.folder.is_dir():
            return []
        matches = [_STEP_FOLDER.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, point `latest` at it, and delete those no longer needed.

        Raises:
            DataError: when the disk is full or not writable; the earlier checkpoints are untouched.
        """
        target = self.path(checkpoint.step)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._write_files(temporary, checkpoint)
            if target.exists():  # a damaged one that was passed over, or one beyond the step resumed from
                shutil.rmtree(target)
            temporary.replace(target)
            sync_folder(self.folder)
            write_json(self.folder / "latest.json", {"name": target.name})
        except OSError as error:
            raise explain_write_error(target, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._delete_old(checkpoint)
        return target

    def _write_files(self, folder: Path, checkpoint: Checkpoint) -> None:
        for name, tensors in (("model", checkpoint.model), ("optimizer", checkpoint.optimizer)):
            _save_tensors(folder / f"{name}.safetensors", tensors)
        write_json(folder / "state.json", checkpoint.state)
        files = sorted(folder.iterdir())
        index = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files}
        write_json(folder / "index.json", {"format": FORMAT, "step": checkpoint.step, "files": index})

    def _delete_old(self, newest: Checkpoint) -> None:
        """Keep the last two and the best of each; a step after the newest belongs to an abandoned continuation."""
        steps = [step for step in self.steps() if step <= newest.step]
        keep = {*steps[-2:], newest.state.get("best_step")}
        if len(steps) > 1:
            try:
                keep.add(read_json(self.path(steps[-2]) / "state.json").get("best_step"))
            except GroundupError:
                log.warning("the checkpoint %s has no readable state", self.path(steps[-2]))
        for step in self.steps():
            if step not in keep:
                shutil.rmtree(self.path(step), ignore_errors=True)
        for leftover in self.folder.glob(".step-*.part"):
            shutil.rmtree(leftover, ignore_errors=True)

    def verify(self, step: int) -> None:
        """Compare every file of a checkpoint with its index.

        Raises:
            CheckpointError: naming the first file that is missing, cut short or changed.
        """
        folder = self.path(step)
        index = read_json(folder / "index.json", CheckpointError)
        try:
            version, files = index["format"], dict(index["files"])
            expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
            named_step = int(index["step"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{folder / 'index.json'} is not the index of a checkpoint") from None
        if version != FORMAT:
            raise CheckpointError(f"{folder} has checkpoint format {version}, this version reads {FORMAT}")
        if named_step != step:
            raise CheckpointError(f"{folder / 'index.json'} belongs to step {named_step}")
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            if name not in expected:
                raise CheckpointError(f"{folder / 'index.json'} does not list {name}")
        for name, (size, digest) in expected.items():
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing")
            if path.stat().st_size != size:
                raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes instead of {size:,}: it was cut short")
            if sha256_file(path) != digest:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in index.json")

    def read(self, step: int) -> Checkpoint:
        """Verify and read the checkpoint of a step.

        Raises:
            CheckpointError: when it is damaged.
        """
        weights = self.read_weights(step)
        folder = self.path(step)
        state = dict(read_json(folder / "state.json", CheckpointError))
        return Checkpoint(step, weights, _load_tensors(folder / "optimizer.safetensors"), state)

    def read_weights(self, step: int) -> Tensors:
        """Verify a checkpoint and read the model's part of it; CheckpointError when it is damaged."""
        self.verify(step)
        return _load_tensors(self.path(step) / "model.safetensors")

    def newest_intact(self) -> int | None:
        """The step to go on from: what `latest` names, else the newest that is intact; None when there is none yet.

        A damaged checkpoint is named in a warning and passed over.

        Raises:
            CheckpointError: when there are checkpoints and all are damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        problems = []
        for step in self._in_order(steps):
            try:
                self.verify(step)
            except CheckpointError as error:
                problems.append(str(error))
                log.warning("passing over the checkpoint of step %d: %s", step, error)
            else:
                return step
        raise CheckpointError(
            f"every checkpoint in {self.folder} is damaged: "
            + "; ".join(problems)
            + f". Delete {self.folder} to begin again from step 0"
        )

    def _in_order(self, steps: list[int]) -> list[int]:
        """Newest first, but what `latest` names before all."""
        newest_first = steps[::-1]
        try:
            match = _STEP_FOLDER.fullmatch(str(read_json(self.folder / "latest.json")["name"]))
            latest = int(match[1]) if match else -1
        except (DataError, KeyError, TypeError) as error:
            log.warning("%s: looking for the newest checkpoint instead", error)
            return newest_first
        return sorted(newest_first, key=lambda step: step > latest)


def _save_tensors(path: Path, tensors: Tensors) -> None:
    """Write and flush a safetensors file.

    Raises:
        OSError: when it cannot be written (safetensors wraps the reason in an error of its own).
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _load_tensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
