"""From the logits of one position to one token: the filters as pure functions, and the draw.

Semantics and order are those of Hugging Face's logits processors: repetition penalty, temperature, top-k, top-p,
min-p. A draw takes exactly one uniform number from the request's own generator, so a request's tokens depend on its
own seed and logits alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.core.seeds import seed_for
from groundup.inference.config import Sampling

__all__ = [
    "Sampling",
    "choose_token",
    "filter_logits",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalize_repetition",
    "sampling_generator",
    "scale_temperature",
]


def sampling_generator(seed: int) -> torch.Generator:
    """Make the random generator of one request (on the CPU, so that a seed means the same on every device)."""
    return torch.Generator().manual_seed(seed_for(seed, "sample"))


def penalize_repetition(
    logits: Float[Tensor, "*B V"], seen: Bool[Tensor, "*B V"], penalty: float
) -> Float[Tensor, "*B V"]:
    """Make tokens that occurred less likely: positive logits are divided by the penalty, negative multiplied.

    Args:
        logits: any real numbers.
        seen: True where the token stands in the prompt or was generated.
        penalty: 1 changes nothing; below 1 favours repetition.

    Source: Keskar et al. 2019 (CTRL), section 4.1, with the sign rule of Hugging Face.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def scale_temperature(logits: Float[Tensor, "*B V"], temperature: float) -> Float[Tensor, "*B V"]:
    """Divide the logits by a temperature above 0: below 1 sharpens the distribution, above 1 flattens it."""
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "*B V"], k: int) -> Float[Tensor, "*B V"]:
    """Set all but the `k` largest logits of each row to -inf (what ties with the k-th stays).

    Source: Fan et al. 2018, section 5.4.
    """
    smallest_kept = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def keep_top_p(logits: Float[Tensor, "*B V"], p: float) -> Float[Tensor, "*B V"]:
    """Keep the smallest set of likeliest tokens whose probability is at least `p`; at least one is kept.

    Source: Holtzman et al. 2020, section 3.1 (nucleus sampling).
    """
    # Ascending, as in Hugging Face: a token goes when it and all less likely ones hold at most 1 - p together.
    values, order = logits.sort(dim=-1)
    removed = values.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    removed[..., -1] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), float("-inf"))


def keep_min_p(logits: Float[Tensor, "*B V"], p: float) -> Float[Tensor, "*B V"]:
    """Keep the tokens that are at least `p` times as likely as the likeliest.

    Source: Nguyen et al. 2024 (min-p sampling), section 3.
    """
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), float("-inf"))


def filter_logits(
    logits: Float[Tensor, "*B V"], sampling: Sampling, seen: Bool[Tensor, "*B V"]
) -> Float[Tensor, "*B V"]:
    """Apply the request's filters in Hugging Face's order; at temperature 0 only the repetition penalty.

    The rows may be shifted by a constant, which no softmax sees.
    """
    if sampling.repetition_penalty != 1:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits
    # With the maximum at 0 a tiny temperature drives the others to -inf instead of all to inf.
    logits = scale_temperature(logits - logits.amax(dim=-1, keepdim=True), sampling.temperature)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def choose_token(
    logits: Float[Tensor, " V"], sampling: Sampling, seen: Bool[Tensor, " V"], generator: torch.Generator
) -> int:
    """Choose the next token from the model's logits.

    Args:
        logits: of one position, unmodified.
        sampling: the request's settings; temperature 0 takes the largest logit (the lowest id among equals).
        seen: tokens that occurred, for the repetition penalty.
        generator: the request's own; one uniform number is taken unless the temperature is 0.
    """
    if sampling.temperature == 0:
        # numpy takes the first of equals, as torch does, on one thread (see `log_probability`).
        return int(filter_logits(logits, sampling, seen).cpu().numpy().argmax())
    # float64: the sum over a large vocabulary must not leave a gap at the end of the unit interval.
    probs = filter_logits(logits.double().cpu(), sampling, seen.cpu()).softmax(dim=-1)
    cumulative = probs.cumsum(dim=-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    # The first token whose cumulative probability exceeds the drawn number: one of probability 0 never is.
    index = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return min(index, int(probs.nonzero()[-1]))
