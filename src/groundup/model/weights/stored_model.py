"""The tensors of a model directory beside ours: found and checked before any values are read. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.core.errors import ModelError
from groundup.core.files import read_json
from groundup.model.weights.compressed import CompressedTensor, join_rounded, read_settings
from groundup.model.weights.names import TABLES, Slot, check_tensors, slots
from groundup.model.weights.safetensors_read import StoredTensor, StoredTensors, printable

Stored = StoredTensor | CompressedTensor


@dataclass(frozen=True)
class StoredModel:
    """A directory's weights.

    Attributes:
        source: the file with all of them, or the index.
        slots: our name -> where in which of their tensors it lies.
        tensors: their name, as the table of the family has it -> the tensor.
    """

    source: Path
    slots: dict[str, Slot]
    tensors: dict[str, Stored]


def open_stored(folder: Path, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> StoredModel:
    """Find what a model consists of in a folder's safetensors files.

    Args:
        folder: of the files and the config.json.
        kind: the family whose names they have (`model_type`).
        shapes: our tensors, which hold floating-point numbers.

    Raises:
        ModelError: when a file is missing or damaged, or tensors are missing, unexpected, or of another shape or kind
            of number; one message names them all.
    """
    found = StoredTensors(folder)
    config = folder / "config.json"
    values: Any = read_json(config, ModelError) if config.exists() else {}
    rounded = read_settings(values if isinstance(values, dict) else {})
    tensors: dict[str, Stored] = dict(found.tensors if rounded is None else join_rounded(found.tensors, rounded))
    where = slots(kind, shapes)
    by_name = {theirs: tensors[name] for theirs, name in _match_prefix(kind, found.source, tensors).items()}
    expected = {slot.theirs: slot.stored_shape(shapes[name]) for name, slot in where.items()}
    foreign = [
        f"{theirs} is stored as {tensor.dtype_name}, not as floating-point numbers"
        for theirs, tensor in sorted(by_name.items())
        if theirs in expected and not tensor.is_floating
    ]
    ignored = TABLES[kind].ignored if kind in TABLES else r"$^"
    if "head.weight" not in shapes and kind in TABLES:  # tied, and stored all the same
        ignored = rf"{ignored}|lm_head\.weight"
    there = {theirs: tuple(tensor.shape) for theirs, tensor in by_name.items()}
    check_tensors(str(found.source), "the config.json", there, expected, ignored=ignored, foreign=foreign)
    return StoredModel(found.source, where, by_name)


def _match_prefix(kind: str, source: Path, tensors: Mapping[str, Stored]) -> dict[str, str]:
    """Name in our table -> name in the file, which may leave out the prefix (the published GPT-2) or be an old one."""
    prefix, older = (TABLES[kind].prefix, TABLES[kind].older) if kind in TABLES else ("", ())
    found: dict[str, str] = {}
    for name in tensors:
        full = name if name.startswith((prefix, "lm_head.")) else prefix + name
        for pattern, now in older:
            full = re.sub(pattern, now, full)
        if full in found:
            raise ModelError(
                f"{source} has both {printable(found[full])} and {printable(name)}: which of them counts is not clear"
            )
        found[full] = name
    return found
