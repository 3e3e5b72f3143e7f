"""Reading safetensors files: one, or the several that an index lists, strictly, without mapping their values.

Files come from anywhere: an index may be damaged, lie about its files, or name others than those of its folder.
Imports no torch. Formats: https://huggingface.co/docs/safetensors, and transformers' `model.safetensors.index.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from groundup.core.errors import ModelError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# The index of DeepSeek-V3 has 9 MB. Python needs up to some 20 times of what it parses.
MAX_JSON_BYTES = 64 << 20
#: The dtypes that are read and written, in the order in which safetensors puts them into a file. numpy has no bfloat16:
#: its bits stand for it.
DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_FLOATING = ("F64", "F32", "BF16", "F16")
_SHOWN, _SHOWN_LENGTH = 10, 200


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file.

    Attributes:
        file: the file.
        dtype_name: as safetensors names it, such as `BF16`.
        shape: its shape.
        offset: its first byte, counted from the beginning of the file.
    """

    file: Path
    dtype_name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def place(self) -> tuple[Path, int]:
        """Sorted by this, tensors are read from front to back."""
        return self.file, self.offset

    @property
    def is_floating(self) -> bool:
        """True for floating-point numbers."""
        return self.dtype_name in _FLOATING

    def numbers(self) -> NDArray[Any]:
        """All values, in memory of their own and of this shape; bfloat16 as its bits (uint16)."""
        values = np.empty(self.shape, DTYPES[self.dtype_name])
        self.read(memoryview(values.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]  # numpy says so from Python 3.12 on
        return values

    def floats(self) -> NDArray[np.float32]:
        """All values, which must be floating-point, as float32."""
        values = self.numbers()
        if self.dtype_name == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32, copy=False)

    def read(self, out: memoryview, start: int = 0) -> None:
        """Fill memory with the values from number `start` on.

        Raises:
            ModelError: when the file cannot be read, or is shorter than it was.
        """
        left = out
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset + start * DTYPES[self.dtype_name].itemsize)
                while left:
                    count = file.readinto(left)
                    if not count:
                        raise ModelError(f"{self.file} became shorter while it was read: copy or make it again")
                    left = left[count:]
        except OSError as error:
            raise ModelError(f"{self.file} cannot be read: {error}") from error


class StoredTensors:
    """The list of tensors in a folder's safetensors files; no values are read.

    Attributes:
        source: the single file, or the index.
        tensors: name -> where it lies.

    Raises:
        ModelError: when a file is missing or damaged, or the index and the files contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.source = folder / WEIGHTS_FILE
        if self.source.is_file():
            self.tensors = _read_header(self.source)
        elif (folder / INDEX_FILE).is_file():
            self.source = folder / INDEX_FILE
            self.tensors = _read_shards(self.source)
        else:
            raise ModelError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}: it is not a model directory")


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    """The tensors of the files that an index lists, which must be those that the files hold."""
    file_of = _read_index(index)
    tensors: dict[str, StoredTensor] = {}
    for file in dict.fromkeys(file_of.values()):
        path = _path_beside(index, file)
        found = _read_header(path)
        tensors |= found
        for problem, wrong in (
            (
                "lists tensors that are not in {}",
                [name for name in file_of if file_of[name] == file and name not in found],
            ),
            ("lists for other files what {} holds too", [name for name in found if file_of.get(name, file) != file]),
            ("leaves out tensors of {}", [name for name in found if name not in file_of]),
        ):
            if wrong:
                raise ModelError(f"{index} {problem.format(path)}: {some_of(wrong)}. Copy or make the folder again")
    return tensors


def _path_beside(index: Path, file: str) -> Path:
    """The file of that name in the index's folder."""
    path = index.parent / PureWindowsPath(file).name  # without folders, of either kind of system
    try:
        there = path.is_file()
    except OSError:  # a name that is too long
        there = False
    if not there:
        raise ModelError(f"{printable(str(path))} does not exist, but {index} lists it")
    if path.name != file:
        raise ModelError(
            f"{index} lists {printable(file)}: a name of a file in the same folder is needed, without a path"
        )
    return path


def _read_index(index: Path) -> dict[str, str]:
    """Name of each tensor -> name of its file."""
    try:
        num_bytes = index.stat().st_size
        with index.open("rb") as file:
            values = _read_json(index, file, num_bytes)
    except OSError as error:
        raise ModelError(f"{index} cannot be read: {error}") from error
    weight_map = values.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index} has no weight_map: it is not an index of safetensors files")
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str):
            raise ModelError(f"{index}: the file of {printable(name)} is {printable(repr(file_name))}, not a name")
    return weight_map


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = _read_json(path, file, length)
        # safetensors sees to it that the tensors fill the rest of the file without overlap, each to its size.
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _read_json(path: Path, file: BinaryIO, num_bytes: int) -> dict[str, Any]:
    """The next bytes of a file as a JSON object in which no key is there twice."""
    left = path.stat().st_size - file.tell()
    if num_bytes > min(left, MAX_JSON_BYTES):
        raise _damaged(path, f"it announces {num_bytes} bytes of JSON, {left} follow, and {MAX_JSON_BYTES} are read")
    try:
        values = json.loads(file.read(num_bytes), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if not isinstance(values, dict):
        raise _damaged(path, f"it holds a JSON {type(values).__name__}, not an object")
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{printable(name)} is there twice")
        values[name] = value
    return values


def _damaged(path: Path, problem: object) -> ModelError:
    return ModelError(f"{path} is damaged or incomplete: {printable(str(problem))}. Copy or make it again")


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def printable(text: str) -> str:
    """Text out of a file for a message: not too long, and without what a terminal would obey."""
    short = text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."
    return short if short.isprintable() else repr(short)
