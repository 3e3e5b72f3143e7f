"""Writing GGUF files, version 3: whole or not at all, one tensor after the other, never all of them in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.core.files import atomic_write
from groundup.model.ops.blocks import format_by_name
from groundup.model.weights.gguf_format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ARRAY_DEPTH,
    MAX_KEY_BYTES,
    NUMBERS,
    VALUE_TYPES,
    VERSION,
    Typed,
    aligned,
    check_alignment,
    tensor_num_bytes,
)

# llama.cpp's GGML_MAX_NAME is 64 with the final zero; it refuses a file with a longer name.
MAX_NAME_BYTES = 63
# What a type takes from Python: the kinds of numpy arrays (i, u integers, f floats, b bools).
_KINDS = {name: {"f": "iuf", "b": "b"}.get(dtype.kind, "iu") for name, dtype in NUMBERS.items()}

Bytes = bytes | bytearray | memoryview | NDArray[Any]


class TensorSource(NamedTuple):
    """A tensor to be written.

    Attributes:
        name: 1 to 63 bytes.
        shape: outermost dimension first.
        format: name of its block format, such as `F32` or `Q4_K`.
        read: called once, when it is the tensor's turn; gives its bytes, at once or in pieces.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    read: Callable[[], Bytes | Iterable[Bytes]]


def write_gguf(path: Path | str, metadata: Mapping[str, Typed], tensors: Iterable[TensorSource]) -> None:
    """Write a GGUF file, version 3, little-endian.

    Args:
        path: where; what stood there is replaced when the new file is complete.
        metadata: in the order in which it is written; `general.alignment` (u32) also sets the tensors' alignment,
            which is 32 bytes without it.
        tensors: in the order in which they are written. Only one piece of one tensor is held at a time.

    Raises:
        ModelError: for a value that does not fit its type, an unknown type or format, a name that is there twice, or
            a tensor whose bytes are more or fewer than its shape says, naming the key or tensor.
        DataError: when the disk is full or not writable.
    """
    path, tensors = Path(path), list(tensors)
    alignment = DEFAULT_ALIGNMENT
    pairs = [
        _text(f"{path}: key {key!r}", key, MAX_KEY_BYTES) + _typed(f"{path}: key {key!r}", value)
        for key, value in metadata.items()
    ]
    if ALIGNMENT_KEY in metadata:
        alignment = check_alignment(f"{path}: key {ALIGNMENT_KEY!r}", metadata[ALIGNMENT_KEY])
    entries, sizes = _list_tensors(path, tensors, alignment)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(pairs)) + b"".join(pairs) + entries
    with atomic_write(path) as file:
        file.write(head.ljust(aligned(len(head), alignment), b"\0"))
        for tensor, size in zip(tensors, sizes, strict=True):
            _write_tensor(file, f"{path}: tensor {tensor.name!r}", tensor, size)
            file.write(bytes(aligned(size, alignment) - size))


def _list_tensors(path: Path, tensors: list[TensorSource], alignment: int) -> tuple[bytes, list[int]]:
    """The list of tensors as it stands in the file, and the size of each in bytes."""
    entries, sizes, names, offset = bytearray(), [], set(), 0
    for tensor in tensors:
        place = f"{path}: tensor {tensor.name!r}"
        if tensor.name in names:
            raise ModelError(f"{place}: it is there twice")
        names.add(tensor.name)
        try:
            block_format = format_by_name(tensor.format)
        except ModelError as error:
            raise ModelError(f"{place}: {error}") from None
        sizes.append(tensor_num_bytes(place, tensor.shape, block_format))
        entries += _text(place, tensor.name, MAX_NAME_BYTES)
        entries += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        entries += struct.pack("<IQ", block_format.ggml_id, offset)
        offset += aligned(sizes[-1], alignment)
    return bytes(entries), sizes


def _write_tensor(file: BinaryIO, place: str, tensor: TensorSource, size: int) -> None:
    data = tensor.read()
    written = 0
    for piece in [data] if isinstance(data, bytes | bytearray | memoryview | np.ndarray) else data:
        view = memoryview(piece)  # type: ignore[arg-type]  # numpy declares its buffers from Python 3.12 on
        if not view.c_contiguous:
            raise ModelError(f"{place}: its bytes are not contiguous: give numpy.ascontiguousarray of them")
        written += view.nbytes
        if written > size:
            break
        file.write(view)
    if written != size:
        given = f"{written} bytes were given" + (" or more" if written > size else "")
        raise ModelError(f"{place}: {given}, and its shape {list(tensor.shape)} has {size}")


def _text(place: str, text: str, longest: int) -> bytes:
    """A key or name with its length before it."""
    data = _string(place, text)
    if not 8 < len(data) <= 8 + longest:
        raise ModelError(f"{place}: its name has {len(data) - 8} bytes: 1 to {longest} are possible")
    return data


def _string(place: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise ModelError(f"{place}: {text!r:.80} is a {type(text).__name__}, not a string")
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"{place}: {text!r:.80} is no text that UTF-8 can hold: {error.reason}") from None
    return struct.pack("<Q", len(data)) + data


def _typed(place: str, typed: Typed, depth: int = 0) -> bytes:
    """A value with the number of its type before it."""
    kind = typed.type
    if kind == "string":
        return _number_of(kind) + _string(place, typed.value)
    if kind in NUMBERS:
        return _number_of(kind) + _numbers(place, kind, typed.value, ndim=0)
    inner = kind[1:-1]
    if kind != f"[{inner}]" or inner not in VALUE_TYPES:
        known = ", ".join(name for name in VALUE_TYPES if name != "array")
        raise ModelError(f"{place}: value type {kind!r} is not known (known: {known}, and [...] for arrays)")
    return _number_of("array") + _array(place, inner, typed.value, depth + 1)


def _number_of(kind: str) -> bytes:
    return struct.pack("<I", VALUE_TYPES.index(kind))


def _array(place: str, kind: str, values: Any, depth: int) -> bytes:
    """An array: the type of its elements, their number, and they."""
    if depth > MAX_ARRAY_DEPTH:
        raise ModelError(f"{place}: arrays lie more than {MAX_ARRAY_DEPTH} deep in each other")
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise ModelError(f"{place}: {values!r:.80} is no list or array, as [{kind}] needs")
    start = _number_of(kind) + struct.pack("<Q", len(values))
    if kind == "string":
        return start + b"".join(_string(place, text) for text in values)
    if kind == "array":
        return start + b"".join(_inner_array(place, inner, depth) for inner in values)
    return start + _numbers(place, kind, values, ndim=1)


def _inner_array(place: str, typed: Any, depth: int) -> bytes:
    """An array in an array, without the number that says it is one: the outer array has that."""
    if not isinstance(typed, Typed) or not typed.type.startswith("["):
        raise ModelError(f"{place}: an array of arrays holds Typed('[...]', ...), not {typed!r:.80}")
    return _typed(place, typed, depth)[4:]


def _numbers(place: str, kind: str, values: Any, ndim: int) -> bytes:
    """Numbers or bools as they lie in the file."""
    dtype = NUMBERS[kind]
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:  # lists of different lengths in each other
        raise ModelError(f"{place}: {values!r:.80} is no {kind}: {error}") from None
    if array.size == 0:
        array = array.astype(dtype)  # numpy takes an empty list for one of floats
    if array.ndim != ndim or array.dtype.kind not in _KINDS[kind]:
        raise ModelError(f"{place}: {values!r:.80} is no {'array of ' if ndim else ''}{kind}")
    if array.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            wrong = low if low < limits.min else high
            raise ModelError(f"{place}: {wrong} does not fit {kind}, which holds {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype.kind == "f" and not np.array_equal(np.isinf(array), np.isinf(result)):
        raise ModelError(
            f"{place}: {float(np.abs(array[~np.isinf(array)]).max()):g} does not fit {kind}, it would be infinite"
        )
    return result.tobytes()
