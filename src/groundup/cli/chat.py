"""`groundup chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from groundup.cli.options import with_settings
from groundup.inference.config import Sampling


@with_settings({"": Sampling}, computed={"temperature": "0.0, the likeliest token"})
def run(
    model: Annotated[str, Parameter(help="a chat model: directory, .gguf file, name (smollm2-135m) or hub id")],
    *,
    system: Annotated[str | None, Parameter(help="system prompt", show_default=False)] = None,
    load: Annotated[Path | None, Parameter(help="go on with a saved conversation", show_default=False)] = None,
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
    """Talk to a model. /help lists the commands; Ctrl-C stops an answer, Ctrl-D or /quit ends.

    Reads messages line by line, from a terminal or a pipe.
    """
    from groundup.recipes.talk import chat_loop

    chat_loop(
        model,
        Sampling(**{"temperature": 0.0, **overrides}),
        system=system,
        load=load,
        device=device,
        dtype=dtype,
        engine=engine,
        cache_type=cache_type,
    )
