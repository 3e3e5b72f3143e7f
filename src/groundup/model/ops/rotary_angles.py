"""The angles of rotary embeddings (arXiv:2104.09864) and the scalings for longer texts; for torch and numpy alike.

`xp` is the library: its arrays go in and come out, and only what both spell alike (the array API standard) is called.
torch computes in float32, as the models were trained; numpy in float64, rounded once, so that the two differ in the
last bit at most. Imports no torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.model.config import DynamicScaling, LinearScaling, Llama3Scaling, RotaryConfig, YarnScaling


def rotary_frequencies(rotary_dim: int, rope_theta: Any, xp: Any = np) -> Any:
    """Angle per position of each pair i < d/2: theta^(-2i/d).

    Args:
        rotary_dim: turned values of a head (d), even.
        rope_theta: base of the wavelengths; an array of shape (rows, 1) gives a row of frequencies for each of them.
        xp: numpy or torch.

    Returns:
        an array of shape (d/2,) or (rows, d/2).
    """
    device = None if isinstance(rope_theta, int | float) else rope_theta.device
    exponents = xp.arange(0, rotary_dim, 2, dtype=_float(xp), device=device) / rotary_dim
    return 1.0 / rope_theta**exponents


def scaled_frequencies(rotary: RotaryConfig, rotary_dim: int, lengths: Any, xp: Any = np) -> tuple[Any, float]:
    """The frequencies under the config's scaling, and the factor of cosine and sine.

    Args:
        rotary: base and scaling.
        rotary_dim: turned values of a head.
        lengths: (B or 1, T or 1), of the text that each token belongs to, on which dynamic scaling depends.
        xp: numpy or torch.

    Returns:
        an array of shape (B or 1, T or 1, rotary_dim / 2), and the factor.
    """
    scaling, theta = rotary.scaling, rotary.rope_theta
    if isinstance(scaling, DynamicScaling):
        trained = scaling.original_max_position_embeddings
        longer = xp.asarray(xp.clip(lengths, trained, None), dtype=_float(xp))
        growth = scaling.factor * longer / trained - (scaling.factor - 1)
        return rotary_frequencies(rotary_dim, theta * growth[..., None] ** (rotary_dim / (rotary_dim - 2)), xp), 1.0
    plain = xp.asarray(rotary_frequencies(rotary_dim, theta, xp)[None, None], device=lengths.device)
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor, 1.0
    if isinstance(scaling, YarnScaling):
        return _yarn(scaling, plain, theta, rotary_dim, xp), yarn_attention_factor(scaling)
    if isinstance(scaling, Llama3Scaling):
        return _llama3(scaling, plain, xp), 1.0
    return plain, 1.0


def yarn_attention_factor(scaling: YarnScaling) -> float:
    """What queries and keys are multiplied by (arXiv:2309.00071, eq. 22): longer texts need sharper attention."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0


def rotary_angles(positions: Any, head_dim: int, rotary: RotaryConfig, lengths: Any, xp: Any) -> tuple[Any, float]:
    """position * frequency, for each turned pair of a head, in float32 whatever the dtype of the model.

    In bfloat16 positions above 256 would coincide.

    Args:
        positions: (B, T) in float32.
        head_dim: size of a head, of which `partial_rotary_factor` is turned.
        rotary: base of the wavelengths and scaling.
        lengths: (B or 1, T or 1), of the text that each token belongs to.
        xp: numpy or torch.

    Returns:
        angles of shape (B, T, half), and what cosine and sine are multiplied by.
    """
    frequencies, factor = scaled_frequencies(rotary, rotary.rotary_dim(head_dim), lengths, xp)
    return positions[..., None] * xp.asarray(frequencies, dtype=xp.float32), factor


def rotary_tables_numpy(
    positions: NDArray[np.int64], head_dim: int, rotary: RotaryConfig, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`groundup.model.ops.rotary.rotary_tables` of one text, in numpy.

    Args:
        positions: (T,).
        head_dim, rotary: as there.
        lengths: (T,), of the text that each token belongs to.

    Returns:
        cosine and sine, each of shape (T, half).
    """
    angles, factor = rotary_angles(positions[None].astype(np.float32), head_dim, rotary, lengths[None], np)
    wide = angles[0].astype(np.float64)  # rounded once: numpy's sine in float32 is off in the last bit more often
    return (np.cos(wide) * factor).astype(np.float32), (np.sin(wide) * factor).astype(np.float32)


def _float(xp: Any) -> Any:
    return np.float64 if xp is np else xp.float32


def _yarn(scaling: YarnScaling, plain: Any, theta: float, rotary_dim: int, xp: Any) -> Any:
    def pair_with(turns: float) -> float:
        # The pair (as a real number) that makes so many turns within the trained length.
        wavelengths = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rotary_dim * math.log(wavelengths) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    # The small distance keeps a ramp of no length from dividing by zero.
    span = high - low if high != low else 0.001
    pairs = xp.arange(rotary_dim // 2, dtype=_float(xp), device=plain.device)
    interpolated = xp.clip((pairs - low) / span, 0, 1)
    return plain / scaling.factor * interpolated + plain * (1 - interpolated)


def _llama3(scaling: Llama3Scaling, plain: Any, xp: Any) -> Any:
    trained = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = (trained / wavelengths - low) / (high - low)  # 0 at the long end of the ramp, 1 at the short one
    between = (1 - kept) * plain / scaling.factor + kept * plain
    result = xp.where(wavelengths > trained / low, plain / scaling.factor, between)
    return xp.where(wavelengths < trained / high, plain, result)
