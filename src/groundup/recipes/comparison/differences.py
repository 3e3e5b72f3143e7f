"""What differs between the two sides besides what their files say, and what is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groundup.model.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DenseMLPConfig,
    FilePartConfig,
    GatedMLPConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    RMSNormConfig,
    RotaryConfig,
    TransformerConfig,
)
from groundup.model.transformer import build
from groundup.recipes.comparison.budget import Match, Side
from groundup.recipes.report.folder import flatten
from groundup.recipes.report.tables import plain

WRITTEN, DERIVED, FOLLOWS = "the files", "equal {match}", "follows"

_PARTS = (AttentionConfig, CrossAttentionConfig, DenseMLPConfig, FilePartConfig, GatedMLPConfig, LayerNormConfig,
          LearnedPositionsConfig, RMSNormConfig, RotaryConfig)  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    part.model_fields["kind"].default: {name: field.default for name, field in part.model_fields.items()}
    for part in _PARTS
}


@dataclass(frozen=True)
class Difference:
    """A value that is not the same on both sides.

    Attributes:
        name: dotted, `train.` for training, `model.` for the composition.
        a, b: the values in words.
        why: "the files" where a file says it, "equal ..." where the budget asks for it, "follows" where it follows
            from one of these (the dial's learning rate from a width, a preset's parts from its name).
    """

    name: str
    a: str
    b: str
    why: str


def differences_of(a: Side, b: Side, match: Match, derived: set[str]) -> list[Difference]:
    """Every setting in which the two sides differ.

    Args:
        derived: names that the budget changed, such as `train.num_steps`.
    """
    written = {name for side in (a, b) for name, _ in flatten(side.idea.raw)}
    written |= {name.replace("model.layer.", "model.stack.") for name in written}
    found = []
    for name, first, second in _unlike("", _everything(a), _everything(b)):
        if name in derived or (name.endswith(".intermediate_size") and "model.intermediate_size" in derived):
            why = DERIVED.format(match=match)
        elif _is_written(name, written):
            why = WRITTEN
        else:
            why = FOLLOWS
        found.append(Difference(name.replace("model.stack.", "model.layer."), _words(first), _words(second), why))
    return found


def _is_written(name: str, written: set[str]) -> bool:
    """True where a file names the value, the table that it stands in, or something in it."""
    return any(
        name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.") or _ends(name) == _ends(other)
        for other in written
    )


def _ends(name: str) -> str | None:
    """A model's sizes have one name in the settings and in the composition, at other places."""
    table, _, rest = name.partition(".")
    last = rest.rsplit(".", 1)[-1]
    sizes = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta")
    return f"{table}.{last}" if table == "model" and last in sizes else name


def _everything(side: Side) -> dict[str, Any]:
    return {
        "train": side.settings.pretrain.to_dict(),
        "model": {"preset": side.settings.model.preset, **composition_table(side.config)},
        "tokenizer": side.settings.tokenizer.to_dict(),
        "execution": side.settings.execution.to_dict(),
    }


def composition_table(config: TransformerConfig) -> dict[str, Any]:
    """A composition as nested values; equal layers stand once, under `stack`."""
    values = config.to_dict()
    stack = values.pop("stack")
    if len(stack) == 1:
        return {"num_hidden_layers": config.num_hidden_layers, "stack": stack[0][1], **values}
    return {"num_hidden_layers": config.num_hidden_layers, "stack": {str(i): e for i, e in enumerate(stack)}, **values}


def _unlike(prefix: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """The deepest places in which two values differ; parts of another kind differ as a whole."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("kind") == b.get("kind"):
        found = []
        for key in [*a, *(key for key in b if key not in a)]:
            found += _unlike(f"{prefix}.{key}" if prefix else key, a.get(key), b.get(key))
        return found
    return [] if a == b else [(prefix, a, b)]


def _words(value: Any) -> str:
    """A value as a person writes it; a part by its kind and by what is not that kind's default."""
    if not isinstance(value, dict) or value.get("kind") not in _DEFAULTS:
        return plain(value)
    kind, said = value["kind"], []
    for name, item in value.items():
        if name != "kind" and item != _DEFAULTS[kind].get(name):
            words = Path(item).name if kind == "file" and name == "path" else _words(item)
            said.append(words if words == name else f"{name} {words}")
    return f"{kind} ({', '.join(said)})" if said else str(kind)


def equalities_of(a: Side, b: Side, match: Match, same_tokenizer: bool, started: tuple[int, int]) -> list[str]:
    """What is the same, in sentences.

    Args:
        started: how many parameters start from the same values on both sides, and how many there are in a.
    """
    train_a, train_b = a.settings.pretrain, b.settings.pretrain
    said = ["the text and its split into training, validation and test"]
    if same_tokenizer:
        said.append("the tokenizer")
        if (train_a.context, train_a.batch_size, train_a.chat_share) == (
            train_b.context, train_b.batch_size, train_b.chat_share,
        ):  # fmt: skip
            said.append("the order of the data: run by run, both read the same windows in the same updates")
    same, total = started
    if same:
        said.append(f"starting values: {same:,} of {total:,} parameters of {a.idea.name} begin with the same values")
    if train_a.context == train_b.context:
        said.append(f"the window in which held-out text is read ({train_a.context} tokens)")
    if match == "parameters":
        said.append(f"the parameters ({a.sizes.parameters:,} and {b.sizes.parameters:,}) and the trained tokens")
    elif match == "tokens":
        said.append(f"the trained tokens ({a.steps * a.update_tokens:,} and {b.steps * b.update_tokens:,})")
    elif match == "flops":
        said.append(f"the operations of training ({a.work(match):.4g} and {b.work(match):.4g})")
    if a.settings.execution == b.settings.execution:
        said.append("precision, micro-batch, threads and device")
    return said


def equal_starts(a: Side, b: Side, seed: int, trust_code: bool) -> tuple[int, int]:
    """Parameters of equal name and value before the first update, and all parameters of a."""
    first, second = (dict(build(s.config, seed=seed, trust_code=trust_code).named_parameters()) for s in (a, b))
    same = sum(
        value.numel()
        for name, value in first.items()
        if name in second and second[name].shape == value.shape and torch.equal(second[name], value)
    )
    return same, sum(value.numel() for value in first.values())
