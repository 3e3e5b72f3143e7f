"""How far the next-token distributions of two models are apart on a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.inference.contracts import LanguageModel
from groundup.inference.tensors import as_tensors


@dataclass(frozen=True)
class Divergence:
    """Of a model from a reference, over the positions of a text.

    Attributes:
        positions: number of predictions.
        perplexity: of the model, e to the mean loss of the tokens that follow.
        reference_perplexity: of the reference.
        kl: mean Kullback-Leibler divergence of the model's distribution from the reference's, in nats.
        kl_99: that which one position in a hundred exceeds.
        top1: share of positions where both have the same likeliest token.
        largest: largest difference of two logits.
        margin: widest lead, in the reference's logits, of a likeliest token that the model does not share.
    """

    positions: int
    perplexity: float
    reference_perplexity: float
    kl: float
    kl_99: float
    top1: float
    largest: float
    margin: float


def divergence_of(
    reference: Float[Tensor, "N V"], logits: Float[Tensor, "N V"], following: Sequence[int] | None = None
) -> list[dict[str, float]]:
    """What `Divergence` averages, for each position.

    Args:
        reference, logits: of the same positions.
        following: the token after each position; without it losses are 0.
    """
    first, second = reference.double(), logits.double()
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    theirs, mine = first.argmax(-1), second.argmax(-1)
    rows = torch.arange(len(first))
    margin = first[rows, theirs] - first[rows, mine]
    largest = (first - second).abs().amax(-1)
    losses = torch.zeros(2, len(first))
    if following is not None:
        targets = torch.tensor(list(following))
        losses = -torch.stack([log_p[rows, targets], log_q[rows, targets]])
    return [
        {
            "kl": float(kl[i]),
            "same": float(theirs[i] == mine[i]),
            "margin": float(margin[i]),
            "largest": float(largest[i]),
            "reference_loss": float(losses[0, i]),
            "loss": float(losses[1, i]),
        }
        for i in range(len(first))
    ]


def summarize(positions: list[dict[str, float]]) -> Divergence:
    """The averages over positions."""
    count = len(positions)

    def mean(name: str) -> float:
        return sum(position[name] for position in positions) / count

    ordered = sorted(position["kl"] for position in positions)
    return Divergence(
        positions=count,
        perplexity=math.exp(mean("loss")),
        reference_perplexity=math.exp(mean("reference_loss")),
        kl=mean("kl"),
        kl_99=ordered[min(count - 1, math.ceil(0.99 * count) - 1)],
        top1=mean("same"),
        largest=max(position["largest"] for position in positions),
        margin=max(position["margin"] for position in positions),
    )


def measure_divergence(
    reference: LanguageModel,
    model: LanguageModel,
    ids: Sequence[int],
    *,
    window: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """Read a text with both models, in windows that do not overlap.

    Args:
        reference, model: of the same vocabulary; modules, or the compiled step.
        ids: the text.
        window: tokens read at once; at least 2.
        on_progress: called with (tokens read, all tokens).

    Raises:
        UsageError: for a text of less than two tokens, or models of different vocabularies.
    """
    if len(ids) < 2 or window < 2:
        raise UsageError(f"a text of {len(ids)} tokens in windows of {window} predicts nothing: at least 2 are needed")
    sizes = int(reference.config.vocab_size), int(model.config.vocab_size)
    if sizes[0] != sizes[1]:
        raise UsageError(f"the models know {sizes[0]} and {sizes[1]} tokens: they cannot be compared token by token")
    positions: list[dict[str, float]] = []
    both = [as_tensors(one) for one in (reference, model)]
    with torch.no_grad():
        for start in range(0, len(ids) - 1, window):
            if on_progress is not None:
                on_progress(start, len(ids))
            piece = list(ids[start : start + window])
            if len(piece) < 2:
                break
            read = torch.tensor([piece])
            pair = [one.logits(one(read)[:, :-1])[0].float() for one in both]
            positions += divergence_of(pair[0], pair[1], piece[1:])
    if on_progress is not None:
        on_progress(len(ids), len(ids))
    return summarize(positions)
