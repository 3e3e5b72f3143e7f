"""`groundup explain`: from what the user typed to a config, and from its explanation to the screen."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from groundup.core import console
from groundup.core.errors import ConfigError, ModelError, UsageError, suggest
from groundup.model.config import AttentionConfig, TransformerConfig
from groundup.model.counts import training_memory_bytes
from groundup.model.explain import (
    MAX_SIZE,
    Block,
    Dtype,
    Explanation,
    Variant,
    compare_attention,
    explain,
    kv_cache_bytes,
)
from groundup.model.explain_lines import Cost, total_cost
from groundup.model.presets import PRESETS, Decoder, preset, preset_fields

WIDTH = 100
_NO_BREAK = "\N{NO-BREAK SPACE}"
COLUMNS = {"shape": 8, "parameters": 10, "FLOPs": 7, "weights": 8, "KV cache": 8}
LETTERS = {
    "B": "batch",
    "T": "new tokens",
    "S": "keys",
    "M": "vectors of the memory",
    "E": "their width",
    "D": "hidden",
    "H": "query heads",
    "K": "key-value heads",
    "d": "head size",
    "F": "MLP",
    "V": "vocabulary",
    "L": "layers",
}
VARIANTS = {
    "MHA": "MHA multi-head",
    "GQA": "GQA grouped-query",
    "MQA": "MQA multi-query",
    "own": "as it is",
    "window": "window",
}


def explain_model(
    name: str,
    *,
    changes: Sequence[str] = (),
    context: int | None = None,
    dtype: Dtype = "bfloat16",
    bandwidth: float = 50.0,
    memory_length: int | None = None,
    layer: int | None = None,
    as_json: bool = False,
) -> None:
    """Print the forward pass of a model, what it costs, and its attention beside other kinds.

    Args:
        name: a preset, or what `groundup.load` takes.
        changes: `FIELD=VALUE` for a preset.
        context: tokens in a text; max_position_embeddings where not given, and 4,096 at most.
        dtype: of the weights and the cache.
        bandwidth: of the memory, in GB/s.
        memory_length: vectors that cross-attention reads.
        layer: show this one only.
        as_json: print JSON instead.

    Raises:
        UsageError: for options that do not fit the model or each other.
        ModelError: when there is no such model, or it cannot be read.
    """
    config = resolve_config(name, changes)
    _check_options(config, context, bandwidth, memory_length, layer)
    explanation = explain(config, context=context, memory_length=memory_length, dtype=dtype)
    if layer is not None:
        explanation = _only_layer(explanation, layer)
    variants = () if layer is not None else compare_attention(config, context=context, dtype=dtype)
    if as_json:
        console.stream(json.dumps(_to_json(name, config, explanation, variants), indent=2) + "\n")
        return
    _print_lines(name, explanation, is_whole=layer is None)
    if layer is None:
        console.heading("The whole")
        console.facts(_whole_facts(config, explanation, bandwidth))
    if variants:
        _print_variants(variants, explanation.context)


def resolve_config(name: str, changes: Sequence[str] = ()) -> TransformerConfig:
    """The config that a name stands for; torch is imported for a directory or a file only.

    Args:
        name: a preset, unless a file or folder here has its name, or what `groundup.load` takes.
        changes: `FIELD=VALUE` for a preset, the value as JSON or as plain text.

    Raises:
        ConfigError: for a change that the preset does not take.
        UsageError: for a change of what is not a preset.
        ModelError: when there is no such model here.
    """
    if name in PRESETS and not _is_here(name):
        fields = dict(_parse_change(name, change) for change in changes)
        try:
            return preset(name, **fields)
        except OverflowError:
            raise ConfigError(f"--set {' --set '.join(changes)}: one of these numbers is too large") from None
    if changes:
        raise UsageError(f"--set {changes[0]} changes a preset, and {name} is none: use one of {', '.join(PRESETS)}")
    from groundup.model.load import read_config

    try:
        return read_config(name)
    except (ModelError, UsageError) as error:
        if Path(name).name != name or _is_here(name):
            raise
        raise ModelError(f"{error}. No preset is called {name!r} either{suggest(name, tuple(PRESETS))}") from None


def _is_here(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long for a file: what reads the config says so
        return True


def _parse_change(name: str, change: str) -> tuple[str, Any]:
    field, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"--set {change} has no value: write FIELD=VALUE, such as hidden_size=512")
    kind = _field_types(name).get(field)
    if kind is None:
        return field, text  # `preset` refuses it and knows the nearest name
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        try:
            return field, adapter.validate_json(text, strict=True)
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                raise
        return field, adapter.validate_python(text, strict=True)
    except ValidationError as error:
        raise ConfigError(f"--set {change}: {error.errors()[0]['msg']}") from None


def _field_types(name: str) -> dict[str, Any]:
    """The type of each field that a preset takes."""
    make = PRESETS[name]
    hints = {**get_type_hints(Decoder, include_extras=True), **get_type_hints(make, include_extras=True)}
    return {field: hints[field] for field in preset_fields(make)}


def _check_options(
    config: TransformerConfig, context: int | None, bandwidth: float, memory_length: int | None, layer: int | None
) -> None:
    longest, num_layers = config.max_position_embeddings, config.num_hidden_layers
    if context is not None and not 1 <= context <= longest:
        raise UsageError(f"--context {context} must be 1 to {longest:,} (max_position_embeddings of this model)")
    if not 0 < bandwidth < math.inf:
        raise UsageError(f"--bandwidth {bandwidth} must be a positive number of GB/s")
    if layer is not None and not 0 <= layer < num_layers:
        raise UsageError(f"--layer {layer} must be 0 to {num_layers - 1}: this model has {num_layers:,} layers")
    if memory_length is not None:
        if all(one.cross_attention is None for _, one in config.stack):
            raise UsageError(f"--memory-length {memory_length}: this model has no cross-attention, leave it out")
        if not 0 < memory_length <= MAX_SIZE:
            raise UsageError(f"--memory-length {memory_length} must be a positive number of vectors")


def _only_layer(explanation: Explanation, index: int) -> Explanation:
    blocks = [block for block in explanation.blocks if any(first <= index <= last for first, last in block.layers)]
    (block,) = (replace(block, layers=((index, index),)) for block in blocks)
    words = set(re.findall(r"[\w.]+", " ".join(row.text for row in block.rows)))
    definitions = {name: meaning for name, meaning in explanation.definitions.items() if name in words}
    return replace(explanation, blocks=(block,), definitions=definitions)


def _to_json(
    name: str, config: TransformerConfig, explanation: Explanation, variants: Sequence[Variant]
) -> dict[str, Any]:
    values = {"model": name, **asdict(explanation), "cost": asdict(explanation.cost)}
    for block, written in zip(explanation.blocks, values["blocks"], strict=True):
        written |= {"times": block.times, "cost": asdict(block.cost)}
    if any(block.name == "embedding" for block in explanation.blocks):  # the whole model, not one layer
        values["kv_cache_bytes_at_context"] = kv_cache_bytes(config, explanation.context, explanation.dtype)
        values["variants"] = [asdict(variant) for variant in variants]
    return values


def _print_lines(name: str, explanation: Explanation, *, is_whole: bool) -> None:
    layers = [block.dimensions for block in explanation.blocks if block.layers]
    shared = {key: size for key, size in layers[0].items() if all(other.get(key) == size for other in layers)}
    console.heading(f"{name}: the forward pass of T new tokens")
    _say_wrapped(_legend({**explanation.dimensions, **shared}))
    if explanation.unknown:
        parts = ", ".join(explanation.unknown)
        _say_wrapped(f"? and every sum leave out {parts}: only the built module knows what it costs")
    room = WIDTH - 2 - sum(2 + width for width in COLUMNS.values())
    width = min(room, max(len(row.text) for block in explanation.blocks for row in block.rows))
    console.say()
    console.say(_columns("", width + 2, list(COLUMNS)))
    for block in explanation.blocks:
        _say_wrapped(f"{_indices(block)}: {block.about}" if block.layers else block.name, "    ")
        own = [f"{key} = {size:,}" for key, size in block.dimensions.items() if key not in shared]
        if own:
            _say_wrapped("  " + ", ".join(own))
        _print_rows(block, width)
    if is_whole:
        console.say(_columns("= the model", width + 2, ["", *_numbers(explanation.cost)]))
    console.heading("where")
    _say_wrapped("  i and j are the positions of a query and of a key, y is what stands in the brackets")
    longest = max(len(word) for word in explanation.definitions)
    for word, meaning in explanation.definitions.items():
        _say_wrapped(f"  {word:<{longest}}  {meaning}", " " * (longest + 4))


def _print_rows(block: Block, width: int) -> None:
    for row in block.rows:
        text = f"  {row.text}"
        if len(row.text) > width:
            console.say(text)
            text = ""
        console.say(_columns(text, width + 2, [row.shape, *_numbers(row, row.is_known)]))
    if block.layers:
        console.say(_columns("  = one layer", width + 2, ["", *_numbers(block.cost)]))
    if block.times > 1:
        together = total_cost([(block.times, block.cost)])
        console.say(_columns(f"  = {block.times:,} layers", width + 2, ["", *_numbers(together)]))


def _legend(dimensions: dict[str, int]) -> str:
    """The letters of the shapes in the order of LETTERS; those with a prime are cross-attention's."""
    said = ["B batch", "T new tokens"]
    for key, size in sorted(dimensions.items(), key=lambda item: ([*LETTERS].index(item[0][0]), item[0])):
        meaning = LETTERS[key[0]] + (" of cross-attention" if key.endswith("'") else "")
        said.append(f"{key} = {size:,} {meaning}".replace(" ", _NO_BREAK))
    return ", ".join(said) + "; FLOPs and KV cache are per token"


def _indices(block: Block) -> str:
    """`layers 0-4, 6-10 (10 times)`; a regular pattern of single layers as `0, 2, ..., 24`."""
    singles = [first for first, last in block.layers if first == last]
    steps = {after - before for before, after in pairwise(singles)}
    if len(singles) == len(block.layers) > 3 and len(steps) == 1:
        text = f"{singles[0]}, {singles[1]}, ..., {singles[-1]}"
    else:
        text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in block.layers)
    return f"layer {text}" if block.times == 1 else f"layers {text} ({block.times:,} times)"


def _numbers(cost: Cost, is_known: bool = True) -> list[str]:
    values = [console.format_count(cost.parameters), console.format_count(cost.flops)]
    values += [console.format_bytes(cost.weight_bytes), console.format_bytes(cost.kv_bytes)]
    counts = (cost.parameters, cost.flops, cost.weight_bytes, cost.kv_bytes)
    nothing = "-" if is_known else "?"
    return [value if count else nothing for value, count in zip(values, counts, strict=True)]


def _columns(text: str, width: int, cells: list[str]) -> str:
    """A line of the listing: text and shape flush left, numbers flush right."""
    (shape, shape_width), *numbers = zip(cells, COLUMNS.values(), strict=True)
    aligned = [f"{text:<{width}}", f"{shape:<{shape_width}}", *(f"{cell:>{size}}" for cell, size in numbers)]
    return "  ".join(aligned).rstrip()


def _say_wrapped(text: str, indent: str = "  ") -> None:
    for line in textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False):
        console.say(line.replace(_NO_BREAK, " "))


def _whole_facts(config: TransformerConfig, explanation: Explanation, bandwidth: float) -> list[list[str]]:
    size, cost, context = console.format_bytes, explanation.cost, explanation.context
    at_least = "at least " if explanation.unknown else ""
    facts = [
        ["parameters", f"{at_least}{cost.parameters:,}"],
        ["weights", f"{at_least}{size(cost.weight_bytes)} in {explanation.dtype}"],
        ["operations", f"{at_least}{console.format_count(cost.flops)} FLOPs per token of a text of {context:,} tokens"],
    ]
    if not explanation.unknown:
        training = size(training_memory_bytes(config, 1, context, "bfloat16"))
        facts.append(["training", f"{training}: AdamW, products in bfloat16, one text of {context:,} tokens"])
    if explanation.memory_length:
        facts.append(["memory", "every call projects it to keys and values; counted here once for a text"])
    return [*facts, *_cache_facts(config, explanation, bandwidth)]


def _cache_facts(config: TransformerConfig, explanation: Explanation, bandwidth: float) -> list[list[str]]:
    size, cost, dtype = console.format_bytes, explanation.cost, explanation.dtype
    if not cost.kv_bytes:
        return [] if explanation.unknown else [["KV cache", "none: every token sees all, so a text is read at once"]]
    lengths = sorted({explanation.context, config.max_position_embeddings})
    needed = [kv_cache_bytes(config, length, dtype) for length in lengths]
    at = ", ".join(f"{size(some)} at {length:,} tokens" for length, some in zip(lengths, needed, strict=True))
    facts = [["KV cache", f"{size(cost.kv_bytes)} per token, {at}"]]
    if needed[-1] < cost.kv_bytes * lengths[-1]:
        kept = ", ".join(f"{size(cost.kv_bytes * length)} at {length:,} tokens" for length in lengths)
        facts += [["", "as far as the windows reach; the cache here keeps every token:"], ["", kept]]
    mixers = [layer.mixer for _, layer in config.stack]
    if config.has_head and all(mixer.is_causal for mixer in mixers if isinstance(mixer, AttentionConfig)):
        read = cost.read_bytes, cost.read_bytes + kv_cache_bytes(config, explanation.context, dtype)
        rates = [console.format_count(bandwidth * 1e9 / some) for some in read]
        before = f"{explanation.context:,} tokens before"
        facts.append(["to write a token", f"reads {size(read[0])} of weights; with {before} {size(read[1])}"])
        facts.append(["", f"at {bandwidth:g} GB/s at most {rates[0]} tokens/s; with {before} {rates[1]}"])
    return facts


def _print_variants(variants: Sequence[Variant], context: int) -> None:
    rows = []
    for variant in variants:
        name = VARIANTS[variant.name] + (f" {_list(variant.windows)}" if variant.name == "window" else "")
        kept = [variant.kv_bytes, variant.kv_bytes_at_context]
        rows.append(
            [
                name + (" *" if variant.is_own else ""),
                _list(variant.key_value_heads),
                *(console.format_bytes(some) if some else "-" for some in kept),
                console.format_count(variant.parameters),
                console.format_count(variant.flops),
            ]
        )
    columns = ["attention", "K", "KV/token", f"KV at {context:,}", "parameters", "FLOPs/token"]
    console.heading("This model's attention (*), and what it could be; only the last has a window")
    console.table(columns, rows)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
