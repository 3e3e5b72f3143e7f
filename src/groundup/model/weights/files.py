"""Weights to and from safetensors files: every name and shape is checked, nothing is left as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from groundup.core.errors import ModelError
from groundup.core.files import atomic_write, read_json
from groundup.model.hf_config import model_type
from groundup.model.transformer import Transformer
from groundup.model.weights.names import TABLES, slots, to_stored

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_SHOWN = 5


def save_weights(path: Path, model: Transformer) -> None:
    """Write the model's tensors under Hugging Face's names, whole or not at all; a tied head is stored once.

    Raises:
        DataError: when the file cannot be written.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    stored = to_stored(model_type(model.config), state)
    # The writer wants tensors that share no memory; `format` is what transformers looks for.
    data = save({name: tensor.clone() for name, tensor in stored.items()}, metadata={"format": "pt"})
    with atomic_write(path) as file:
        file.write(data)


def load_weights(folder: Path, model: Transformer) -> None:
    """Fill every parameter of `model` from a folder's `model.safetensors`, or from the files its index lists.

    Raises:
        ModelError: when a file is missing or damaged, or a tensor is missing, unexpected or of another shape.
    """
    stored = _StoredTensors(folder)
    kind = model_type(model.config)
    state = model.state_dict()
    where = slots(kind, state)
    names = _match_prefix(kind, stored.names())
    expected = {slot.theirs: slot.stored_shape(tuple(state[name].shape)) for name, slot in where.items()}
    _check_names(stored, kind, names, expected, is_tied=model.head is None)
    for theirs, shape in expected.items():
        found = stored.shape(names[theirs])
        if found != shape:
            raise ModelError(
                f"{stored.file_of(names[theirs])}: tensor {names[theirs]} has shape {list(found)}, the config.json "
                f"makes it {list(shape)}"
            )
    with torch.no_grad():
        current: tuple[str, Tensor] | None = None
        for name, slot in sorted(where.items(), key=lambda item: item[1].theirs):
            if current is None or current[0] != slot.theirs:
                current = (slot.theirs, stored.read(names[slot.theirs]))
            state[name].copy_(slot.take(current[1]))


def _match_prefix(kind: str, found: Iterable[str]) -> dict[str, str]:
    """Full name -> name in the file, for files that leave out the prefix (as the published GPT-2 does)."""
    if kind not in TABLES:
        return {name: name for name in found}
    prefix = TABLES[kind].prefix
    return {name if name.startswith((prefix, "lm_head.")) else prefix + name: name for name in found}


def _check_names(
    stored: _StoredTensors, kind: str, names: dict[str, str], expected: dict[str, Any], *, is_tied: bool
) -> None:
    missing = sorted(set(expected) - set(names))
    unexpected = sorted(set(names) - set(expected))
    if kind in TABLES:
        unexpected = [name for name in unexpected if not re.fullmatch(TABLES[kind].ignored, name)]
        if is_tied:
            unexpected = [name for name in unexpected if name != "lm_head.weight"]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing ({_some(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} are unexpected ({_some(unexpected)})")
    if problems:
        raise ModelError(f"{stored.source} does not fit its config.json: {' and '.join(problems)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


class _StoredTensors:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._where: dict[str, Path] = {}
        self.source = folder / WEIGHTS_FILE
        if self.source.is_file():
            self._where = dict.fromkeys(self._open(self.source).keys(), self.source)
        elif (folder / INDEX_FILE).is_file():
            self.source = folder / INDEX_FILE
            index = read_json(self.source, ModelError)
            if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
                raise ModelError(f"{self.source} has no weight_map: it is not an index of safetensors files")
            for name, file in index["weight_map"].items():
                self._where[name] = folder / Path(str(file)).name
                self._open(self._where[name])
        else:
            raise ModelError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}: it is not a model directory")

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise ModelError(f"{path} does not exist, but {self.source} lists it") from None
            except (SafetensorError, OSError, json.JSONDecodeError) as error:
                raise ModelError(f"{path} is damaged or incomplete: {error}. Copy or make it again") from error
        return self._files[path]

    def names(self) -> list[str]:
        return list(self._where)

    def file_of(self, name: str) -> Path:
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        try:
            return tuple(self._open(self._where[name]).get_slice(name).get_shape())
        except SafetensorError as error:
            raise ModelError(f"{self._where[name]} has no tensor {name}: {error}") from error

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._open(self._where[name]).get_tensor(name)
        return tensor
