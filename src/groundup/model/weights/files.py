"""Weights to and from safetensors files: every name and shape is checked, and no second copy is made on the way.

Tensors are read from the file into their own memory. Views of a mapped file would cost nothing at first, but safetensors
aligns tensors to 8 bytes only, and the float32 products of a matrix at such an address differ in the last bits from
those of the same matrix where torch puts it; a mapped file could also not be replaced on Windows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.core.errors import ConfigError, ModelError
from groundup.core.files import atomic_write, write_json
from groundup.model.hf_config import model_type
from groundup.model.transformer import Transformer
from groundup.model.weights.names import TABLES, Slot, check_tensors, slots, to_stored
from groundup.model.weights.safetensors_read import (
    DTYPES,
    INDEX_FILE,
    WEIGHTS_FILE,
    StoredTensor,
    StoredTensors,
    bytes_of,
    printable,
    some_of,
)

__all__ = ["INDEX_FILE", "MAX_SHARD_BYTES", "WEIGHTS_FILE", "Progress", "load_weights", "save_weights", "stored_dtype"]

#: Called with (tensors done, all tensors).
Progress = Callable[[int, int], None]
#: Above this the weights go to several files, as at Hugging Face.
MAX_SHARD_BYTES = 5 * 10**9
# What is converted at a time.
_PIECE_BYTES = 16 << 20
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# Saving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outgoing:
    """A tensor to be stored, made from our `members` when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    members: dict[str, Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() for tensor in self.members.values()) * self.dtype.itemsize

    def make(self, kind: str) -> Tensor:
        on_cpu = {name: tensor.detach().cpu() for name, tensor in self.members.items()}
        return to_stored(kind, on_cpu)[self.name]


def save_weights(path: Path, model: Transformer, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
    """Write the model's tensors under Hugging Face's names, in the dtype they have; a tied head is stored once.

    Each file is written whole or not at all, one tensor after the other: beyond the model, memory holds one tensor.
    The weights that stood at `path` before, in one file or several, no longer count afterwards. A save that is
    interrupted leaves the new weights, the old ones, or (where both are in several files) none, never a mixture.

    Args:
        path: the file, `model.safetensors` of a folder.
        model: what to store.
        max_shard_bytes: with more bytes than this, the tensors go to `model-00001-of-0000N.safetensors` and so on, and
            `model.safetensors.index.json` lists them. A tensor is never divided.

    Returns:
        The files with tensors, in order.

    Raises:
        ConfigError: for a limit below one byte.
        DataError: when a file cannot be written.
        ModelError: for a tensor of a dtype that is not stored here.
    """
    if max_shard_bytes < 1:
        raise ConfigError(f"max_shard_bytes is {max_shard_bytes}: give the bytes of the largest file, such as 5e9")
    kind = model_type(model.config)
    shards = _divide(_outgoing(kind, model.state_dict()), max_shard_bytes)
    index = path.with_name(f"{path.name}.index.json")
    if len(shards) == 1:
        _write_shard(path, shards[0], kind)
        index.unlink(missing_ok=True)
        return [path]
    files = [path.with_stem(f"{path.stem}-{i:05d}-of-{len(shards):05d}") for i in range(1, len(shards) + 1)]
    index.unlink(missing_ok=True)  # first: under an old index, old and new files of the same names would count
    for file, shard in zip(files, shards, strict=True):
        _write_shard(file, shard, kind)
    tensors = [tensor for shard in shards for tensor in shard]
    totals = {
        "total_parameters": sum(tensor.num_bytes // tensor.dtype.itemsize for tensor in tensors),
        "total_size": sum(tensor.num_bytes for tensor in tensors),
    }
    where = {tensor.name: file.name for file, shard in zip(files, shards, strict=True) for tensor in shard}
    write_json(index, {"metadata": totals, "weight_map": dict(sorted(where.items()))})
    path.unlink(missing_ok=True)  # last: a single file counts before an index
    return files


def _outgoing(kind: str, state: Mapping[str, Tensor]) -> list[_Outgoing]:
    members: dict[str, dict[str, Tensor]] = {}
    where = slots(kind, state)
    for name, slot in where.items():
        members.setdefault(slot.theirs, {})[name] = state[name]
    found = []
    for theirs, own in members.items():
        name, tensor = next(iter(own.items()))
        dtype = reduce(torch.promote_types, (member.dtype for member in own.values()))  # as fusing them does
        if dtype not in _DTYPE_NAMES:
            raise ModelError(f"{name} is of {dtype}, which is not stored here (known: {', '.join(DTYPES)})")
        found.append(_Outgoing(theirs, dtype, where[name].stored_shape(tuple(tensor.shape)), own))
    return found


def _divide(tensors: list[_Outgoing], max_shard_bytes: int) -> list[list[_Outgoing]]:
    """Shards in the model's order, each filled until the next tensor would exceed the limit."""
    shards: list[list[_Outgoing]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_shard(path: Path, tensors: list[_Outgoing], kind: str) -> None:
    """Write one safetensors file, byte for byte what `safetensors.torch.save` would make."""
    order = list(_DTYPE_NAMES)
    tensors = sorted(tensors, key=lambda tensor: (order.index(tensor.dtype), tensor.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # what transformers looks for
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            data = bytes_of(tensor.make(kind).reshape(-1))
            assert len(data) == tensor.num_bytes, tensor.name
            file.write(data)


# Loading ----------------------------------------------------------------------------------------------------------


def load_weights(folder: Path, model: Transformer, *, device: str = "cpu", on_progress: Progress | None = None) -> None:
    """Fill every parameter of `model` from a folder's `model.safetensors`, or from the files its index lists.

    A model that was made on the meta device gets its memory here. Beyond that, 16 MB are needed where values are
    converted to the dtype that the model has, and one stored tensor where the family stores it fused or transposed.

    Args:
        folder: of the files.
        model: its parameters are filled where they are, or made where they are on the meta device.
        device: where parameters are made.
        on_progress: called with (tensors read, all tensors).

    Raises:
        ModelError: when a file is missing or damaged, or tensors are missing, unexpected, or of another shape or kind
            of number; one message names them all.
    """
    stored = StoredTensors(folder)
    kind = model_type(model.config)
    state = model.state_dict()
    where = slots(kind, state)
    names = _match_prefix(kind, stored)
    _check(stored, kind, names, {name: (slot, state[name]) for name, slot in where.items()}, is_tied=model.head is None)
    made = {name: torch.empty_like(tensor, device=device) for name, tensor in state.items() if tensor.is_meta}
    members: dict[str, dict[str, Slot]] = {}
    for name, slot in where.items():
        members.setdefault(names[slot.theirs], {})[name] = slot
    with torch.no_grad():
        in_order = sorted(members.items(), key=lambda item: stored.tensors[item[0]].place)
        for done, (theirs, own) in enumerate(in_order):
            if on_progress is not None:
                on_progress(done, len(in_order))
            _fill(stored.tensors[theirs], [(slot, made.get(name, state[name])) for name, slot in own.items()])
    model.load_state_dict(made, strict=False, assign=True)
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if empty:
        raise ModelError(
            f"{stored.source} gives no values for {some_of(empty)}: make the model on the CPU, not on meta"
        )


def stored_dtype(folder: Path) -> str:
    """The smallest dtype that holds a folder's weights exactly: bfloat16 or float16 where all are, else float32.

    Raises:
        ModelError: when a file is missing or damaged.
    """
    names = {tensor.dtype_name for tensor in StoredTensors(folder).tensors.values()}
    return {frozenset({"BF16"}): "bfloat16", frozenset({"F16"}): "float16"}.get(frozenset(names), "float32")


def _match_prefix(kind: str, stored: StoredTensors) -> dict[str, str]:
    """Name in our table -> name in the file, which may leave out the prefix (the published GPT-2) or be an old one."""
    prefix, older = (TABLES[kind].prefix, TABLES[kind].older) if kind in TABLES else ("", ())
    found: dict[str, str] = {}
    for name in stored.tensors:
        full = name if name.startswith((prefix, "lm_head.")) else prefix + name
        for pattern, now in older:
            full = re.sub(pattern, now, full)
        if full in found:
            raise ModelError(
                f"{stored.source} has both {printable(found[full])} and {printable(name)}: which of them counts is not clear"
            )
        found[full] = name
    return found


def _check(
    stored: StoredTensors, kind: str, names: dict[str, str], wanted: dict[str, tuple[Slot, Tensor]], *, is_tied: bool
) -> None:
    """Raise one ModelError for all that does not fit."""
    expected = {slot.theirs: slot.stored_shape(tuple(tensor.shape)) for slot, tensor in wanted.values()}
    dtypes = {slot.theirs: tensor.dtype for slot, tensor in wanted.values()}
    ignored = TABLES[kind].ignored if kind in TABLES else r"$^"
    if is_tied and kind in TABLES:
        ignored = rf"{ignored}|lm_head\.weight"
    there = {theirs: stored.tensors[name] for theirs, name in names.items()}
    foreign = [
        f"{theirs} is stored as {tensor.dtype_name}, the model has {dtypes[theirs]}"
        for theirs, tensor in sorted(there.items())
        if theirs in dtypes and not tensor.becomes(dtypes[theirs])
    ]
    shapes = {theirs: tuple(tensor.shape) for theirs, tensor in there.items()}
    check_tensors(str(stored.source), "the config.json", shapes, expected, ignored=ignored, foreign=foreign)


def _fill(stored: StoredTensor, targets: list[tuple[Slot, Tensor]]) -> None:
    """Read a stored tensor into the one of ours that it is, or into the several that it holds."""
    dtype = stored.dtype
    slot, target = targets[0]
    if len(targets) > 1 or slot != Slot(slot.theirs, 0, 1, False) or not target.is_contiguous():
        whole = torch.empty(stored.shape, dtype=dtype)
        stored.read(whole.view(-1))
        for slot, target in targets:
            target.copy_(slot.take(whole))
        return
    flat = target.view(-1)
    if flat.dtype == dtype and flat.device.type == "cpu":
        stored.read(flat)
        return
    piece = torch.empty(min(len(flat), _PIECE_BYTES // dtype.itemsize), dtype=dtype)
    for start in range(0, len(flat), _PIECE_BYTES // dtype.itemsize):
        part = piece[: len(flat) - start]
        stored.read(part, start)
        flat[start : start + len(part)].copy_(part)
