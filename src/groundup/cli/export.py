"""`groundup export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from groundup.core.errors import UsageError

Kind = Literal["gguf", "hf"]


def run(
    model: Annotated[str, Parameter(help="a model directory, a .gguf file, a name or a hub id")],
    *,
    to: Annotated[Kind, Parameter(help="gguf, one file for llama.cpp; hf, a directory for transformers")] = "gguf",
    type: Annotated[
        str | None,
        Parameter(
            help="of the weights in a GGUF file: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, "
            "Q4_K_S, Q4_1 or Q4_0 [default: Q8_0]",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Parameter(help="of the weights in a directory [default: float32]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(
            help="the file or directory to write [default for gguf: NAME-TYPE.gguf beside the model; needed for hf]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take a model elsewhere, with its tokenizer and chat template."""
    from groundup.recipes.export import export_directory, export_gguf

    if to == "gguf":
        if dtype is not None:
            raise UsageError(f"--dtype {dtype} is for --to hf; a GGUF file has --type")
        export_gguf(model, out, type=type or "Q8_0")
        return
    if type is not None:
        raise UsageError(f"--type {type} is for --to gguf; a directory has --dtype")
    export_directory(model, out, dtype=dtype or "float32")
