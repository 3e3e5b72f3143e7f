"""Coverage-guided fuzzing of the weight readers: `python tests/model/fuzz_weights.py gguf --seconds 120`.

Whatever the bytes are, a reader returns or raises ModelError, within 10 seconds and a gigabyte of memory. libFuzzer
mutates valid files towards lines and comparisons that it has not seen; a finding is written to --artifacts, and the
process ends with an exit code that is not 0. `--again FILE` runs it once more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import safetensors.torch
import torch

import groundup.model.hf_config
import groundup.model.ops.blocks  # so that only what is imported below is instrumented

with atheris.instrument_imports(include=["groundup.model.weights"]):
    from groundup.core.errors import ModelError
    from groundup.model.weights.gguf_config import config_from_gguf, config_to_gguf
    from groundup.model.weights.gguf_format import Typed
    from groundup.model.weights.gguf_read import GgufFile
    from groundup.model.weights.gguf_write import TensorSource, write_gguf
    from groundup.model.weights.safetensors_read import INDEX_FILE, WEIGHTS_FILE, StoredTensors

from groundup.model.config import YarnScaling
from groundup.model.presets import preset

del groundup

SECONDS_PER_INPUT, MEMORY_MB, MAX_INPUT_BYTES = 10, 1024, 8192
# Pieces that random bytes hardly hit on.
WORDS = [
    b"GGUF\x03\x00\x00\x00", b"general.alignment", b"weight_map", b"data_offsets", b"__metadata__", b"dtype", b"shape",
    b'"F32"', b'"BF16"', b"model.safetensors", b"one.safetensors", b"../", b"..\\", b"\\u0000", b"\\ud800", b"\xff" * 8,
    b"\x00" * 8, b"\x00" * 7 + b"\x80", *(kind.to_bytes(4, "little") for kind in range(13)),
]  # fmt: skip


def read_gguf(data: bytes) -> None:
    """The GGUF reader on these bytes, everything in them read, and the model that their metadata describe."""
    try:
        file = GgufFile(Path("fuzz.gguf"), data)
    except ModelError as error:
        assert str(error).startswith("fuzz.gguf: ") and len(str(error)) < 5000, error
        return
    for name, tensor in file.tensors.items():
        assert len(file.raw(name)) == tensor.num_bytes
    assert len(file.metadata) == len(file.typed)
    try:
        config_from_gguf(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()})
    except ModelError as error:
        assert len(str(error)) < 5000, error


def gguf_seeds(folder: Path) -> None:
    """Valid files: with all types of values, with tensors, with almost nothing."""
    numbers = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64")
    metadata = {f"a.{kind}": Typed(kind, 1) for kind in numbers} | {
        "a.bool": Typed("bool", True),
        "a.string": Typed("string", "ü"),
        "a.strings": Typed("[string]", ["a", "", "ccc"]),
        "a.numbers": Typed("[i32]", [1, 2, 3]),
        "a.bools": Typed("[bool]", [True, False]),
        "a.nested": Typed("[array]", [Typed("[array]", [Typed("[u8]", [1])]), Typed("[string]", ["x"])]),
    }
    tensors = [
        TensorSource("w", (2, 3), "F32", lambda: bytes(24)),
        TensorSource("q", (2, 32), "Q4_0", lambda: bytes(36)),
    ]
    write_gguf(folder / "all", metadata | {"general.alignment": Typed("u32", 8)}, tensors)
    write_gguf(folder / "tensors", {}, tensors)
    write_gguf(folder / "strings", {"k": Typed("[string]", ["token"] * 9)}, [])
    write_gguf(folder / "nothing", {}, [])
    shape = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    scaling = YarnScaling(factor=2.0, original_max_position_embeddings=8)
    for name, fields in {
        "llama3": {"rope_scaling": scaling},
        "gemma3": {"head_dim": 4, "query_pre_attn_scalar": 4},
        "gpt2": {},
        "bert": {},
    }.items():
        _, model, _ = config_to_gguf(preset(name, **shape, intermediate_size=8, max_position_embeddings=16, **fields))
        embedding = TensorSource("token_embd.weight", (8, 8), "F32", lambda: bytes(256))
        write_gguf(folder / name, model, [embedding])


def reader_of_folder(work: Path) -> Callable[[bytes], None]:
    """A reader of a folder whose index (first byte even) or single file (odd) has these bytes."""
    indexed, single = work / "indexed", work / "single"
    indexed.mkdir()
    single.mkdir()
    for name, tensor in (("one", "a.weight"), ("two", "b.weight")):
        (indexed / f"{name}.safetensors").write_bytes(safetensors.torch.save({tensor: torch.zeros(2, 3)}))

    def read(data: bytes) -> None:
        folder = single if data[:1] and data[0] % 2 else indexed
        name = WEIGHTS_FILE if folder is single else INDEX_FILE
        (folder / name).write_bytes(data[1:])
        try:
            stored = StoredTensors(folder)
            for tensor in stored.tensors.values():
                if tensor.is_floating:
                    tensor.floats()
        except ModelError as error:
            assert name in str(error) or ".safetensors" in str(error), error
            assert len(str(error)) < 5000, error

    return read


def folder_seeds(folder: Path) -> None:
    """A valid index, one that contradicts its files, and a valid file."""
    index = (
        '{"metadata": {"total_size": 48}, "weight_map": {"a.weight": "one.safetensors", "b.weight": "%s.safetensors"}}'
    )
    (folder / "index").write_bytes(b"\0" + (index % "two").encode())
    (folder / "wrong").write_bytes(b"\0" + (index % "one").encode())
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16), "c": torch.zeros(1, dtype=torch.bool)}
    (folder / "file").write_bytes(b"\1" + safetensors.torch.save(tensors, metadata={"format": "pt"}))


def fuzz(target: str, work: Path, artifacts: str, seconds: int, again: str | None) -> None:
    """Fuzz one reader; this ends the process."""
    seeds = work / "seeds"
    seeds.mkdir()
    if target == "gguf":
        gguf_seeds(seeds)
        read = read_gguf
    else:
        folder_seeds(seeds)
        read = reader_of_folder(work)
    words = work / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    limits = [
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-max_total_time={seconds}",
        f"-dict={words}",
        f"-artifact_prefix={artifacts}/{target}-",
        "-print_final_stats=1",
        "-use_value_profile=1",
    ]
    atheris.Setup([sys.argv[0], *limits, again or str(seeds)], read)
    atheris.Fuzz()


def main() -> int:
    """Run this file again as a process that fuzzes, and clean up after it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["gguf", "index"])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--artifacts", default=tempfile.gettempdir(), help="folder for inputs that show a fault")
    parser.add_argument("--again", help="an input to run once more instead of fuzzing")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        fuzz(options.target, options.work, options.artifacts, options.seconds, options.again)
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a disk allows only some 200 inputs a second
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=in_memory) as work:
        return subprocess.run([sys.executable, *sys.argv, "--work", work], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
