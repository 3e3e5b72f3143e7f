"""`groundup explain`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from groundup.model.presets import PRESETS


def run(
    model: Annotated[
        str,
        Parameter(
            help=f"a preset ({', '.join(PRESETS)}), a model directory, a .gguf file, or a model that groundup pull fetched"
        ),
    ],
    *,
    context: Annotated[
        int | None,
        Parameter(help="tokens in a text [default: what the model takes, at most 4096]", show_default=False),
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32", "float64"], Parameter(help="of the weights and the cache")
    ] = "bfloat16",
    bandwidth: Annotated[float, Parameter(help="of the memory, in GB/s: bounds the tokens per second")] = 50.0,
    memory_length: Annotated[
        int | None,
        Parameter(help="vectors that cross-attention reads [default: as many as the context]", show_default=False),
    ] = None,
    layer: Annotated[int | None, Parameter(help="show this layer only; 0 is the first", show_default=False)] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="FIELD=VALUE changes a preset, such as hidden_size=512; may be given several times",
            show_default=False,
            negative="",
        ),
    ] = None,
    json: Annotated[bool, Parameter(help="as JSON, for a program", negative="")] = False,
) -> None:
    """Show the forward pass of a model as pseudo-code, and what each line of it costs; no weights are read.

    For each line: shape, parameters, operations, bytes of weights, bytes of the KV cache. Then the whole: memory, and
    a bound on the tokens per second. Then its attention beside multi-head, grouped-query, multi-query and windowed.
    """
    from groundup.recipes.explain import explain_model

    explain_model(
        model,
        changes=set_ or [],
        context=context,
        dtype=dtype,
        bandwidth=bandwidth,
        memory_length=memory_length,
        layer=layer,
        as_json=json,
    )
