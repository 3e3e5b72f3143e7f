"""Tensor names of GGUF files beside ours, one table for each architecture, and what llama.cpp stores otherwise.

Tensors are of torch or of numpy; neither is imported.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from groundup.model.config import AttentionConfig, TransformerConfig
from groundup.model.weights.names import Entry, Slot, Table, both, slots_of

Array = TypeVar("Array", bound=Any)
_OURS, _BLOCK = "layers.#", "blk.#"


def _table(norms: dict[str, str], *, fused: bool = False) -> Table:
    """The names of an architecture.

    Args:
        norms: those of a layer, ours -> theirs.
        fused: query, key and value are one tensor.
    """
    heads = (
        both(f"{_BLOCK}.attn_qkv", *(f"{_OURS}.attn.{x}_proj" for x in "qkv"))
        if fused
        else tuple(entry for x in "qkv" for entry in both(f"{_BLOCK}.attn_{x}", f"{_OURS}.attn.{x}_proj"))
    )
    return Table(
        (
            Entry("token_embd.weight", ("embed.weight",)),
            Entry("position_embd.weight", ("embed_positions.weight",)),
            Entry("token_types.weight", ("embed_types.weight",)),
            *both("token_embd_norm", "embed_norm"),
            *heads,
            *both(f"{_BLOCK}.attn_output", f"{_OURS}.attn.o_proj"),
            *(Entry(f"{_BLOCK}.attn_{x}_norm.weight", (f"{_OURS}.attn.{x}_norm.weight",)) for x in "qk"),
            *(entry for x in ("gate", "up", "down") for entry in both(f"{_BLOCK}.ffn_{x}", f"{_OURS}.mlp.{x}_proj")),
            *(entry for own, theirs in norms.items() for entry in both(f"{_BLOCK}.{theirs}", f"{_OURS}.{own}")),
            *both("output_norm", "final_norm"),
            Entry("output.weight", ("head.weight",)),
        ),
        prefix="",
        # The scaling of the rotary embedding, which the config says too.
        ignored=r"rope_freqs\.weight",
    )


_PRE = {"attn_norm": "attn_norm", "mlp_norm": "ffn_norm"}
_POST = {"attn_norm": "post_attention_norm", "mlp_norm": "post_ffw_norm"}
_SANDWICH = {**_PRE, "attn_post_norm": "post_attention_norm", "mlp_post_norm": "post_ffw_norm"}

#: general.architecture -> names.
GGUF_TABLES: dict[str, Table] = {
    **{name: _table(_PRE) for name in ("llama", "qwen2", "qwen3", "smollm3")},
    **{name: _table(_SANDWICH) for name in ("gemma2", "gemma3")},
    "olmo2": _table(_POST),
    "gpt2": _table(_PRE, fused=True),
    "bert": _table({"attn_norm": "attn_output_norm", "mlp_norm": "layer_output_norm"}),
}


def gguf_slots(architecture: str, ours: list[str]) -> dict[str, Slot]:
    """Where each of our tensors is stored by an architecture.

    Raises:
        ModelError: when it has no place for one.
    """
    return slots_of(GGUF_TABLES[architecture], ours, f"GGUF's architecture {architecture!r}")


def from_gguf(architecture: str, name: str, tensor: Array, config: TransformerConfig) -> Array:
    """Our tensor `name` as llama.cpp stores it, turned into ours."""
    heads = _turned_heads(architecture, name, config)
    if heads:
        # There the two values of a rotary pair are neighbours; here they are half a head apart.
        turned: Array = tensor.reshape(heads, -1, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        return turned
    moved: Array = tensor - 1 if _has_offset(architecture, name) else tensor
    return moved


def to_gguf(architecture: str, name: str, tensor: Array, config: TransformerConfig) -> Array:
    """The inverse of `from_gguf`."""
    heads = _turned_heads(architecture, name, config)
    if heads:
        turned: Array = tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        return turned
    moved: Array = tensor + 1 if _has_offset(architecture, name) else tensor
    return moved


def _turned_heads(architecture: str, name: str, config: TransformerConfig) -> int:
    """Heads of a query or key projection whose rows llama.cpp reorders; 0 for every other tensor."""
    match = re.fullmatch(r"layers\.(\d+)\.attn\.([qk])_proj\.(weight|bias)", name)
    if architecture not in ("llama", "smollm3") or match is None:
        return 0
    mixer = config.layers()[int(match.group(1))].mixer
    assert isinstance(mixer, AttentionConfig)
    return mixer.num_attention_heads if match.group(2) == "q" else mixer.num_key_value_heads


def _has_offset(architecture: str, name: str) -> bool:
    """True for a norm whose weight llama.cpp stores with the one added."""
    return architecture in ("gemma2", "gemma3") and name.endswith("norm.weight")
