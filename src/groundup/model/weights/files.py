"""Weights to and from safetensors files: every name and shape is checked, and no second copy is made on the way.

Tensors are read from the file into their own memory. Views of a mapped file would cost nothing at first, but safetensors
aligns tensors to 8 bytes only, and the float32 products of a matrix at such an address differ in the last bits from
those of the same matrix where torch puts it; a mapped file could also not be replaced on Windows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.core.errors import ConfigError, ModelError
from groundup.core.files import atomic_write, write_json
from groundup.core.progress import Progress
from groundup.model.hf_config import model_type
from groundup.model.ops.integers import IntegerFormat, Integers, pack, round_to_integers
from groundup.model.transformer import Transformer
from groundup.model.weights.compressed import PACKED, SCALE, SHAPE
from groundup.model.weights.names import TABLES, Slot, slots
from groundup.model.weights.safetensors_read import INDEX_FILE, WEIGHTS_FILE, StoredTensor, StoredTensors, some_of
from groundup.model.weights.stored_model import Stored, open_stored

__all__ = ["INDEX_FILE", "MAX_SHARD_BYTES", "WEIGHTS_FILE", "load_weights", "save_weights", "stored_dtype"]

#: Above this the weights go to several files, as at Hugging Face.
MAX_SHARD_BYTES = 5 * 10**9
# What is converted at a time.
_PIECE_BYTES = 16 << 20
#: As in `safetensors_read.DTYPES`, in the same order.
DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# Saving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outgoing:
    """A tensor to be stored, made when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save_weights(
    path: Path, model: Transformer, *, rounded: IntegerFormat | None = None, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Path]:
    """Write the model's tensors under Hugging Face's names, in the dtype they have; a tied head is stored once.

    Each file is written whole or not at all, one tensor after the other: beyond the model, memory holds one tensor.
    The weights that stood at `path` before, in one file or several, no longer count afterwards. A save that is
    interrupted leaves the new weights, the old ones, or (where both are in several files) none, never a mixture.

    Args:
        path: the file, `model.safetensors` of a folder.
        model: what to store.
        rounded: the weights of the linear maps in the layers are rounded so (but `unrounded_maps`), and all else is
            stored in bfloat16.
        max_shard_bytes: with more bytes than this, the tensors go to `model-00001-of-0000N.safetensors` and so on, and
            `model.safetensors.index.json` lists them. A tensor is never divided.

    Returns:
        The files with tensors, in order.

    Raises:
        ConfigError: for a limit below one byte.
        DataError: when a file cannot be written.
        ModelError: for a tensor of a dtype that is not stored here, a family whose weights cannot be rounded, or weights
            to round that are not finite.
    """
    if max_shard_bytes < 1:
        raise ConfigError(f"max_shard_bytes is {max_shard_bytes}: give the bytes of the largest file, such as 5e9")
    kind = model_type(model.config)
    shards = _divide(_outgoing(kind, model.state_dict(), rounded), max_shard_bytes)
    index = path.with_name(f"{path.name}.index.json")
    if len(shards) == 1:
        _write_shard(path, shards[0])
        index.unlink(missing_ok=True)
        return [path]
    files = [path.with_stem(f"{path.stem}-{i:05d}-of-{len(shards):05d}") for i in range(1, len(shards) + 1)]
    index.unlink(missing_ok=True)  # first: under an old index, old and new files of the same names would count
    for file, shard in zip(files, shards, strict=True):
        _write_shard(file, shard)
    tensors = [tensor for shard in shards for tensor in shard]
    totals = {
        "total_parameters": sum(tensor.num_bytes // tensor.dtype.itemsize for tensor in tensors),
        "total_size": sum(tensor.num_bytes for tensor in tensors),
    }
    where = {tensor.name: file.name for file, shard in zip(files, shards, strict=True) for tensor in shard}
    write_json(index, {"metadata": totals, "weight_map": dict(sorted(where.items()))})
    path.unlink(missing_ok=True)  # last: a single file counts before an index
    return files


def unrounded_maps(kind: str, shapes: Mapping[str, tuple[int, ...]], rounded: IntegerFormat) -> list[str]:
    """Linear maps that `save_weights` leaves unrounded: the head, and those whose rows are no whole groups.

    Args:
        kind: the family (`model_type`).
        shapes: of our tensors.
        rounded: how the others are rounded.

    Returns:
        the names of their modules, as the family has them.

    Raises:
        ModelError: for a family whose weights are stored transposed.
    """
    where = slots(kind, shapes)
    if any(slot.transposed for slot in where.values()):
        raise ModelError(
            f"{kind} stores its matrices transposed, for which there is no layout of rounded weights: "
            "choose a type of a GGUF file, such as Q8_0"
        )
    left = [
        slot.theirs.removesuffix(".weight")
        for name, slot in where.items()
        if is_map(name, shapes[name]) and not rounded.fits(shapes[name][1])
    ]
    return ["lm_head", *left] if kind in TABLES else left


def is_map(name: str, shape: tuple[int, ...]) -> bool:
    """Whether one of our tensors is the matrix of a linear map in a layer, of those that can be rounded."""
    return name.startswith("layers.") and name.endswith(".weight") and len(shape) == 2


def _outgoing(kind: str, state: Mapping[str, Tensor], rounded: IntegerFormat | None) -> list[_Outgoing]:
    members: dict[str, dict[str, Tensor]] = {}
    where = slots(kind, state)
    for name, slot in where.items():
        members.setdefault(slot.theirs, {})[name] = state[name]
    left = () if rounded is None else unrounded_maps(kind, {key: tuple(t.shape) for key, t in state.items()}, rounded)
    found: list[_Outgoing] = []
    for theirs, own in members.items():
        name, tensor = next(iter(own.items()))
        dtype = reduce(torch.promote_types, (member.dtype for member in own.values()))  # as fusing them does
        if dtype not in _DTYPE_NAMES:
            raise ModelError(f"{name} is of {dtype}, which is not stored here (known: {', '.join(DTYPES)})")
        if rounded is not None and is_map(name, tuple(tensor.shape)) and theirs.removesuffix(".weight") not in left:
            found += _rounded(theirs.removesuffix(".weight"), name, tensor, rounded)
            continue
        kept = torch.bfloat16 if rounded is not None and dtype.is_floating_point else dtype
        make = partial(_stored_tensor, [(where[key], value) for key, value in own.items()], kept)
        found.append(_Outgoing(theirs, kept, where[name].stored_shape(tuple(tensor.shape)), make))
    return found


def _stored_tensor(members: list[tuple[Slot, Tensor]], dtype: torch.dtype) -> Tensor:
    """Their tensor out of ours, fused and transposed as they store it."""
    parts = [tensor.detach().cpu() for _, tensor in sorted(members, key=lambda member: member[0].part)]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (whole.t() if members[0][0].transposed else whole).contiguous().to(dtype)


def _rounded(module: str, name: str, tensor: Tensor, format: IntegerFormat) -> list[_Outgoing]:
    """What a rounded weight consists of; it is rounded anew for each part, so that memory holds one."""
    rows, columns = tensor.shape
    values = tensor.detach()

    def integers() -> Integers:
        try:
            return round_to_integers(values.float().cpu().contiguous().numpy(), format)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None

    def scales() -> Tensor:
        return torch.from_numpy(integers().scales).to(torch.bfloat16)  # exact, as `round_to_integers` makes them

    scale = _Outgoing(f"{module}.{SCALE}", torch.bfloat16, (rows, format.num_groups(columns)), scales)
    words = -(-columns * format.bits // 32)
    packed = _Outgoing(
        f"{module}.{PACKED}", torch.int32, (rows, words), lambda: torch.from_numpy(pack(integers().codes, format.bits))
    )
    shape = _Outgoing(f"{module}.{SHAPE}", torch.int64, (2,), lambda: torch.tensor([rows, columns]))
    return [packed, scale, shape]


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


def _write_shard(path: Path, tensors: list[_Outgoing]) -> None:
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
            data = bytes_of(tensor.make().reshape(-1))
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
    state = model.state_dict()
    stored = open_stored(folder, model_type(model.config), {name: tuple(x.shape) for name, x in state.items()})
    made = {name: torch.empty_like(tensor, device=device) for name, tensor in state.items() if tensor.is_meta}
    members: dict[str, dict[str, Slot]] = {}
    for name, slot in stored.slots.items():
        members.setdefault(slot.theirs, {})[name] = slot
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


def _fill(stored: Stored, targets: list[tuple[Slot, Tensor]]) -> None:
    """Read a stored tensor into the one of ours that it is, or into the several that it holds."""
    if not isinstance(stored, StoredTensor):
        whole = torch.from_numpy(stored.floats())
        for slot, target in targets:
            target.copy_(slot.take(whole))
        return
    dtype = DTYPES[stored.dtype_name]
    slot, target = targets[0]
    if len(targets) > 1 or slot != Slot(slot.theirs, 0, 1, False) or not target.is_contiguous():
        whole = torch.empty(stored.shape, dtype=dtype)
        stored.read(bytes_of(whole.view(-1)))
        for slot, target in targets:
            target.copy_(slot.take(whole))
        return
    flat = target.view(-1)
    if flat.dtype == dtype and flat.device.type == "cpu":
        stored.read(bytes_of(flat))
        return
    piece = torch.empty(min(len(flat), _PIECE_BYTES // dtype.itemsize), dtype=dtype)
    for start in range(0, len(flat), _PIECE_BYTES // dtype.itemsize):
        part = piece[: len(flat) - start]
        stored.read(bytes_of(part), start)
        flat[start : start + len(part)].copy_(part)


def bytes_of(flat: Tensor) -> memoryview:
    """The memory of a contiguous tensor of one dimension on the CPU, without a copy."""
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy says so from Python 3.12 on
