"""Random GGUF metadata and tensors, and what their equality means: shared by the tests of the reader and the writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from groundup.model.ops.blocks import FORMATS
from groundup.model.weights.gguf_format import NUMBERS, VALUE_TYPES, Typed

TEXT = st.text(max_size=8)
KEYS = st.text(min_size=1, max_size=12).filter(lambda key: key not in ("general.alignment", "general.architecture"))


def scalars(kind: str) -> st.SearchStrategy[Any]:
    """Python values of a scalar type."""
    if kind == "string":
        return TEXT
    if kind == "bool":
        return st.booleans()
    if kind in ("f32", "f64"):
        return st.floats(width=int(kind[1:]), allow_nan=False)
    limits = np.iinfo(NUMBERS[kind])
    return st.integers(limits.min, limits.max)


SCALARS = st.sampled_from([*NUMBERS, "string"]).flatmap(
    lambda kind: scalars(kind).map(lambda value: Typed(kind, value))
)


def flat_arrays(min_size: int) -> st.SearchStrategy[Typed]:
    """Arrays of numbers, bools or strings."""

    def of(kind: str) -> st.SearchStrategy[Typed]:
        lists = st.lists(scalars(kind), min_size=min_size, max_size=6)
        if kind == "string":
            return lists.map(lambda values: Typed("[string]", values))
        return lists.map(lambda values: Typed(f"[{kind}]", np.array(values, NUMBERS[kind])))

    return st.sampled_from([*NUMBERS, "string"]).flatmap(of)


ARRAYS = st.recursive(
    flat_arrays(0), lambda inner: st.lists(inner, max_size=4).map(lambda values: Typed("[array]", values)), max_leaves=6
).filter(lambda typed: depth(typed) <= 4)
METADATA = st.dictionaries(KEYS, st.one_of(SCALARS, ARRAYS), max_size=8)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def depth(typed: Typed) -> int:
    """How deep arrays lie in each other."""
    if typed.type == "[array]":
        return 1 + max((depth(inner) for inner in typed.value), default=0)
    return int(typed.type.startswith("["))


def same(got: Typed, expected: Typed) -> bool:
    """Equal type and value, to the bit (0.0 is not -0.0)."""
    if got.type != expected.type:
        return False
    if got.type == "[array]":
        return len(got.value) == len(expected.value) and all(map(same, got.value, expected.value))
    if got.type.strip("[]") == "string":
        return bool(got.value == expected.value)
    dtype = NUMBERS[got.type.strip("[]")]
    return np.asarray(got.value, dtype).tobytes() == np.asarray(expected.value, dtype).tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> (format, shape, bytes) of up to five tensors of all formats."""
    names = draw(st.lists(st.text(min_size=1, max_size=15), unique=True, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = {}
    for name in names:
        block = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
        *outer, inner = draw(SHAPES)
        size = int(np.prod(outer, dtype=int)) * inner * block.block_bytes
        found[name] = (block.name, (*outer, inner * block.block_size), random.bytes(size))
    return found


def python_values(typed: Typed) -> Any:
    """What the `gguf` package takes: lists in place of arrays."""
    if typed.type == "[array]":
        return [python_values(inner) for inner in typed.value]
    return typed.value.tolist() if isinstance(typed.value, np.ndarray) else typed.value


def write_with_package(
    path: Path, metadata: dict[str, Typed], content: dict[str, tuple[str, tuple[int, ...], bytes]]
) -> None:
    """Write a file with the `gguf` package, which puts `general.architecture` before the given keys."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (make oracles)")

    def number(kind: str) -> Any:
        return gguf.GGUFValueType(VALUE_TYPES.index(kind))

    writer = gguf.GGUFWriter(path, "llama")
    for key, typed in metadata.items():
        if typed.type.startswith("["):
            writer.add_key_value(key, python_values(typed), number("array"), number(typed.type[1:-1]))
        else:
            writer.add_key_value(key, typed.value, number(typed.type))
    if "general.alignment" in metadata:
        writer.data_alignment = metadata["general.alignment"].value
    for name, (format_name, shape, data) in content.items():
        block = FORMATS[format_name]
        as_bytes = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
        writer.add_tensor(name, as_bytes, raw_dtype=gguf.GGMLQuantizationType(block.ggml_id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
