"""`groundup generate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.inference.config import Sampling


@with_settings({"": Sampling})
def run(
    model: Annotated[str, Parameter(help="a model: directory, .gguf file, name (smollm2-135m) or hub id")],
    prompt: Annotated[str, Parameter(help="the text to go on from")],
    *,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps")] = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Parameter(help="type of the weights in memory; bfloat16 and float16 take half as much and round"),
    ] = "float32",
    engine: Annotated[
        Literal["auto", "compiled", "torch"],
        Parameter(help="compiled kernels or torch; auto takes the kernels where they can compute the model"),
    ] = "auto",
    cache_type: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"],
        Parameter(help="type of keys and values in the cache of the compiled kernels; auto follows the weights"),
    ] = "auto",
    overrides: dict[str, Any],
) -> None:
    """Complete a text, streamed to the standard output."""
    from groundup.core import console
    from groundup.recipes.talk import complete

    for piece in complete(
        model, prompt, Sampling(**overrides), device=device, dtype=dtype, engine=engine, cache_type=cache_type
    ):
        console.stream(piece)
    console.say()
