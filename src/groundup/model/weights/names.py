"""Tensor names of Hugging Face's families beside ours; `#` stands for the number of the layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs.

    Attributes:
        theirs: its name.
        ours: our tensor, or the several that are fused in it (in equal parts, outputs one after the other).
        transposed: theirs is (in, out), as GPT-2's Conv1D stores it.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Table:
    """The names of one family.

    Attributes:
        entries: all tensors, those of a layer once.
        prefix: what published files sometimes leave out of the names.
        ignored: pattern of tensors that hold nothing learned (masks, tables of wavelengths).
    """

    entries: tuple[Entry, ...]
    prefix: str
    ignored: str = r"$^"


def _both(theirs: str, *ours: str, transposed: bool = False) -> tuple[Entry, Entry]:
    """Weight and bias of one linear map."""
    return (
        Entry(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), transposed),
        Entry(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours)),
    )


_OURS, _LLAMA, _GPT2 = "layers.#", "model.layers.#", "transformer.h.#"

LLAMA = Table(
    (
        Entry("model.embed_tokens.weight", ("embed.weight",)),
        *_both(f"{_LLAMA}.self_attn.q_proj", f"{_OURS}.attn.q_proj"),
        *_both(f"{_LLAMA}.self_attn.k_proj", f"{_OURS}.attn.k_proj"),
        *_both(f"{_LLAMA}.self_attn.v_proj", f"{_OURS}.attn.v_proj"),
        *_both(f"{_LLAMA}.self_attn.o_proj", f"{_OURS}.attn.o_proj"),
        Entry(f"{_LLAMA}.self_attn.q_norm.weight", (f"{_OURS}.attn.q_norm.weight",)),
        Entry(f"{_LLAMA}.self_attn.k_norm.weight", (f"{_OURS}.attn.k_norm.weight",)),
        *_both(f"{_LLAMA}.mlp.gate_proj", f"{_OURS}.mlp.gate_proj"),
        *_both(f"{_LLAMA}.mlp.up_proj", f"{_OURS}.mlp.up_proj"),
        *_both(f"{_LLAMA}.mlp.down_proj", f"{_OURS}.mlp.down_proj"),
        Entry(f"{_LLAMA}.input_layernorm.weight", (f"{_OURS}.attn_norm.weight",)),
        Entry(f"{_LLAMA}.post_attention_layernorm.weight", (f"{_OURS}.mlp_norm.weight",)),
        Entry("model.norm.weight", ("final_norm.weight",)),
        Entry("lm_head.weight", ("head.weight",)),
    ),
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
)

GPT2 = Table(
    (
        Entry("transformer.wte.weight", ("embed.weight",)),
        Entry("transformer.wpe.weight", ("embed_positions.weight",)),
        *_both(f"{_GPT2}.ln_1", f"{_OURS}.attn_norm"),
        *_both(f"{_GPT2}.attn.c_attn", *(f"{_OURS}.attn.{x}_proj" for x in "qkv"), transposed=True),
        *_both(f"{_GPT2}.attn.c_proj", f"{_OURS}.attn.o_proj", transposed=True),
        *_both(f"{_GPT2}.ln_2", f"{_OURS}.mlp_norm"),
        *_both(f"{_GPT2}.mlp.c_fc", f"{_OURS}.mlp.up_proj", transposed=True),
        *_both(f"{_GPT2}.mlp.c_proj", f"{_OURS}.mlp.down_proj", transposed=True),
        *_both("transformer.ln_f", "final_norm"),
        Entry("lm_head.weight", ("head.weight",)),
    ),
    prefix="transformer.",
    ignored=r".*\.attn\.(bias|masked_bias)",
)

#: model_type -> names; a type that is not here stores our names.
TABLES: dict[str, Table] = {"llama": LLAMA, "qwen3": LLAMA, "gpt2": GPT2}


@dataclass(frozen=True)
class Slot:
    """Where one of our tensors lies: part `part` of `parts` of their tensor `theirs`."""

    theirs: str
    part: int
    parts: int
    transposed: bool

    def take(self, stored: Tensor) -> Tensor:
        """Our tensor out of theirs."""
        whole = stored.t() if self.transposed else stored
        return whole if self.parts == 1 else whole.chunk(self.parts)[self.part]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of their tensor when ours has `shape`."""
        whole = (shape[0] * self.parts, *shape[1:])
        return whole[::-1] if self.transposed else whole


def slots(model_type: str, ours: Iterable[str]) -> dict[str, Slot]:
    """Where each of our tensor names is stored by a model of this type."""
    if model_type not in TABLES:
        return {name: Slot(name, 0, 1, False) for name in ours}
    by_pattern = {
        name: Slot(entry.theirs, part, len(entry.ours), entry.transposed)
        for entry in TABLES[model_type].entries
        for part, name in enumerate(entry.ours)
    }
    found = {}
    for name in ours:
        layer = re.match(r"layers\.(\d+)\.", name)
        number = layer.group(1) if layer else ""
        slot = by_pattern[re.sub(r"^layers\.\d+\.", "layers.#.", name)]
        found[name] = Slot(slot.theirs.replace("#", number), slot.part, slot.parts, slot.transposed)
    return found


def to_stored(model_type: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names, fused and transposed as they store them."""
    groups: dict[str, list[tuple[Slot, Tensor]]] = {}
    for name, slot in slots(model_type, state).items():
        groups.setdefault(slot.theirs, []).append((slot, state[name]))
    stored = {}
    for theirs, members in groups.items():
        tensors = [tensor for _, tensor in sorted(members, key=lambda member: member[0].part)]
        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        stored[theirs] = (whole.t() if members[0][0].transposed else whole).contiguous()
    return stored
