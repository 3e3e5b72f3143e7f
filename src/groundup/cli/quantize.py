"""`groundup quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def run(
    model: Annotated[str, Parameter(help="a model directory, a .gguf file, a name or a hub id")],
    *,
    type: Annotated[
        str,
        Parameter(
            help="of the weights: Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1 or Q4_0 "
            "for a GGUF file (F32, F16 and BF16 round little or nothing); int8 or int4-g32 (-g64, ...) for a model directory"
        ),
    ] = "Q4_K_M",
    out: Annotated[
        Path | None,
        Parameter(
            help="the file or directory to write [default: NAME-TYPE.gguf or NAME-TYPE beside the model]",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        Path | None,
        Parameter(
            help="a text file on which original and result are compared [default: Python's reference manual]",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, Parameter(help="tokens of it, at most")] = 2048,
    report: Annotated[Path | None, Parameter(help="a JSON file for the numbers", show_default=False)] = None,
) -> None:
    """Round a model's weights, and say what that costs: size, speed, perplexity, divergence.

    The result is a GGUF file, which llama.cpp loads, or a directory in the layout of compressed-tensors, which
    transformers and vLLM load; every command takes both.
    """
    from groundup.core.errors import UsageError
    from groundup.recipes.quantize import quantize_model

    if tokens < 2:
        raise UsageError(f"--tokens {tokens}: at least 2 are needed to predict one from another")
    quantize_model(model, out, type=type, text=text, num_tokens=tokens, report=report)
