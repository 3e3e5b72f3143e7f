"""Reading GGUF files: the metadata at once, the tensors as views of the mapped file.

Files come from anywhere, so nothing they say is believed: a count or length is compared with what is left of the file
before anything is allocated for it, and every fault is a ModelError that names the file, the key or tensor and the
value. The format is described in `gguf_format`'s source.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ModelError
from groundup.model.ops.blocks import format_by_id
from groundup.model.weights.gguf_format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ARRAY_DEPTH,
    MAX_DIMS,
    MAX_KEY_BYTES,
    NUMBERS,
    READABLE_VERSIONS,
    VALUE_TYPES,
    Typed,
    aligned,
    check_alignment,
    tensor_num_bytes,
)

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# The smallest entries that can be: length, one character and type, then one byte of value; or one dimension and offset.
_MIN_PAIR_BYTES, _MIN_TENSOR_BYTES = 8 + 1 + 4 + 1, 8 + 1 + 4 + 8 + 4 + 8
_MIN_ELEMENT_BYTES = {"string": 8, "array": 12} | {name: dtype.itemsize for name, dtype in NUMBERS.items()}
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies in its file.

    Attributes:
        name: as the file has it.
        shape: outermost dimension first (GGUF stores it innermost first).
        format: name of its block format, such as `F32` or `Q4_K`.
        offset: its first byte, counted from the beginning of the file.
        num_bytes: its length.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    num_bytes: int


class GgufFile:
    """An open GGUF file; close it, or use it in a `with` block, so that its file can be replaced or deleted.

    Args:
        path: for messages.
        data: the content.

    Attributes:
        version: of the format, 2 or 3.
        alignment: of the tensors' offsets, in bytes.
        typed: the metadata in the file's order, each value with its type, as `write_gguf` takes it.
        tensors: the tensors in the file's order.

    Raises:
        ModelError: when the content is damaged, hostile, or of a version or byte order that is not read here.
    """

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path = path
        self._data: mmap.mmap | bytes | None = data
        parser = _Parser(path, data)
        self.version, num_tensors, num_pairs = parser.header()
        self.typed = parser.metadata(num_pairs)
        self.alignment = DEFAULT_ALIGNMENT
        if ALIGNMENT_KEY in self.typed:
            self.alignment = check_alignment(f"{path}: key {ALIGNMENT_KEY!r}", self.typed[ALIGNMENT_KEY])
        self.tensors = parser.tensors(num_tensors, self.alignment)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The metadata without types: numbers and strings, numpy arrays, lists of strings, lists of arrays."""
        return {key: value.plain() for key, value in self.typed.items()}

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, a read-only view of the file that stays valid after `close`.

        Raises:
            ModelError: when there is no such tensor, or the file was closed.
        """
        if self._data is None:
            raise ModelError(f"{self.path} was closed: open it again to read the tensor {name!r}")
        if name not in self.tensors:
            raise ModelError(f"{self.path} has no tensor {name!r}")
        tensor = self.tensors[name]
        return np.frombuffer(self._data, np.uint8, tensor.num_bytes, tensor.offset)

    def page_releaser(self) -> Callable[[], None]:
        """A function that gives the pages of the file that were read back to the system; it outlives `close`.

        What is read again afterwards is read from the file again. Where the platform has no such call, or the content
        is no mapped file, it does nothing.
        """
        data = self._data
        if not isinstance(data, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return lambda: None
        return lambda: data.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file: it is unmapped now, or when the last view that `raw` returned is gone."""
        self._data = None

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: Path | str) -> GgufFile:
    """Map a GGUF file into memory and read its metadata and the list of its tensors.

    Args:
        path: the file, version 2 or 3, little-endian.

    Raises:
        ModelError: when it is missing, damaged, hostile, or of a version or byte order that is not read here.
    """
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ModelError(f"there is no file {path}")
        with path.open("rb") as file:
            if not file.read(1):
                raise ModelError(f"{path} is empty: it is not a GGUF file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    try:
        return GgufFile(path, data)
    except BaseException:
        data.close()
        raise


class _Parser:
    """Reads a file from front to back; `place` says in messages where it is."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path, self.data, self.end = path, data, len(data)
        self.position, self.place = 0, "the header"

    def fault(self, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {self.place}: {problem}")

    def check_left(self, needed: int, what: str) -> None:
        left = self.end - self.position
        if needed > left:
            raise self.fault(f"{what} needs {needed} bytes, and {left} are left: the file is truncated or damaged")

    def take(self, num_bytes: int, what: str) -> bytes:
        self.check_left(num_bytes, what)
        self.position += num_bytes
        return self.data[self.position - num_bytes : self.position]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def header(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of key-value pairs."""
        magic = self.data[: len(MAGIC)]
        if magic != MAGIC:
            raise self.fault(f"it begins with {magic!r}, not with {MAGIC!r}: this is not a GGUF file")
        self.position = len(MAGIC)
        version = self.u32("the version")
        if version not in READABLE_VERSIONS:
            if 0 < int.from_bytes(version.to_bytes(4, "little"), "big") <= max(READABLE_VERSIONS):
                raise self.fault("the file is big-endian: make it again for a little-endian machine")
            raise self.fault(f"GGUF version {version} is not known here (known: 2 and 3): convert the model again")
        num_tensors, num_pairs = self.u64("the number of tensors"), self.u64("the number of keys")
        self.check_left(
            num_tensors * _MIN_TENSOR_BYTES + num_pairs * _MIN_PAIR_BYTES,
            f"what it announces ({num_tensors} tensors and {num_pairs} keys)",
        )
        return version, num_tensors, num_pairs

    def metadata(self, count: int) -> dict[str, Typed]:
        typed: dict[str, Typed] = {}
        for index in range(count):
            self.place = f"key number {index}"
            key = self.name("the key")
            self.place = f"key {key[:_SHOWN]!r}"
            if key in typed:
                raise self.fault("it is there twice")
            typed[key] = self.value(self.value_type())
        return typed

    def name(self, what: str) -> str:
        """A key or the name of a tensor."""
        length = self.u64(f"the length of {what}")
        if not 1 <= length <= MAX_KEY_BYTES:
            raise self.fault(f"{what} is {length} bytes long: 1 to {MAX_KEY_BYTES} are possible")
        return self.text(length, what)

    def text(self, length: int, what: str) -> str:
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None

    def value_type(self) -> str:
        number = self.u32("the type of its value")
        if number >= len(VALUE_TYPES):
            raise self.fault(f"value type {number} is not known (known: 0 to {len(VALUE_TYPES) - 1})")
        return VALUE_TYPES[number]

    def value(self, kind: str, depth: int = 1) -> Typed:
        if kind == "array":
            return self.array(depth)
        if kind == "string":
            return Typed(kind, self.text(self.u64("the length of its string"), "its string"))
        return Typed(kind, self.numbers(kind, 1)[0].item())

    def numbers(self, kind: str, count: int) -> NDArray[Any]:
        dtype = NUMBERS[kind]
        data = self.take(count * dtype.itemsize, f"its value ({count} of type {kind})")
        if kind == "bool" and data.count(0) + data.count(1) != count:
            wrong = next(byte for byte in data if byte > 1)
            raise self.fault(f"a bool is {wrong}: 0 and 1 are possible")
        return np.frombuffer(data, dtype)

    def array(self, depth: int) -> Typed:
        if depth > MAX_ARRAY_DEPTH:
            raise self.fault(f"arrays lie more than {MAX_ARRAY_DEPTH} deep in each other")
        kind = self.value_type()
        count = self.u64("the length of its array")
        self.check_left(count * _MIN_ELEMENT_BYTES[kind], f"an array of {count} {kind}")
        if kind == "string":
            return Typed("[string]", self.strings(count))
        if kind == "array":
            return Typed("[array]", [self.array(depth + 1) for _ in range(count)])
        return Typed(f"[{kind}]", self.numbers(kind, count))

    def strings(self, count: int) -> list[str]:
        """Many strings: a vocabulary has some 100,000, so the loop makes no calls of ours."""
        data, position, end, unpack = self.data, self.position, self.end, _U64.unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                (length,) = unpack(data, position)
                position += 8
                if length > end - position:
                    break
                found.append(str(data[position : position + length], "utf-8"))
                position += length
        except UnicodeDecodeError as error:
            raise self.fault(f"string {len(found)} is not UTF-8: {error.reason} at byte {error.start}") from None
        except struct.error:
            pass  # no room for a length
        if len(found) < count:
            raise self.fault(f"string {len(found)} of {count} goes past the end: the file is truncated or damaged")
        self.position = position
        return found

    def tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        """The list of tensors, whose offsets count from the first aligned byte after it."""
        found: dict[str, GgufTensor] = {}
        for index in range(count):
            self.place = f"tensor number {index}"
            name = self.name("the name")
            self.place = f"tensor {name[:_SHOWN]!r}"
            if name in found:
                raise self.fault("it is there twice")
            found[name] = self.tensor(name)
        start = aligned(self.position, alignment)
        for name, tensor in found.items():
            self.place = f"tensor {name[:_SHOWN]!r}"
            if tensor.offset % alignment:
                raise self.fault(f"its offset {tensor.offset} is no multiple of the alignment {alignment}")
            if start + tensor.offset + tensor.num_bytes > self.end:
                raise self.fault(
                    f"its {tensor.num_bytes} bytes at offset {tensor.offset} go past the end of the data, which has "
                    f"{max(self.end - start, 0)} bytes: the file is truncated or damaged"
                )
        ordered = sorted(found.values(), key=lambda tensor: tensor.offset)
        for first, second in pairwise(ordered):
            if first.offset + first.num_bytes > second.offset:
                self.place = f"tensor {second.name[:_SHOWN]!r}"
                raise self.fault(
                    f"its offset {second.offset} lies inside of tensor {first.name[:_SHOWN]!r}, which has "
                    f"{first.num_bytes} bytes at offset {first.offset}"
                )
        return {
            name: GgufTensor(name, tensor.shape, tensor.format, start + tensor.offset, tensor.num_bytes)
            for name, tensor in found.items()
        }

    def tensor(self, name: str) -> GgufTensor:
        """One entry of the list; its offset still counts from the start of the data."""
        num_dims = self.u32("the number of dimensions")
        if num_dims > MAX_DIMS:
            raise self.fault(f"it has {num_dims} dimensions: 1 to {MAX_DIMS} are possible")
        shape = tuple(self.u64("a dimension") for _ in range(num_dims))[::-1]
        number = self.u32("the type")
        offset = self.u64("the offset")
        try:
            block_format = format_by_id(number)
        except ModelError as error:
            raise self.fault(str(error)) from None
        size = tensor_num_bytes(f"{self.path}: {self.place}", shape, block_format)
        return GgufTensor(name, shape, block_format.name, offset, size)
