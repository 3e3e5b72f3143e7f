"""Tensor names of Hugging Face's families beside ours; `#` stands for the number of the layer. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from groundup.core.errors import ModelError
from groundup.model.weights.safetensors_read import some_of

Array = TypeVar("Array", bound=Any)


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
        ignored: pattern of tensors that are not needed (masks, tables of wavelengths, other heads).
        older: patterns in the names of old files, and what stands there now.
    """

    entries: tuple[Entry, ...]
    prefix: str
    ignored: str = r"$^"
    older: tuple[tuple[str, str], ...] = ()


def both(theirs: str, *ours: str, transposed: bool = False) -> tuple[Entry, Entry]:
    """Weight and bias of one linear map."""
    return (
        Entry(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), transposed),
        Entry(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours)),
    )


_OURS, _LLAMA, _GPT2, _BERT = "layers.#", "model.layers.#", "transformer.h.#", "encoder.layer.#"


def _llama_like(**norms: str) -> Table:
    """The names of the decoders that follow Llama; `norms` are those of a layer, ours -> theirs."""
    linear = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
    ours = {"self_attn": "attn", "mlp": "mlp"}
    return Table(
        (
            Entry("model.embed_tokens.weight", ("embed.weight",)),
            *(
                entry
                for part, names in linear.items()
                for name in names
                for entry in both(f"{_LLAMA}.{part}.{name}", f"{_OURS}.{ours[part]}.{name}")
            ),
            *(Entry(f"{_LLAMA}.self_attn.{x}_norm.weight", (f"{_OURS}.attn.{x}_norm.weight",)) for x in "qk"),
            *(Entry(f"{_LLAMA}.{theirs}.weight", (f"{_OURS}.{own}.weight",)) for own, theirs in norms.items()),
            Entry("model.norm.weight", ("final_norm.weight",)),
            Entry("lm_head.weight", ("head.weight",)),
        ),
        prefix="model.",
        ignored=r".*rotary_emb\.inv_freq",
    )


LLAMA = _llama_like(attn_norm="input_layernorm", mlp_norm="post_attention_layernorm")
OLMO2 = _llama_like(attn_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm")
GEMMA = _llama_like(
    attn_norm="input_layernorm",
    attn_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)

GPT2 = Table(
    (
        Entry("transformer.wte.weight", ("embed.weight",)),
        Entry("transformer.wpe.weight", ("embed_positions.weight",)),
        *both(f"{_GPT2}.ln_1", f"{_OURS}.attn_norm"),
        *both(f"{_GPT2}.attn.c_attn", *(f"{_OURS}.attn.{x}_proj" for x in "qkv"), transposed=True),
        *both(f"{_GPT2}.attn.c_proj", f"{_OURS}.attn.o_proj", transposed=True),
        *both(f"{_GPT2}.ln_2", f"{_OURS}.mlp_norm"),
        *both(f"{_GPT2}.mlp.c_fc", f"{_OURS}.mlp.up_proj", transposed=True),
        *both(f"{_GPT2}.mlp.c_proj", f"{_OURS}.mlp.down_proj", transposed=True),
        *both("transformer.ln_f", "final_norm"),
        Entry("lm_head.weight", ("head.weight",)),
    ),
    prefix="transformer.",
    ignored=r".*\.attn\.(bias|masked_bias)",
)

BERT = Table(
    (
        Entry("embeddings.word_embeddings.weight", ("embed.weight",)),
        Entry("embeddings.position_embeddings.weight", ("embed_positions.weight",)),
        Entry("embeddings.token_type_embeddings.weight", ("embed_types.weight",)),
        *both("embeddings.LayerNorm", "embed_norm"),
        *both(f"{_BERT}.attention.self.query", f"{_OURS}.attn.q_proj"),
        *both(f"{_BERT}.attention.self.key", f"{_OURS}.attn.k_proj"),
        *both(f"{_BERT}.attention.self.value", f"{_OURS}.attn.v_proj"),
        *both(f"{_BERT}.attention.output.dense", f"{_OURS}.attn.o_proj"),
        *both(f"{_BERT}.attention.output.LayerNorm", f"{_OURS}.attn_norm"),
        *both(f"{_BERT}.intermediate.dense", f"{_OURS}.mlp.up_proj"),
        *both(f"{_BERT}.output.dense", f"{_OURS}.mlp.down_proj"),
        *both(f"{_BERT}.output.LayerNorm", f"{_OURS}.mlp_norm"),
    ),
    prefix="",
    # The pooler was trained to tell whether two sentences follow each other; sentence encoders do not use it.
    # The other heads are those of the pretraining.
    ignored=r"pooler\..*|embeddings\.position_ids|cls\..*",
    older=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)

#: model_type -> names; a type that is not here stores our names.
TABLES: dict[str, Table] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA),
    "olmo2": OLMO2,
    "gpt2": GPT2,
    "bert": BERT,
}


@dataclass(frozen=True)
class Slot:
    """Where one of our tensors lies: part `part` of `parts` of their tensor `theirs`."""

    theirs: str
    part: int
    parts: int
    transposed: bool

    def take(self, stored: Array) -> Array:
        """Our tensor out of theirs, without a copy; of torch or numpy."""
        whole = stored.T if self.transposed else stored
        size = len(whole) // self.parts
        part: Array = whole[self.part * size : (self.part + 1) * size] if self.parts > 1 else whole
        return part

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of their tensor when ours has `shape`."""
        whole = (shape[0] * self.parts, *shape[1:])
        return whole[::-1] if self.transposed else whole


def slots(model_type: str, ours: Iterable[str]) -> dict[str, Slot]:
    """Where each of our tensor names is stored by a model of this type."""
    if model_type not in TABLES:
        return {name: Slot(name, 0, 1, False) for name in ours}
    return slots_of(TABLES[model_type], ours, f"the name table of {model_type!r} (model/weights/names.py)")


def slots_of(table: Table, ours: Iterable[str], where: str) -> dict[str, Slot]:
    """Where each of our tensor names is stored under a table's names.

    Raises:
        ModelError: for a name that has no place.
    """
    by_pattern = {
        name: Slot(entry.theirs, part, len(entry.ours), entry.transposed)
        for entry in table.entries
        for part, name in enumerate(entry.ours)
    }
    found = {}
    for name in ours:
        layer = re.match(r"layers\.(\d+)\.", name)
        number = layer.group(1) if layer else ""
        slot = by_pattern.get(re.sub(r"^layers\.\d+\.", "layers.#.", name))
        if slot is None:
            raise ModelError(f"{where} has no place for our tensor {name}")
        found[name] = Slot(slot.theirs.replace("#", number), slot.part, slot.parts, slot.transposed)
    return found


def check_tensors(
    source: str,
    described_by: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    ignored: str,
    foreign: Sequence[str] = (),
) -> None:
    """Compare the tensors that a file has with those that its description asks for.

    Args:
        source: the file or folder, for the message.
        described_by: what says how the model is made (`the config.json`).
        found: shape of each tensor there is.
        expected: shape of each tensor there should be.
        ignored: pattern of tensors that may be there too.
        foreign: what else does not fit: tensors that hold another kind of number.

    Raises:
        ModelError: naming what is missing, unexpected and of another shape, all at once.
    """
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(name for name in set(found) - set(expected) if not re.fullmatch(ignored, name))
    misshapen = [
        f"{name} has shape {list(found[name])}, {described_by} makes it {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    problems = (
        (missing, f"of {len(expected)} tensors are missing"),
        (unexpected, "are unexpected"),
        (misshapen, "have another shape"),
        (foreign, "hold another kind of number"),
    )
    told = [f"{len(names)} {what} ({some_of(names)})" for names, what in problems if names]
    if told:
        raise ModelError(f"{source} does not fit {described_by.replace('the ', 'its ', 1)}: {' and '.join(told)}")
