"""Damaged and hostile GGUF files: a ModelError that says where and what, never a traceback, a hang or an allocation."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundup.core.errors import ModelError
from groundup.model.weights.gguf_format import Typed
from groundup.model.weights.gguf_read import GgufFile, open_gguf
from groundup.model.weights.gguf_write import TensorSource, write_gguf

PATH = Path("made.gguf")
U8, U32, F32, BOOL, STRING, ARRAY = 0, 4, 6, 7, 8, 9


def text(data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if length is None else length) + data


def pair(kind: int, value: bytes, key: bytes = b"a.key") -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(
    dims: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, name: bytes = b"w", num_dims: int | None = None
) -> bytes:
    count = len(dims) if num_dims is None else num_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


def gguf(*parts: bytes, pairs: int = 0, tensors: int = 0, version: int = 3, data: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)
    return head + bytes(-len(head) % 32) + data


ONE_TENSOR = gguf(tensor(), tensors=1, data=bytes(16))
ONE_PAIR = gguf(pair(U32, b"\1\0\0\0"), pairs=1)


def test_the_builders_make_valid_files() -> None:
    assert GgufFile(PATH, ONE_TENSOR).tensors["w"].num_bytes == 16
    assert GgufFile(PATH, ONE_PAIR).metadata == {"a.key": 1}


def alignment(value: int, kind: int = U32, size: str = "<I") -> bytes:
    return gguf(pair(kind, struct.pack(size, value), b"general.alignment"), pairs=1)


CASES: list[tuple[bytes, str]] = [
    # The header.
    (b"GGU", "the header: it begins with b'GGU', not with b'GGUF': this is not a GGUF file"),
    (b"GGML" + bytes(40), "it begins with b'GGML'"),
    (b"GGUF\3\0", "the header: the version needs 4 bytes, and 2 are left: the file is truncated or damaged"),
    (gguf(version=1), "GGUF version 1 is not known here .known: 2 and 3.: convert the model again"),
    (gguf(version=0), "GGUF version 0 is not known here"),
    (gguf(version=4), "GGUF version 4 is not known here"),
    (gguf(version=0xFFFFFFFF), "GGUF version 4294967295 is not known here"),
    (gguf(version=0x03000000), "the file is big-endian: make it again for a little-endian machine"),
    (
        gguf(pairs=2**63),
        r"what it announces \(0 tensors and 9223372036854775808 keys\) needs 129.* bytes, and 8 are left",
    ),
    (gguf(tensors=2**64 - 1), r"announces \(18446744073709551615 tensors and 0 keys\)"),
    (gguf(bytes(40), pairs=4), r"announces \(0 tensors and 4 keys\) needs 56 bytes, and 40 are left"),
    # Keys.
    (gguf(text(b"", 2**64 - 1) + bytes(20), pairs=1), "key number 0: the key is 18446744073709551615 bytes long: 1 to"),
    (gguf(text(b"", 0) + bytes(20), pairs=1), "key number 0: the key is 0 bytes long: 1 to 65535 are possible"),
    (gguf(text(b"k", 1000) + bytes(20), pairs=1), "key number 0: the key needs 1000 bytes, and 32 are left"),
    (gguf(text(b"k\xff") + bytes(20), pairs=1), "key number 0: the key is not UTF-8: invalid start byte at byte 1"),
    (gguf(pair(13, bytes(8)), pairs=1), r"key 'a\.key': value type 13 is not known \(known: 0 to 12\)"),
    (gguf(pair(U32, bytes(4)), pair(U8, b"\0"), pairs=2), "key 'a.key': it is there twice"),
    # Values.
    (gguf(pair(BOOL, b"\2"), pairs=1), "key 'a.key': a bool is 2: 0 and 1 are possible"),
    (gguf(pair(STRING, text(b"", 2**40)), pairs=1), r"key 'a\.key': its string needs 1099511627776 bytes"),
    (gguf(pair(STRING, text(b"ab\xc3")), pairs=1), r"key 'a\.key': its string is not UTF-8: unexpected end of data"),
    (gguf(pair(STRING, text(b"\xed\xa0\x80")), pairs=1), r"key 'a\.key': its string is not UTF-8"),
    (gguf(pair(ARRAY, array(13, 0)), pairs=1), "key 'a.key': value type 13 is not known"),
    (gguf(pair(ARRAY, array(12, 2**61)), pairs=1), r"an array of 2305843009213693952 f64 needs 18446744073709551616"),
    (gguf(pair(ARRAY, array(U8, 2**64 - 1)), pairs=1), "an array of 18446744073709551615 u8 needs"),
    (gguf(pair(ARRAY, array(STRING, 2**33)), pairs=1), "an array of 8589934592 string needs 68719476736 bytes"),
    (gguf(pair(ARRAY, array(ARRAY, 2**33)), pairs=1), "an array of 8589934592 array needs 103079215104 bytes"),
    (gguf(pair(ARRAY, array(BOOL, 3, b"\1\0\7")), pairs=1), "a bool is 7"),
    (gguf(pair(ARRAY, array(STRING, 2, text(b"ok") + text(b"\xff"))), pairs=1), "string 1 is not UTF-8: .* at byte 0"),
    (gguf(pair(ARRAY, array(STRING, 2, text(b"x" * 30) + text(b"x", 99))), pairs=1), "string 1 of 2 goes past the end"),
    (gguf(pair(ARRAY, array(STRING, 3, text(b"x" * 60))), pairs=1), "string [12] of 3 goes past the end"),
    (gguf(pair(ARRAY, array(ARRAY, 1) * 4 + array(U8, 0)), pairs=1), r"arrays lie more than 4 deep in each other"),
    # The alignment.
    (alignment(0), "key 'general.alignment': the alignment is 0: it has to be a power of two from 8 to 1048576"),
    (alignment(4), "the alignment is 4"),
    (alignment(48), "the alignment is 48"),
    (alignment(1 << 21), "the alignment is 2097152"),
    (alignment(2**32 - 1), "the alignment is 4294967295"),
    (alignment(32, 10, "<Q"), "the alignment is of type u64: it has to be a u32"),
    (alignment(32, 5, "<i"), "the alignment is of type i32"),
    (gguf(pair(STRING, text(b"32"), b"general.alignment"), pairs=1), "the alignment is of type string"),
    # Tensors.
    (gguf(tensor(), tensor(), tensors=2, data=bytes(99)), "tensor 'w': it is there twice"),
    (gguf(tensor(name=b""), bytes(9), tensors=1), "tensor number 0: the name is 0 bytes long"),
    (gguf(tensor(name=b"\x80"), tensors=1), "tensor number 0: the name is not UTF-8"),
    (gguf(tensor((), num_dims=0), bytes(9), tensors=1), "tensor 'w': it has 0 dimensions: GGUF holds 1 to 4"),
    (gguf(tensor((1,) * 5), tensors=1), "tensor 'w': it has 5 dimensions: 1 to 4 are possible"),
    (gguf(tensor(num_dims=2**32 - 1), tensors=1), "tensor 'w': it has 4294967295 dimensions"),
    (gguf(tensor((4, 0)), tensors=1), r"tensor 'w': its shape is \[0, 4\]: every dimension has to be 1 or more"),
    (gguf(tensor((2**32, 2**32)), tensors=1), r"its shape is \[4294967296, 4294967296\]: .* in all below 2\^63"),
    (gguf(tensor((2**64 - 1,)), tensors=1), r"its shape is \[18446744073709551615\]"),
    (gguf(tensor(kind=4), tensors=1), r"tensor 'w': tensor type 4 cannot be read here \(known: 0 F32, 1 F16"),
    (gguf(tensor(kind=2**32 - 1), tensors=1), "tensor 'w': tensor type 4294967295 cannot be read"),
    (
        gguf(tensor((48,), 12), tensors=1),
        "tensor 'w': its rows have 48 values, no multiple of the 256 in a block of Q4_K",
    ),
    (gguf(tensor((16, 16), 2), tensors=1), "its rows have 16 values, no multiple of the 32 in a block of Q4_0"),
    (gguf(tensor(offset=8), tensors=1, data=bytes(64)), "its offset 8 is no multiple of the alignment 32"),
    (gguf(tensor(offset=2**64 - 32), tensors=1), "its 16 bytes at offset 18446744073709551584 go past the end"),
    (
        gguf(tensor(), tensors=1, data=bytes(15)),
        "its 16 bytes at offset 0 go past the end of the data, which has 15 bytes",
    ),
    (gguf(tensor((2**61,)), tensors=1), "its 9223372036854775808 bytes at offset 0 go past the end of the data"),
    (
        gguf(tensor((9,)), tensor(name=b"v", offset=32), tensors=2, data=bytes(99)),
        "tensor 'v': its offset 32 lies inside of tensor 'w', which has 36 bytes at offset 0",
    ),
    (
        gguf(tensor(), tensor(name=b"v"), tensors=2, data=bytes(99)),
        "tensor 'v': its offset 0 lies inside of tensor 'w'",
    ),
]


@pytest.mark.parametrize(("data", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_each_fault_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^made\.gguf: .*{message}"):
        GgufFile(PATH, data)


def test_messages_stay_short_and_printable() -> None:
    key = b"\x1b[31m" + "\u202e".encode() * 20_000
    with pytest.raises(ModelError) as caught:
        GgufFile(PATH, gguf(pair(13, b"", key), pairs=1))
    message = str(caught.value)
    assert len(message) < 1000 and message.isprintable() and r"key '\x1b[31m\u202e" in message


def test_gaps_and_any_order_are_read() -> None:
    first, second = tensor(offset=64), tensor(name=b"v")
    file = GgufFile(PATH, gguf(first, second, tensors=2, data=bytes(64) + struct.pack("<4f", 1, 2, 3, 4)))
    assert file.raw("w").view("<f4").tolist() == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with every type of value and two tensors; its last byte belongs to a tensor."""
    path = tmp_path_factory.mktemp("valid") / "v.gguf"
    kinds = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64")
    metadata = {f"key.{kind}": Typed(kind, 7) for kind in kinds} | {
        f"many.{kind}": Typed(f"[{kind}]", [1, 2]) for kind in kinds
    }
    metadata |= {
        "general.architecture": Typed("string", "llama"),
        "general.alignment": Typed("u32", 8),
        "bool": Typed("bool", True),
        "bools": Typed("[bool]", [True, False]),
        "tokens": Typed("[string]", ["a", "", "Grüße", "\n"]),
        "nested": Typed("[array]", [Typed("[u8]", [1, 2]), Typed("[array]", [Typed("[string]", ["deep"])])]),
    }
    tensors = [
        TensorSource("token_embd.weight", (3, 5), "F32", lambda: bytes(60)),
        TensorSource("blk.0.attn_q.weight", (2, 32), "Q8_0", lambda: bytes(range(68))),
    ]
    write_gguf(path, metadata, tensors)
    return path.read_bytes()[:-4]


def read_all(data: bytes) -> None:
    """Read everything, or meet a ModelError that names the file."""
    try:
        file = GgufFile(PATH, data)
        for name, tensor in file.tensors.items():
            assert len(file.raw(name)) == tensor.num_bytes
        assert len(file.metadata) == len(file.typed)
    except ModelError as error:
        assert str(error).startswith("made.gguf: ") and len(str(error)) < 2000


def test_truncations_are_refused(valid: bytes) -> None:
    GgufFile(PATH, valid)
    for length in range(0, len(valid), 3):
        with pytest.raises(ModelError, match=r"^made\.gguf: .*(truncated or damaged|it begins with)"):
            GgufFile(PATH, valid[:length])


@pytest.mark.slow
def test_every_byte_replaced(valid: bytes) -> None:
    for position in range(len(valid)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, valid[position] ^ 1):
            read_all(valid[:position] + bytes([value]) + valid[position + 1 :])


INTERESTING = [
    0,
    1,
    2**7,
    2**8 - 1,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**61,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutations(valid: bytes, data: st.DataObject) -> None:
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["number", "noise", "cut", "copy"]))
        length = data.draw(st.integers(1, 40))
        if kind == "number":
            size = data.draw(st.sampled_from([4, 8]))
            number = data.draw(st.sampled_from(INTERESTING)) & (2 ** (8 * size) - 1)
            content[position : position + size] = number.to_bytes(size, "little")
        elif kind == "noise":
            content[position : position + length] = data.draw(st.binary(max_size=length))
        elif kind == "cut":
            del content[position : position + length]
        else:
            start = data.draw(st.integers(0, len(content)))
            content[position:position] = content[start : start + length]
    read_all(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
@example(b"", 0, 0)
def test_noise_after_a_valid_header(noise: bytes, pairs: int, tensors: int) -> None:
    read_all(noise)
    read_all(gguf(noise, pairs=pairs, tensors=tensors))


def peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        read_all(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_refusing_allocates_next_to_nothing() -> None:
    for data, _ in CASES:
        peak_bytes(data)  # once beforehand, for what Python itself keeps from a first call
        assert peak_bytes(data) < 40_000


COUNT = 1_000
WORST: dict[str, Callable[[], bytes]] = {
    "numbers": lambda: gguf(pair(ARRAY, array(U8, 50 * COUNT, bytes(50 * COUNT))), pairs=1),
    "short strings": lambda: gguf(pair(ARRAY, array(STRING, COUNT, text("é".encode()) * COUNT)), pairs=1),
    "wide strings": lambda: gguf(pair(ARRAY, array(STRING, COUNT, text("🙂".encode()) * COUNT)), pairs=1),
    "one wide string": lambda: gguf(pair(STRING, text(b"x" * 50 * COUNT + "🙂".encode())), pairs=1),
    "empty strings": lambda: gguf(pair(ARRAY, array(STRING, COUNT, text(b"") * COUNT)), pairs=1),
    "empty arrays": lambda: gguf(pair(ARRAY, array(ARRAY, COUNT, array(U8, 0) * COUNT)), pairs=1),
    "arrays of one": lambda: gguf(pair(ARRAY, array(ARRAY, COUNT, array(STRING, 1, text(b"ab")) * COUNT)), pairs=1),
    "keys": lambda: gguf(*(pair(U8, b"\7", b"%x" % index) for index in range(COUNT)), pairs=COUNT),
    "tensors": lambda: gguf(
        *(tensor((1,), offset=32 * index, name=b"%x" % index) for index in range(COUNT)),
        tensors=COUNT,
        data=bytes(32 * COUNT),
    ),
}


@pytest.mark.parametrize("case", WORST)
def test_memory_is_a_small_multiple_of_the_file(case: str) -> None:
    data = WORST[case]()
    GgufFile(PATH, data)  # is valid
    peak = peak_bytes(data)
    assert peak < 25 * len(data), f"{peak} bytes for a file of {len(data)}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match=r"there is no file .*pipe\.gguf"):
        open_gguf(tmp_path / "pipe.gguf")
