"""Which block format each tensor of a quantised model gets: llama.cpp's mixes. Imports no torch.

The rules are those of llama.cpp's `llama-quant.cpp` without an importance matrix, for the mixes named here, so that
the same model becomes the same file there and here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from groundup.core.errors import ModelError, suggest
from groundup.model.ops.blocks import FORMATS


@dataclass(frozen=True)
class Mix:
    """A kind of file.

    Attributes:
        file_type: its number in `general.file_type`.
        format: of most matrices.
        more: of attention values and MLP outputs in the layers that get more bits; None where all are alike.
        few: `more` goes to the first layers only (the S mixes), not to those that `_gets_more` names.
    """

    file_type: int
    format: str
    more: str | None = None
    few: bool = False


#: Name of the mix -> what it is.
MIXES: dict[str, Mix] = {
    "F32": Mix(0, "F32"),
    "F16": Mix(1, "F16"),
    "BF16": Mix(32, "BF16"),
    "Q8_0": Mix(7, "Q8_0"),
    "Q6_K": Mix(18, "Q6_K"),
    "Q5_K_M": Mix(17, "Q5_K", more="Q6_K"),
    "Q5_K_S": Mix(16, "Q5_K"),
    "Q5_1": Mix(9, "Q5_1"),
    "Q5_0": Mix(8, "Q5_0"),
    "Q4_K_M": Mix(15, "Q4_K", more="Q6_K"),
    "Q4_K_S": Mix(14, "Q4_K", more="Q5_K", few=True),
    "Q4_1": Mix(3, "Q4_1"),
    "Q4_0": Mix(2, "Q4_0"),
}
# A row that is no multiple of 256 goes into blocks of 32 with about a bit more for each value.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_ALWAYS_F32 = re.compile(r".*(_norm\.weight|\.bias)|position_embd\.weight|token_types\.weight|rope_freqs\.weight")


def mix_named(name: str) -> Mix:
    """The mix of that name, in any case.

    Raises:
        ModelError: when there is none; the nearest name is suggested.
    """
    if name.upper() not in MIXES:
        raise ModelError(f"no GGUF type named {name!r}{suggest(name.upper(), tuple(MIXES))}")
    return MIXES[name.upper()]


def has_shared_values(architecture: str, num_layers: int, num_heads: int, num_key_value_heads: int) -> bool:
    """True for the models that llama.cpp takes for Llama 70B or Qwen 2 72B, and for them alone."""
    return num_layers == 80 and (
        architecture == "qwen2" or (architecture == "llama" and num_heads != num_key_value_heads)
    )


def tensor_format(
    mix: Mix,
    name: str,
    shape: tuple[int, ...],
    *,
    num_layers: int,
    has_output: bool,
    shares_values: bool = False,
) -> str:
    """The block format of one tensor.

    Args:
        mix: the kind of file.
        name: of the tensor in the file.
        shape: outermost dimension first.
        num_layers: of the model.
        has_output: the file has an output matrix of its own; otherwise the embedding is that too.
        shares_values: many query heads share each value head (see `has_shared_values`), so attention values are small and
            worth more bits.
    """
    if len(shape) < 2 or _ALWAYS_F32.fullmatch(name):
        return "F32"
    if mix.format in ("F32", "F16", "BF16"):
        return mix.format
    chosen, row = mix.format, shape[-1]
    layer = re.match(r"blk\.(\d+)\.", name)
    index = int(layer.group(1)) if layer else 0
    if name == "output.weight" or (name == "token_embd.weight" and not has_output):
        # Every token's score comes of this matrix, so it gets the best format there is.
        aligned = row % FORMATS[chosen].block_size == 0
        chosen = "Q8_0" if chosen == "Q8_0" or not aligned else "Q6_K"
    elif mix.more is not None and re.search(r"\.(attn_v|attn_qkv|ffn_down)\.weight$", name):
        first = 4 if mix.few and "ffn_down" not in name else num_layers // 8
        if index < first if mix.few else _gets_more(index, num_layers):
            chosen = mix.more
        if shares_values and name.endswith("attn_v.weight") and chosen == "Q4_K":
            chosen = "Q5_K"
    if row % FORMATS[chosen].block_size:
        chosen = _FALLBACK.get(chosen, chosen)
    return chosen if row % FORMATS[chosen].block_size == 0 else "F16"


def _gets_more(index: int, num_layers: int) -> bool:
    """The first and last eighth of the layers, and every third between: errors there cost most."""
    eighth = num_layers // 8
    return index < eighth or index >= 7 * num_layers // 8 or (index - eighth) % 3 == 2
