"""The kernels of a step by name, and what they and their callers agree on. Imports neither numba nor torch.

Their bodies, and what their arguments are, stand in `products_numba`, `rows_numba` and `attend_numba`.
"""

from __future__ import annotations

from groundup.core.jit import StepKernel
from groundup.model.ops.tiles import NAMES

_PRODUCTS, _ROWS, _ATTEND = (f"groundup.model.ops.{name}_numba" for name in ("products", "rows", "attend"))

# Products -------------------------------------------------------------------------------------------------------------

#: Rows of activations that stand side by side, number by number, so that one address reaches all of them.
GROUP = 8
quantize_rows = StepKernel(f"{_PRODUCTS}:quantize_rows")
group_rows = StepKernel(f"{_PRODUCTS}:group_rows")
multiply = StepKernel(f"{_PRODUCTS}:multiply")
#: Kind of tile -> its products for one, up to four and up to eight rows of a group.
PRODUCTS = [
    tuple(StepKernel(f"{_PRODUCTS}:product", kind, count) for count in (1, GROUP // 2, GROUP))
    for kind in range(len(NAMES))
]

# Rows -----------------------------------------------------------------------------------------------------------------

RMS_NORM, LAYER_NORM = range(2)
SILU, GELU_NEW, GELU, RELU, RELU2 = range(5)
#: Vectors of a row that one worker takes.
PART = 32
normalize = StepKernel(f"{_ROWS}:normalize")
cap = StepKernel(f"{_ROWS}:cap")
#: Name of an activation -> the kernel that applies it, times the other half of an MLP where that is gated.
ACTIVATES = {
    "silu": StepKernel(f"{_ROWS}:activate", SILU),
    "gelu_new": StepKernel(f"{_ROWS}:activate", GELU_NEW),
    "gelu": StepKernel(f"{_ROWS}:activate", GELU),
    "relu": StepKernel(f"{_ROWS}:activate", RELU),
    "relu2": StepKernel(f"{_ROWS}:activate", RELU2),
}

# Attention ------------------------------------------------------------------------------------------------------------

#: Numbers of the types of a cache, and the bytes of a value.
CACHE_TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
VALUE_BYTES = (4, 2, 1)
#: Keys that are read together, and that are merged into one result.
BLOCK, SEGMENT = 64, 512
#: Queries that meet a loaded key together.
TILE = 4
store = StepKernel(f"{_ATTEND}:store")
attend = StepKernel(f"{_ATTEND}:attend")
join = StepKernel(f"{_ATTEND}:join")


def record_bytes(size: int, shared: int, tokens: int) -> int:
    """Of what is known of the queries of a group: weighted values, largest score and sum of each.

    Args:
        size: values of a head.
        shared: query heads of a key-value head.
        tokens: most tokens of a group.
    """
    padded, rows = -(-size // 16) * 16, -(-tokens * shared // TILE) * TILE
    return 4 * (padded + 2) * rows


def scratch_bytes(size: int, shared: int, tokens: int) -> int:
    """What `attend` needs for each worker; the arguments are those of `record_bytes`."""
    padded, rows = -(-size // 16) * 16, -(-tokens * shared // TILE) * TILE
    blocks = 4 * (2 * BLOCK * padded + 2 * BLOCK * TILE) + 64
    return blocks + 4 * padded * rows + 2 * record_bytes(size, shared, tokens) + 64
